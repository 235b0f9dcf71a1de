// @ts-check
/** What this pack changes of its widgets on the page: labels of text boxes, and settings without effect. */

const SCHEDULE = "schedule";
const STEPS = "steps";
const WITH_STEPS = "LTX-2 scheduler";
const LABELS = { positive: "Prompt", negative: "Negative prompt: what to avoid", prompts: "Prompts by time" };

/**
 * Name the text boxes of a node: ComfyUI draws them without a name.
 * @param {any} node
 */
export function labelTextBoxes(node) {
  for (const widget of node.widgets ?? []) {
    const label = LABELS[/** @type {keyof typeof LABELS} */ (widget.name)];
    const box = widget.inputEl ?? widget.element;
    if (!label || !(box instanceof HTMLTextAreaElement)) continue;
    // A background needs no element of its own, which some versions of the page would lay over the text.
    box.style.backgroundImage = `url("data:image/svg+xml,${encodeURIComponent(drawn(label))}")`;
    box.style.backgroundRepeat = "no-repeat";
    box.style.backgroundPosition = "6px 4px";
    box.style.backgroundAttachment = "local";
    box.style.paddingTop = "20px";
    box.setAttribute("aria-label", label);
  }
}

/**
 * Grey the number of steps while a schedule with a fixed list of steps is chosen.
 * @param {any} node
 */
export function greySteps(node) {
  const find = (/** @type {string} */ name) =>
    node.widgets?.find((/** @type {any} */ widget) => widget.name === name);
  const schedule = find(SCHEDULE), steps = find(STEPS);
  if (!schedule || !steps) return;
  const update = () => {
    steps.disabled = schedule.value !== WITH_STEPS;
    // Pages that draw nodes as HTML read this flag.
    steps.options = { ...steps.options, disabled: steps.disabled };
    node.setDirtyCanvas?.(true, true);
  };
  const changed = schedule.callback;
  schedule.callback = function (/** @type {unknown[]} */ ...values) {
    const result = changed?.apply(this, values);
    update();
    return result;
  };
  // A workflow that is opened sets values after the node was made.
  const configured = node.onConfigure;
  node.onConfigure = function (/** @type {unknown[]} */ ...values) {
    const result = configured?.apply(this, values);
    update();
    return result;
  };
  update();
}

/**
 * A line of small grey text as SVG.
 * @param {string} text
 * @returns {string}
 */
function drawn(text) {
  return `<svg xmlns="http://www.w3.org/2000/svg" width="300" height="14"><text y="10" font-family="sans-serif"
 font-size="10" fill="#8f99a6">${text}</text></svg>`;
}
