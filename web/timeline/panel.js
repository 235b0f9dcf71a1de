// @ts-check
/** The timeline on a node: bar of buttons, tracks, fields, warnings and the result. */
import { clamp, changedClip, sourced } from "./edit.js";
import { button, element, STYLE } from "./elements.js";
import { Fields } from "./fields.js";
import { Media } from "./media.js";
import { Model } from "./model.js";
import { Player } from "./player.js";
import { phrase } from "./texts.js";
import { Tracks, trackOf } from "./tracks.js";
import { warningsOf } from "./warnings.js";

const ACCEPTED = /** @type {Record<string, string>} */ ({ images: "image/*", audio: "audio/*", control: "video/*", regions: "video/*" });

export class Panel {
  /** @param {any} api the page's api, for its upload and view routes @param {(text: string) => void} write called
   * with each new text @param {string} id of the node, unique on the page */
  constructor(api, write, id) {
    this.api = api;
    this.media = new Media(api, () => this.refresh());
    this.model = new Model(write, this.media.seconds);
    this.said = element("div", { class: "said", id: `ltx2-said-${id}`, role: "status" });
    this.video = element("video", { hidden: true, preload: "auto", "aria-label": phrase("Result of the last run") });
    this.player = new Player(this.model, this.media, this.video, () => this.moved());
    this.tracks = new Tracks(this);
    this.fields = new Fields(this.model, () => this.update());
    this.list = element("ul", { "aria-label": phrase("Warnings") });
    this.bar = element("div", { class: "bar", role: "toolbar", "aria-label": phrase("Timeline") }, this.buttons());
    this.root = element("div", { class: "ltx2-timeline", role: "group", "aria-label": phrase("Shot list"), "data-capture-wheel": "true" }, [
      element("style", { textContent: STYLE }), this.bar, this.tracks.root, this.said, this.list, this.fields.root, this.video,
    ]);
    // The graph below would take these for its own.
    for (const kind of ["pointerdown", "mousedown", "dblclick", "contextmenu"]) {
      this.root.addEventListener(kind, (/** @type {Event} */ event) => event.stopPropagation());
    }
    this.colours = coloursOf(this.root);
    this.warned = "";
    /** Plans the memory of a clip. @type {(clip: import("../grid.js").Clip) => Promise<any>} */
    this.plan = async () => null;
    this.planned = { size: "", text: "", waiting: 0 };
  }

  buttons() {
    const edit = (/** @type {(model: Model) => void} */ act) => () => this.do(act);
    this.play = button("▶", "Play (space)", () => this.player.toggle());
    this.snap = button("Snap", "Snap to latent frames (n)", () => this.toggleSnap());
    this.undoing = button("↶", "Undo (Ctrl+Z)", edit((model) => model.undo()));
    this.redoing = button("↷", "Redo (Ctrl+Y)", edit((model) => model.redo()));
    this.splitting = button("Split", "Split at the playhead (s)", edit((model) => model.split()));
    this.removing = button("Delete", "Delete what is selected (Delete)", edit((model) => model.remove()));
    this.taking = button("Take result", "Make the result the source of regions", () => this.takeResult());
    return [
      this.play, this.undoing, this.redoing, this.splitting, this.removing, this.snap,
      element("span", { class: "space" }),
      button("+ Prompt", "Add a prompt at the playhead", () => this.addTo("parts")),
      button("+ Image", "Add an image at the playhead", () => this.addTo("images")),
      button("+ Audio", "Add audio at the playhead", () => this.addTo("audio")),
      button("+ Control", "Add a control video", () => this.addTo("control")),
      button("+ Region", "Regenerate a second from the playhead", () => this.addTo("regions")),
      this.taking,
      element("span", { class: "space" }),
      button("−", "Zoom out (-)", () => this.zoom(1 / 1.5)),
      button("+", "Zoom in (+)", () => this.zoom(1.5)),
      button("Clip", "Size, length and prompt of the whole clip (Escape)", () => this.giveUp()),
    ];
  }

  /** Show a text that came from outside. @param {string} text */
  load(text) {
    if (text === this.model.text) return;
    this.model.load(text);
    this.update();
  }

  /** Files became known. */
  refresh() {
    if (!this.model.held) this.model.refresh();
    this.update();
  }

  /** Show the state of the model everywhere. */
  update() {
    const { model } = this;
    this.tracks.update();
    this.fields.update();
    this.said.textContent = model.words;
    if (this.tracks.keys.value !== model.words) this.tracks.keys.value = model.words;
    // With something selected the page's copy command has something to copy.
    if (document.activeElement === this.tracks.keys) this.tracks.keys.select();
    this.undoing.disabled = model.history.at < 1;
    this.redoing.disabled = model.history.at >= model.history.texts.length - 1;
    this.removing.disabled = !model.place;
    this.taking.disabled = !this.video.src;
    this.snap.setAttribute("aria-pressed", String(model.snapping));
    if (!model.held) this.warn();
  }

  warn() {
    const { model, media } = this;
    const found = model.list ? warningsOf(model.list, media.seconds, media.missing) : [{ error: true, text: model.words }];
    this.askMemory();
    if (this.planned.text) found.unshift({ error: false, text: this.planned.text });
    const texts = found.map((one) => one.text).join("\n");
    if (texts === this.warned) return;
    this.warned = texts;
    this.list.replaceChildren(...found.map((one) => element("li", { class: one.error ? "error" : "", textContent: one.text })));
  }

  /** Ask whether the clip fits into memory, once its size has been the same for a while. */
  askMemory() {
    const { clip, error } = this.model;
    const size = error ? "" : `${clip.width} ${clip.height} ${clip.frames}`;
    if (size === this.planned.size) return;
    clearTimeout(this.planned.waiting);
    const now = { size, text: "", waiting: 0 };
    this.planned = now;
    if (!size) return;
    now.waiting = window.setTimeout(async () => {
      const plan = await this.plan(clip);
      if (plan && !plan.fits) now.text = `${plan.model}: ${plan.text}`;
      if (now.text && this.planned === now) this.warn();
    }, 500);
  }

  /** Take the colours of the page again, which may have another theme. */
  look() {
    this.colours = coloursOf(this.root);
    this.tracks.update();
  }

  /** @param {(model: Model) => void} act */
  do(act) {
    act(this.model);
    this.update();
  }

  /** The playhead moved while it plays. */
  moved() {
    this.play.textContent = this.player.playing ? "❚❚" : "▶";
    this.tracks.update();
  }

  /** @param {number} seconds */
  seek(seconds) {
    const { fps, seconds: end } = this.model.clip;
    this.model.playhead = clamp(Math.round(seconds * fps) / fps, 0, end);
    this.player.seek();
    this.moved();
  }

  /** Move what is selected, or else the playhead. @param {number} frames */
  nudge(frames) {
    if (this.model.place) this.model.nudge(frames);
    else this.seek(this.model.playhead + frames / this.model.clip.fps);
  }

  toggleSnap() {
    this.model.snapping = !this.model.snapping;
    this.update();
  }

  /** Drop what is held, else select nothing. */
  giveUp() {
    if (this.model.held) this.tracks.up(false);
    else this.model.place = null;
    this.update();
  }

  /** @param {number} factor */
  zoom(factor) {
    this.tracks.zoom(factor);
  }

  fit() {
    this.tracks.whole = true;
    this.tracks.update();
  }

  /** Add to a track: a prompt at once, a file after it was chosen. @param {string} track */
  addTo(track) {
    const { list } = this.model;
    if (track === "regions") {
      // Without a clip the audio alone can be regenerated.
      const stream = list?.source ? "video" : !this.video.src && list?.audio?.length ? "audio" : "";
      if (stream) return this.do((model) => model.add(track, { track: stream }));
      if (this.video.src) return void this.takeResult();
    }
    if (track === "parts") {
      const begins = this.model.items.some((one) => one.track === "parts" && one.start === this.model.playhead);
      // A second prompt at the same time would be an error.
      if (!begins || !this.model.items.length) this.model.add("parts", { prompt: "" });
      return this.update();
    }
    const input = element("input", { type: "file", accept: ACCEPTED[track], multiple: true });
    input.onchange = () => this.upload([...input.files], track);
    return input.click();
  }

  /** Store files by the host, and add them at the playhead. @param {File[]} files @param {string} [track] */
  async upload(files, track) {
    for (const file of files) {
      const name = await this.stored(file);
      if (!name) return;
      if (track === "regions") this.takeSource(name, {});
      else this.do((model) => model.add(track ?? trackOf(file), { file: name }));
    }
  }

  /** Store a file by the host. @param {File} file @returns {Promise<string>} its name in the input folder, or "" */
  async stored(file) {
    const body = new FormData();
    body.append("image", file);
    const answer = await this.api.fetchApi("/upload/image", { method: "POST", body }).catch(() => ({ status: 0, statusText: "no answer" }));
    if (!answer.ok) {
      this.said.textContent = phrase("%1 was not stored: %2", file.name, `${answer.status} ${answer.statusText}`);
      return "";
    }
    const { name, subfolder } = await answer.json();
    this.media.retry();
    return subfolder ? `${subfolder}/${name}` : name;
  }

  /** Store the clip of the last run as an input, and make it the source. */
  async takeResult() {
    const answer = await fetch(this.video.src).catch(() => null);
    if (!answer?.ok) return;
    const shown = new URL(this.video.src).searchParams.get("filename") ?? "result.mp4";
    const name = await this.stored(new File([await answer.blob()], shown));
    const { width, height, frames, fps } = this.model.clip;
    // It has the size and length that the clip got, not those that were written.
    if (name) this.takeSource(name, { width, height, frames, fps });
  }

  /** @param {string} name @param {Record<string, number>} size of the clip; what is left out is that of the file */
  takeSource(name, { width, height, frames, fps }) {
    const { list } = this.model;
    if (!list) return;
    const sized = changedClip(list, { width, height, frames, fps, seconds: undefined });
    this.do((model) => model.commit(sourced(sized, name)));
    if (!list.regions?.length) this.do((model) => model.add("regions", { track: "video" }));
  }

  /** Show the clip of the last run. @param {string} url */
  show(url) {
    this.player.pause();
    this.video.src = url;
    // Its controls are elements too, which most timelines never need.
    this.video.controls = true;
    this.video.hidden = false;
    this.taking.disabled = false;
  }

  destroy() {
    clearTimeout(this.planned.waiting);
    this.player.destroy();
    this.tracks.destroy();
    this.media.destroy();
    this.root.remove();
  }
}

/** Colours of the page's theme. @param {HTMLElement} root @returns {import("./draw.js").Colours} */
function coloursOf(root) {
  const style = getComputedStyle(root.isConnected ? root : document.documentElement);
  const of = (/** @type {string} */ name, /** @type {string} */ otherwise) => style.getPropertyValue(name).trim() || otherwise;
  const menu = of("--comfy-menu-bg", "#353535");
  const ctx = /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d"));
  ctx.fillStyle = menu;
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(String(ctx.fillStyle).slice(at, at + 2), 16));
  return {
    text: of("--input-text", "#dddddd"),
    faint: of("--descrip-text", "#999999"),
    line: of("--border-color", "#4e4e4e"),
    ground: of("--comfy-input-bg", "#222222"),
    dark: red * 0.3 + green * 0.6 + blue * 0.1 < 128,
  };
}
