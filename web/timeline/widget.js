// @ts-check
/** Puts the timeline on LTX-2 Shot List. Its text widget is the truth, and nothing else is stored. */
import { coloursOf, Panel } from "./panel.js";
import { viewUrl } from "./media.js";

const NODE = "LTX2AVShotList";
const TEXT = "shots";
const NAME = "timeline";
const HEIGHT = 450;
const WIDTH = 700;
const RESULT = /\.(mp4|webm|mov|m4v)$/i;

let made = 0;

/**
 * @param {any} node
 * @param {any} api the page's api
 */
export function showTimeline(node, api) {
  const text = node.comfyClass === NODE && node.widgets?.find((/** @type {any} */ one) => one.name === TEXT);
  if (!text) return;
  let writing = false;
  const panel = new Panel(api, (written) => write(node, text, written, (busy) => (writing = busy)), String((made += 1)));
  const read = () => {
    if (!writing) panel.load(String(text.value ?? ""));
  };
  const widget = node.addDOMWidget(NAME, NAME, panel.root, {
    serialize: false,
    hideOnZoom: false,
    getValue: () => "",
    setValue: () => {},
    getMinHeight: () => HEIGHT,
  });
  // The text is what is saved.
  widget.serialize = false;
  const typed = () => read();
  const box = text.inputEl ?? text.element;
  box?.addEventListener?.("input", typed);
  after(text, "callback", read);
  after(node, "onConfigure", read);
  // Other packs set values without telling; a comparison of two texts for each drawing is cheap.
  after(node, "onDrawForeground", read);
  const looked = () => {
    read();
    panel.colours = coloursOf(panel.root);
    panel.update();
  };
  panel.root.addEventListener("pointerenter", looked);
  panel.root.addEventListener("focusin", read);
  const executed = (/** @type {any} */ event) => {
    const url = resultOf(event.detail?.output, api);
    if (url) panel.show(url);
  };
  api.addEventListener("executed", executed);
  after(node, "onRemoved", () => {
    api.removeEventListener("executed", executed);
    box?.removeEventListener?.("input", typed);
    panel.destroy();
  });
  if (node.size[0] < WIDTH) node.setSize?.([WIDTH, node.computeSize?.()[1] ?? node.size[1]]);
  read();
}

/**
 * Write a text as if the user had typed it, as one step of the graph's own undo.
 * @param {any} node
 * @param {any} widget
 * @param {string} text
 * @param {(busy: boolean) => void} busy
 */
function write(node, widget, text, busy) {
  busy(true);
  node.graph?.beforeChange?.();
  widget.value = text;
  widget.callback?.(text);
  node.graph?.afterChange?.();
  busy(false);
  node.setDirtyCanvas?.(true, true);
}

/**
 * The address of a video among what a node showed.
 * @param {any} output
 * @param {any} api
 * @returns {string | null}
 */
export function resultOf(output, api) {
  const files = ["images", "video", "gifs"].flatMap((name) => (Array.isArray(output?.[name]) ? output[name] : []));
  const video = files.find((file) => typeof file?.filename === "string" && RESULT.test(file.filename));
  return video ? viewUrl(api, video, `&t=${Date.now()}`) : null;
}

/**
 * Call ``then`` after each call of a method.
 * @param {any} object
 * @param {string} method
 * @param {() => void} then
 */
function after(object, method, then) {
  const before = object[method];
  object[method] = function (/** @type {unknown[]} */ ...values) {
    const result = before?.apply(this, values);
    then();
    return result;
  };
}
