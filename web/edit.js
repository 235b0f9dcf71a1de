// @ts-check
/** A text that a node has written can be put into a box of the node, changed there and used in its place. */
import { after, widgetOf } from "./widgets.js";

const BOX = "edited";
const BUTTON = "edit the written text";

/** Give a node with a box for an edited text a button that fills it with what the node wrote last. @param {any} node */
export function editResults(node) {
  const box = widgetOf(node, BOX);
  if (!box) return;
  let written = "";
  after(node, "onExecuted", (output) => (written = output?.prompt?.[0] ?? written));
  const button = node.addWidget("button", BUTTON, null, () => {
    box.value = written || box.value;
    node.setDirtyCanvas?.(true, true);
  });
  // A button has no value for workflow files.
  button.serialize = false;
  button.options = { ...button.options, serialize: false };
}
