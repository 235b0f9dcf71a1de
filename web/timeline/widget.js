// @ts-check
/** The timeline of LTX-2 Shot List. Its text widget is the truth. */
import { planned } from "../plan.js";
import { after, widgetOf } from "../widgets.js";
import { element } from "./elements.js";
import { viewUrl } from "./media.js";
import { Panel } from "./panel.js";

const NODE = "LTX2AVShotList";
const TEXT = "shots";
const NAME = "timeline";
const HEIGHT = 484;
const WIDTH = 700;
const RESULT = /\.(mp4|webm|mov|m4v)$/i;

let made = 0;

/** @param {any} node which may be a group node @param {any} app @param {any} api */
export function showTimeline(node, app, api) {
  const [, group] = String(node.comfyClass).split("workflow>");
  const inner = app.graph?.extra?.groupNodes?.[group]?.nodes ?? [{ type: node.comfyClass }];
  const text = inner.some((/** @type {any} */ one) => one.type === NODE) && widgetOf(node, TEXT);
  if (!text) return;
  const holder = element("div", { style: "height: 100%" });
  /** @type {(() => void) | null} */
  let read = null;
  /** @type {(() => void) | null} */
  let close = null;
  const open = () => {
    if (!close) ({ read, close } = opened(node, text, holder, api));
  };
  const widget = node.addDOMWidget(NAME, NAME, holder, {
    serialize: false,
    hideOnZoom: false,
    getValue: () => "",
    setValue: () => {},
    getMinHeight: () => HEIGHT,
  });
  // The text is what is saved.
  widget.serialize = false;
  after(text, "callback", () => read?.());
  after(node, "onConfigure", () => read?.());
  // Other packs set values without telling.
  after(node, "onDrawForeground", () => read?.());
  after(node, "onAdded", open);
  // Removed nodes may live on, but not what they showed.
  after(node, "onRemoved", () => {
    close?.();
    read = close = null;
  });
  open();
  if (node.size[0] < WIDTH) node.setSize?.([WIDTH, node.computeSize?.()[1] ?? node.size[1]]);
}

/** A timeline in ``holder``: how it reads the text again, and how it is closed. @param {any} node @param {any} text
 * @param {HTMLElement} holder @param {any} api */
function opened(node, text, holder, api) {
  let writing = false;
  const panel = new Panel(api, (written) => write(node, text, written, (busy) => (writing = busy)), String((made += 1)));
  panel.plan = ({ width, height, frames, fps }) =>
    planned(node, api, { width, height, fps, snap: "nearest", stages: "1", length: frames, length_unit: "frames" });
  const read = () => {
    if (!writing) panel.load(String(text.value ?? ""));
  };
  const executed = (/** @type {any} */ event) => {
    const url = resultOf(event.detail?.output, api);
    if (url) panel.show(url);
  };
  const box = text.inputEl ?? text.element;
  box?.addEventListener?.("input", read);
  panel.root.addEventListener("pointerenter", () => panel.look());
  panel.root.addEventListener("focusin", read);
  api.addEventListener("executed", executed);
  holder.append(panel.root);
  read();
  const close = () => {
    api.removeEventListener("executed", executed);
    box?.removeEventListener?.("input", read);
    panel.destroy();
  };
  return { read, close };
}

/** Write a text as if the user had typed it, as one step of the graph's own undo. @param {any} node @param {any} widget
 * @param {string} text @param {(busy: boolean) => void} busy */
function write(node, widget, text, busy) {
  busy(true);
  node.graph?.beforeChange?.();
  widget.value = text;
  widget.callback?.(text);
  node.graph?.afterChange?.();
  busy(false);
  node.setDirtyCanvas?.(true, true);
}

/** The address of a video among what a node showed. @param {any} output @param {any} api */
export function resultOf(output, api) {
  const files = ["images", "video", "gifs"].flatMap((name) => (Array.isArray(output?.[name]) ? output[name] : []));
  const video = files.find((file) => typeof file?.filename === "string" && RESULT.test(file.filename));
  return video ? viewUrl(api, video, `&t=${Date.now()}`) : null;
}
