// @ts-check
/** A text that a node has written can be put into a box of the node, changed there and used in its place. */

const BOX = "edited";
const BUTTON = "edit the written text";

/** Give a node with a box for an edited text a button that fills it with what the node wrote last. @param {any} node */
export function editResults(node) {
  const box = node.widgets?.find((/** @type {any} */ one) => one.name === BOX);
  if (!box) return;
  let written = "";
  const before = node.onExecuted;
  node.onExecuted = function (/** @type {any} */ output) {
    before?.call(this, output);
    written = output?.prompt?.[0] ?? written;
  };
  const button = node.addWidget("button", BUTTON, null, () => {
    box.value = written || box.value;
    node.setDirtyCanvas?.(true, true);
  });
  // A button has no value for workflow files.
  button.serialize = false;
  button.options = { ...button.options, serialize: false };
}
