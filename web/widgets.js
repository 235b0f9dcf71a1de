// @ts-check
/** What this pack changes of its widgets on the page: labels of text boxes, and settings without effect. */

const SCHEDULE = "schedule";
const WITH_STEPS = "LTX-2 scheduler";
const AS_ABOVE = "as above";
const BY_MODEL = "by the model";
const WITH_LORA = "LTX2AVLoadLora";
const BY_KIND = "distilled_strength";
const GREY = "#8f99a6";
const LABELS = { positive: "Prompt", negative: "Negative prompt: what to avoid", prompts: "Prompts by time" };

/** Name the text boxes of a node: ComfyUI draws them without a name. @param {any} node */
export function labelTextBoxes(node) {
  for (const widget of node.widgets ?? []) {
    const english = LABELS[/** @type {keyof typeof LABELS} */ (widget.name)];
    // The page sets a label where its language has one for this widget.
    const label = english && widget.label && widget.label !== widget.name ? widget.label : english;
    const box = widget.inputEl ?? widget.element;
    if (!label || !(box instanceof HTMLTextAreaElement)) continue;
    // No element of its own, which some pages would lay over the text.
    const colour = getComputedStyle(document.documentElement).getPropertyValue("--input-text").trim();
    box.style.backgroundImage = `url("data:image/svg+xml,${encodeURIComponent(drawn(label, colour || GREY))}")`;
    box.style.backgroundRepeat = "no-repeat";
    box.style.backgroundPosition = "6px 4px";
    box.style.backgroundAttachment = "local";
    box.style.paddingTop = "20px";
    box.setAttribute("aria-label", label);
  }
}

/** Which widgets have no effect now, by name. @param {(name: string) => any} value of a widget @param {(name: string)
 * => boolean} linked whether an input has a link @returns {Record<string, boolean>} */
export function withoutEffect(value, linked) {
  const preset = value("preset") !== undefined && value("preset") !== AS_ABOVE;
  const schedule = linked("sigmas") || preset;
  return {
    [SCHEDULE]: schedule,
    steps: schedule || value(SCHEDULE) !== WITH_STEPS,
    cfg: preset,
    audio_cfg: preset,
    sampler: preset,
    width: linked("image"),
    height: linked("image"),
    megapixels: !linked("image"),
    strength: value(BY_KIND) === BY_MODEL && /distilled/i.test(value("lora")),
  };
}

const GREYED = ["LTX2AVSampleStage", "LTX2AVLongVideo", "LTX2AVClipPlan", WITH_LORA];

/** Grey the widgets that have no effect: steps of a fixed schedule, a size or strength decided elsewhere. @param
 * {any} node */
export function greyWithoutEffect(node) {
  if (!GREYED.includes(node.comfyClass)) return;
  const widget = (/** @type {string} */ name) => widgetOf(node, name);
  const update = () => {
    const linked = (/** @type {string} */ name) =>
      node.inputs?.some((/** @type {any} */ one) => one.name === name && one.link != null) ?? false;
    for (const [name, disabled] of Object.entries(withoutEffect((one) => widget(one)?.value, linked))) {
      const found = widget(name);
      if (!found) continue;
      found.disabled = disabled;
      // Pages that draw nodes as HTML read this flag.
      found.options = { ...found.options, disabled };
    }
    node.setDirtyCanvas?.(true, true);
  };
  for (const name of [SCHEDULE, "preset", "lora", BY_KIND]) if (widget(name)) after(widget(name), "callback", update);
  // A workflow that is opened sets values and links after the node was made.
  after(node, "onConfigure", update);
  after(node, "onConnectionsChange", update);
  update();
}

/** Let the strength of a LoRA count in a workflow that was saved before it could be left to the model. @param {any}
 * node */
export function countSavedStrength(node) {
  const index = node.widgets?.findIndex((/** @type {any} */ one) => one.name === BY_KIND) ?? -1;
  if (index < 0) return;
  after(node, "onConfigure", (/** @type {any} */ saved) => {
    const values = saved?.widgets_values;
    if (Array.isArray(values) && values.length <= index) node.widgets[index].value = AS_ABOVE;
  });
}

/** Let the strength of a LoRA count in files in API format that were saved before it could be left to the model. The
 * page gives inputs that such a file lacks the default of a new node. @param {any} app the page */
export function countStrengthOfApiFiles(app) {
  const load = app.loadApiJson;
  app.loadApiJson = function (/** @type {Record<string, any>} */ prompt, /** @type {unknown[]} */ ...rest) {
    return load.call(this, withStatedStrength(prompt), ...rest);
  };
}

/** A graph in API format whose LoRAs that state nothing else have the strength in their widget. @param
 * {Record<string, any>} prompt @returns {Record<string, any>} */
export function withStatedStrength(prompt) {
  const stated = (/** @type {any} */ node) =>
    node.class_type === WITH_LORA ? { ...node, inputs: { [BY_KIND]: AS_ABOVE, ...node.inputs } } : node;
  return Object.fromEntries(Object.entries(prompt).map(([id, node]) => [id, stated(node)]));
}

/** Give a node with presets the size that it was saved with: choosing the saved preset shrinks it to the least.
 * @param {any} node */
export function keepSavedSize(node) {
  if (!widgetOf(node, "preset")) return;
  after(node, "onConfigure", (/** @type {any} */ saved) => {
    const size = Array.from(saved?.size ?? []);
    // The page shrinks it once all widgets have their values.
    if (size.length === 2) requestAnimationFrame(() => node.setSize(size));
  });
}

/** @param {any} node @param {string} name */
export function widgetOf(node, name) {
  return node?.widgets?.find((/** @type {any} */ one) => one.name === name);
}

/** Call ``then`` after each call of a method, with the same values. @param {any} object @param {string} method @param
 * {(...values: any[]) => void} then */
export function after(object, method, then) {
  const before = object[method];
  object[method] = function (/** @type {unknown[]} */ ...values) {
    const result = before?.apply(this, values);
    then(...values);
    return result;
  };
}

/** A line of small text as SVG, fainter than what is typed. @param {string} text @param {string} colour @returns
 * {string} */
function drawn(text, colour) {
  return `<svg xmlns="http://www.w3.org/2000/svg" width="300" height="14"><text y="10" font-family="sans-serif"
 font-size="10" fill="${colour}" fill-opacity="0.65">${text}</text></svg>`;
}
