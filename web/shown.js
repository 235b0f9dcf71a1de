// @ts-check
/** A place below the widgets of a node for what it reports of a run. */
import { element } from "./timeline/elements.js";
import { after } from "./widgets.js";

/** Make the place once a run has reported something, since most nodes never do. @param {any} node @param {string} key of
 * the report @param {number} height @param {(reported: any[]) => (Node | string)[]} drawn what is shown of a report */
export function shownBelow(node, key, height, drawn) {
  /** @type {any} */
  let place;
  after(node, "onExecuted", (output) => {
    const reported = output?.[key];
    if (!Array.isArray(reported) || !reported.length) return;
    if (!place) {
      place = element("div", { style: "font-size:12px;overflow:hidden;color:var(--input-text, #ddd)" });
      const options = { serialize: false, getValue: () => "", setValue: () => {}, getMinHeight: () => height };
      // What one run reports is no setting.
      node.addDOMWidget(key, key, place, options).serialize = false;
      const [wide, high] = node.size;
      node.setSize?.([wide, Math.max(high, node.computeSize?.()[1] ?? 0)]);
    }
    place.replaceChildren(...drawn(reported));
    node.setDirtyCanvas?.(true, true);
  });
}
