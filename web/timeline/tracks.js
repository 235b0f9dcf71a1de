// @ts-check
/** The canvas with the tracks: drawing when something changed, the pointer, and the focus for the keyboard. */
import { draw } from "./draw.js";
import { element } from "./elements.js";
import { pressed } from "./keys.js";
import { HEIGHT, hitAt, LABELS } from "./layout.js";
import { kindOf } from "./media.js";
import { phrase } from "./texts.js";
import { fitted, scrolled, toSeconds, zoomed } from "./view.js";

/** @import { Panel } from "./panel.js" */

const REACH = 8;
const LEVEL_HEIGHT = 40;
const CURSORS = /** @type {Record<string, string>} */ ({ move: "grab", start: "ew-resize", end: "ew-resize", level: "ns-resize" });

export class Tracks {
  /** @param {Panel} panel */
  constructor(panel) {
    this.panel = panel;
    this.model = panel.model;
    this.width = 0;
    this.view = fitted(1, 1);
    this.whole = true;
    this.waiting = 0;
    /** @type {{ x: number, y: number, seeking: boolean } | null} */
    this.press = null;
    this.canvas = element("canvas", { "aria-hidden": "true" });
    // An input, to which the page leaves keys, copy and paste; it holds the selection.
    this.keys = element("input", {
      class: "keys", type: "text", autocomplete: "off", spellcheck: false, inputMode: "none",
      "aria-label": phrase("Timeline"), "aria-roledescription": phrase("timeline"), "aria-describedby": panel.said.id,
    });
    this.root = element("div", { class: "stage" }, [this.canvas, this.keys]);
    this.listen();
    this.resizing = new ResizeObserver(() => this.resize());
    this.resizing.observe(this.root);
  }

  listen() {
    const { keys, panel } = this;
    /** @type {Record<string, (event: any) => void>} */
    const acts = {
      // The browser would drag the selected text.
      mousedown: (event) => event.preventDefault(),
      pointerdown: (event) => this.down(event),
      pointermove: (event) => this.move(event),
      pointerup: () => this.up(true),
      pointercancel: () => this.up(false),
      lostpointercapture: () => this.up(true),
      dblclick: (event) => this.twice(event),
      keydown: (event) => pressed(event, panel),
      beforeinput: (event) => event.preventDefault(),
      focus: () => this.update(),
      blur: () => this.update(),
      copy: (event) => this.copy(event),
      cut: (event) => this.copy(event) && panel.do((model) => model.remove()),
      paste: (event) => this.paste(event),
      dragover: (event) => this.dropped(event, false),
      drop: (event) => this.dropped(event, true),
    };
    for (const [name, act] of Object.entries(acts)) keys.addEventListener(name, act);
    // Not passive: a wheel over the tracks must not move the graph.
    keys.addEventListener("wheel", (/** @type {WheelEvent} */ event) => this.wheel(event), { passive: false });
  }

  resize() {
    const width = this.canvas.offsetWidth;
    if (!width || width === this.width) return;
    this.width = width;
    const ratio = Math.min(2, window.devicePixelRatio || 1) * 1.5;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(HEIGHT * ratio);
    this.canvas.style.height = `${HEIGHT}px`;
    this.canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    this.update();
  }

  get room() {
    return Math.max(1, this.width - LABELS - 8);
  }

  /** Draw before the next frame; many calls draw once. */
  update() {
    if (this.whole) this.view = fitted(this.model.clip.seconds, this.room);
    this.waiting ||= requestAnimationFrame(() => {
      this.waiting = 0;
      const focused = document.activeElement === this.keys;
      const { model, view, width } = this;
      const { media, colours } = this.panel;
      if (width) draw(this.canvas.getContext("2d"), { model, view, media, colours, width, focused });
    });
  }

  /** Place of the pointer in pixels of the canvas, whatever the zoom of the graph. @param {MouseEvent} event */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = box.width / Math.max(1, this.canvas.offsetWidth) || 1;
    return { x: (event.clientX - box.left) / scale, y: (event.clientY - box.top) / scale };
  }

  /** @param {MouseEvent} event */
  hit(event) {
    const { x, y } = this.at(event);
    return hitAt(this.model.items, this.view, x, y, this.width, this.model.selected);
  }

  /** @param {PointerEvent} event */
  down(event) {
    event.stopPropagation();
    if (event.button !== 0) return;
    this.keys.focus({ preventScroll: true });
    const hit = this.hit(event);
    const seeking = Boolean(hit && "ruler" in hit);
    this.press = { ...this.at(event), seeking };
    this.keys.setPointerCapture(event.pointerId);
    if (hit && "item" in hit) this.model.hold(hit.item, hit.grip);
    else if (seeking) this.seek(event);
    else this.model.place = null;
    this.panel.update();
  }

  /** @param {PointerEvent} event */
  move(event) {
    if (!this.press) {
      const hit = this.hit(event);
      this.keys.style.cursor = hit && "item" in hit ? CURSORS[hit.grip] : "default";
      return;
    }
    event.stopPropagation();
    if (this.press.seeking) return void this.seek(event);
    const { x, y } = this.at(event);
    const [dx, dy] = [x - this.press.x, y - this.press.y];
    // A click that trembles moves nothing.
    if (Math.abs(dx) < 2 && Math.abs(dy) < 2) return;
    const { view, model } = this;
    model.drag(dx / view.scale, -dy / LEVEL_HEIGHT, event.altKey ? 0 : REACH / view.scale);
    this.panel.update();
  }

  /** @param {boolean} keep */
  up(keep) {
    if (!this.press) return;
    this.press = null;
    this.panel.do((model) => model.drop(keep));
  }

  /** @param {MouseEvent} event */
  seek(event) {
    this.panel.seek(toSeconds(this.view, this.at(event).x - LABELS));
  }

  /** A prompt where someone clicks twice. @param {MouseEvent} event */
  twice(event) {
    event.stopPropagation();
    const hit = this.hit(event);
    if (!hit || !("track" in hit || "item" in hit)) return;
    if ("item" in hit && hit.item.track !== "parts") return;
    this.seek(event);
    if ("item" in hit) this.panel.do((model) => model.split());
    else this.panel.addTo(hit.track);
  }

  /** @param {WheelEvent} event */
  wheel(event) {
    if (document.activeElement !== this.keys) return;
    event.preventDefault();
    event.stopPropagation();
    const { clip } = this.model;
    if (event.ctrlKey || event.metaKey || event.altKey) return this.zoom(Math.exp(-event.deltaY / 300), this.at(event).x - LABELS);
    const by = (event.deltaX || event.deltaY) / this.view.scale;
    this.view = scrolled(this.view, by, clip.seconds, this.room);
    this.update();
  }

  /** @param {number} factor @param {number} x pixels right of the labels */
  zoom(factor, x = this.room / 2) {
    const { seconds } = this.model.clip;
    this.view = zoomed(this.view, factor, x, seconds, this.room);
    this.whole = this.view.scale <= fitted(seconds, this.room).scale;
    this.update();
  }

  /** @param {ClipboardEvent} event */
  copy(event) {
    event.preventDefault();
    event.stopPropagation();
    const text = this.model.copy();
    if (text) event.clipboardData?.setData("text/plain", text);
    return Boolean(text);
  }

  /** @param {ClipboardEvent} event */
  paste(event) {
    event.preventDefault();
    event.stopPropagation();
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) this.panel.upload(files);
    else this.panel.do((model) => model.paste(event.clipboardData?.getData("text/plain") ?? ""));
  }

  /** @param {DragEvent} event @param {boolean} drop */
  dropped(event, drop) {
    const files = [...(event.dataTransfer?.files ?? [])];
    if (!event.dataTransfer?.types.includes("Files") || (drop && !files.length)) return;
    event.preventDefault();
    event.stopPropagation();
    if (!drop) return;
    this.seek(event);
    this.panel.upload(files);
  }

  destroy() {
    this.resizing.disconnect();
    cancelAnimationFrame(this.waiting);
  }
}

/** @param {File} file */
export function trackOf(file) {
  return { audio: "audio", video: "control", image: "images" }[kindOf(file.name)];
}
