// @ts-check
/** The list of jobs: state, live previews, player, and buttons. */

import { fill, problem } from "./form.js";
import { ask, follow, json } from "./server.js";
import { text } from "./texts.js";

const FRAME_MS = 250;
const MOST = 30;

/** @type {Map<string, Item>} */
const items = new Map();

/** Brings the list up to date with the server. */
export async function refresh() {
  const { jobs } = await json(`v1/jobs?limit=${MOST}`);
  const known = new Set(jobs.map((/** @type {any} */ job) => job.id));
  for (const [id, item] of items) if (!known.has(id)) item.remove();
  const list = /** @type {HTMLElement} */ (document.getElementById("queue"));
  for (const job of [...jobs].reverse()) {
    const item = items.get(job.id) ?? new Item(job.id, list);
    item.show(job);
  }
  /** @type {HTMLElement} */ (document.getElementById("empty")).hidden = jobs.length > 0;
}

/** Gives all jobs the words of the chosen language. */
export function relabel() {
  for (const item of items.values()) item.label();
  return refresh();
}

/** Names of the library for what a job does, and those of the texts. @type {Record<string, string>} */
const STAGES = { text: "reading", windows: "windows", "decode, encode": "decoding" };

/** What a job does, in the chosen language: "stage 2" -> "Stufe 2". @param {string} name */
function stage(name) {
  const number = /^stage (\d+)$/.exec(name)?.[1];
  if (number) return `${text("stage")} ${number}`;
  return STAGES[name] ? text(STAGES[name]) : name;
}

/** An element whose text follows the chosen language. @param {string} name */
function worded(name) {
  const made = element("span");
  made.dataset.text = name;
  made.textContent = text(name);
  return made;
}

/** @param {string} name @param {string} [kind] */
function element(name, kind = "") {
  const made = document.createElement(name);
  made.className = kind;
  return made;
}

/** One job of the list. */
class Item {
  /** @param {string} id @param {HTMLElement} list */
  constructor(id, list) {
    this.id = id;
    this.root = element("li", "job");
    this.words = element("p", "words");
    this.state = element("p", "state");
    this.bar = /** @type {HTMLProgressElement} */ (element("progress"));
    this.canvas = /** @type {HTMLCanvasElement} */ (element("canvas", "preview"));
    this.levels = /** @type {HTMLCanvasElement} */ (element("canvas", "levels"));
    this.player = element("div");
    this.error = element("p", "error");
    this.buttons = element("div", "buttons");
    this.again = this.button("use_again", () => this.useAgain());
    this.cancel = this.button("cancel", () => this.act("POST", "/cancel"));
    this.discard = this.button("delete", () => this.act("DELETE", ""));
    this.root.append(this.words, this.state, this.bar, this.canvas, this.levels, this.player, this.error, this.buttons);
    this.following = new AbortController();
    this.last = "";
    this.bar.max = 1;
    this.canvas.hidden = this.levels.hidden = true;
    for (const one of [this.canvas, this.levels]) one.setAttribute("role", "img");
    list.prepend(this.root);
    items.set(id, this);
    this.named();
  }

  /** @param {string} name @param {() => void} act */
  button(name, act) {
    const made = /** @type {HTMLButtonElement} */ (element("button"));
    made.type = "button";
    made.dataset.text = name;
    made.textContent = text(name);
    made.addEventListener("click", act);
    this.buttons.append(made);
    return made;
  }

  async named() {
    this.body = await json(`v1/jobs/${this.id}/request`);
    this.words.textContent = this.body.request.prompt;
    this.label();
  }

  /** Gives what is not read aloud by its own text a name in the chosen language. */
  label() {
    const prompt = this.body?.request.prompt.slice(0, 80) ?? "";
    this.canvas.setAttribute("aria-label", `${text("preview")}: ${prompt}`);
    this.bar.setAttribute("aria-label", text("progress"));
    this.levels.setAttribute("aria-label", text("loudness"));
    for (const one of [this.again, this.cancel, this.discard]) one.setAttribute("aria-label", `${one.textContent}: ${prompt}`);
  }

  /** @param {any} job */
  show(job) {
    const ended = !["queued", "running"].includes(job.state);
    const at = job.progress;
    const left = at?.eta_s == null ? "" : ` · ${Math.ceil(at.eta_s)} s`;
    this.state.textContent = text(job.stopping ? "stopping" : job.state) + (at ? ` · ${stage(at.stage)} ${at.step}/${at.steps}${left}` : "");
    this.state.dataset.text = ended ? job.state : "";
    this.bar.hidden = ended;
    if (at) this.bar.value = at.fraction;
    else this.bar.removeAttribute("value");
    this.error.textContent = job.error ?? "";
    this.cancel.hidden = ended;
    this.discard.hidden = !ended;
    if (job.state === this.last) return;
    this.last = job.state;
    if (!ended) this.follow();
    if (ended) this.canvas.hidden = this.levels.hidden = true;
    if (job.state === "succeeded") this.play(job.clips[0]);
  }

  follow() {
    if (this.followed) return;
    this.followed = true;
    follow(this.id, (name, data) => {
      if (name === "job") this.show(data);
      if (name === "preview") this.preview(data);
    }, this.following.signal).catch(() => {}).finally(() => { this.followed = false; });
  }

  /** @param {{image: string | null, frames: number, levels: number[]}} made */
  async preview(made) {
    if (made.image) {
      const strip = new Image();
      strip.src = `data:image/jpeg;base64,${made.image}`;
      await strip.decode();
      this.strip = strip;
      this.frames = made.frames;
      this.canvas.hidden = false;
      this.animate();
    }
    this.levels.hidden = made.levels.length === 0;
    if (made.levels.length) this.drawLevels(made.levels);
  }

  animate() {
    if (this.timer) return;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    let frame = 0;
    const draw = () => {
      if (!this.strip || !this.frames || this.canvas.hidden) {
        clearInterval(this.timer);
        this.timer = undefined;
        return;
      }
      const width = this.strip.width / this.frames;
      this.canvas.width = width;
      this.canvas.height = this.strip.height;
      const shown = still ? Math.floor(this.frames / 2) : frame++ % this.frames;
      this.canvas.getContext("2d")?.drawImage(this.strip, shown * width, 0, width, this.strip.height, 0, 0, width, this.strip.height);
    };
    draw();
    this.timer = setInterval(draw, FRAME_MS);
  }

  /** @param {number[]} levels */
  drawLevels(levels) {
    const { levels: canvas } = this;
    canvas.width = levels.length * 4;
    canvas.height = 32;
    const context = canvas.getContext("2d");
    if (!context) return;
    context.fillStyle = getComputedStyle(this.root).color;
    levels.forEach((level, index) => context.fillRect(index * 4, 32 - Math.max(1, level * 32), 3, 32));
  }

  /** @param {any} clip */
  async play(clip) {
    const content = await (await ask(`v1/jobs/${this.id}/file`)).blob();
    const player = /** @type {HTMLMediaElement} */ (element(content.type.startsWith("audio") ? "audio" : "video"));
    player.controls = true;
    player.loop = true;
    player.src = URL.createObjectURL(content);
    player.setAttribute("aria-label", this.body?.request.prompt.slice(0, 80) ?? "");
    const save = /** @type {HTMLAnchorElement} */ (element("a"));
    save.href = player.src;
    save.download = clip.file;
    save.dataset.text = "save";
    save.textContent = text("save");
    const about = element("p", "about");
    if (clip.width) about.append(`${clip.width} × ${clip.height} · ${clip.num_frames} `, worded("frames"), " · ", worded("seed"), ` ${clip.seed} · `);
    about.append(save);
    this.player.replaceChildren(player, about);
  }

  useAgain() {
    if (this.body) fill(this.body);
  }

  /** @param {string} method @param {string} path */
  async act(method, path) {
    try {
      await ask(`v1/jobs/${this.id}${path}`, { method });
      await refresh();
    } catch (error) {
      problem(String(error instanceof Error ? error.message : error));
    }
  }

  remove() {
    this.following.abort();
    this.root.remove();
    items.delete(this.id);
  }
}
