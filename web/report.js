// @ts-check
/** What a node reports when it has run (a plan, a LoRA's matches) appears as text on the node. */
import { element } from "./timeline/elements.js";
import { after } from "./widgets.js";

const NAME = "report";
const SHOWN = ["report", "prompt"];

/** The lines to show for a node's output, or null if it reports nothing. @param {unknown} output what the host sent
 * when the node was executed @returns {string | null} */
export function reportOf(output) {
  const text = /** @type {{ text?: unknown }} */ (output ?? {}).text;
  const lines = Array.isArray(text) ? text.filter((line) => typeof line === "string") : [];
  return lines.length ? lines.join("\n") : null;
}

/** Give a node of this pack that has a report or a prompt as output a read-only text below its widgets. @param {any}
 * node */
export function showReports(node) {
  const reports = node.outputs?.some((/** @type {{ name: string }} */ o) => SHOWN.includes(o.name));
  if (!reports) return;
  const place = element("div", { style: "white-space:pre-wrap;overflow:auto;font-size:12px;line-height:1.4;opacity:0.85" });
  const widget = node.addDOMWidget(NAME, NAME, place, {
    serialize: false,
    getValue: () => place.textContent,
    setValue: () => {},
    getMinHeight: () => (place.textContent ? 84 : 0),
  });
  // Text of one run is no setting: neither workflow files nor prompts hold it.
  widget.serialize = false;

  after(node, "onExecuted", (output) => {
    const report = reportOf(output);
    if (report === null) return;
    place.textContent = report;
    node.setDirtyCanvas?.(true, true);
  });
}
