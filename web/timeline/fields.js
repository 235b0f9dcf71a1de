// @ts-check
/** The fields below the tracks: those of the selected entry, or of the clip. */
import { element } from "./elements.js";
import { trimOf } from "./items.js";

/** @import { Model } from "./model.js" */
/** A field of an entry, of one end of its ``trim``, or of the list.
 * @typedef {{ name: string, key: string, kind: string, choices?: string[], trim?: number, list?: boolean }} Field */

const AT = { name: "At", key: "at", kind: "time" };
const FILE = { name: "File", key: "file", kind: "text" };
const STRENGTH = { name: "Strength", key: "strength", kind: "number" };

/** @type {Record<string, Field[]>} */
const FIELDS = {
  clip: [
    { name: "Width", key: "width", kind: "number" },
    { name: "Height", key: "height", kind: "number" },
    { name: "Seconds", key: "seconds", kind: "number" },
    { name: "Frames", key: "frames", kind: "number" },
    { name: "Frames/s", key: "fps", kind: "number" },
    { name: "Seed", key: "seed", kind: "number" },
    { name: "Prompt of the whole clip", key: "prompt", kind: "prompt", list: true },
    { name: "Negative prompt", key: "negative", kind: "prompt", list: true },
  ],
  parts: [
    { name: "From", key: "from", kind: "time" },
    { name: "Prompt", key: "prompt", kind: "prompt" },
  ],
  images: [
    FILE,
    AT,
    STRENGTH,
    { name: "CRF", key: "crf", kind: "number" },
    { name: "Mode", key: "mode", kind: "choice", choices: ["", "start", "key"] },
  ],
  control: [
    FILE,
    STRENGTH,
    { name: "Scale", key: "scale", kind: "number" },
    { name: "Every", key: "every", kind: "number" },
  ],
  audio: [
    FILE,
    AT,
    { name: "File from", key: "trim", kind: "number", trim: 0 },
    { name: "File to", key: "trim", kind: "number", trim: 1 },
    { name: "Gain (dB)", key: "gain_db", kind: "number" },
    { name: "Fade (s)", key: "fade", kind: "number" },
  ],
};

export class Fields {
  /** @param {Model} model @param {() => void} changed */
  constructor(model, changed) {
    this.model = model;
    this.changed = changed;
    this.shown = "";
    /** @type {[Field, any][]} */
    this.inputs = [];
    this.root = element("div", { class: "fields" });
  }

  /** Show the values of what is selected; a field in which someone types is left alone. */
  update() {
    const { model } = this;
    const kind = model.error ? "" : (model.place?.track ?? "clip");
    const shown = `${kind} ${model.place?.index ?? ""}`;
    if (shown !== this.shown) this.build(FIELDS[kind] ?? []);
    this.shown = shown;
    for (const [field, input] of this.inputs) {
      if (input !== document.activeElement) input.value = this.value(field);
    }
  }

  /** @param {Field[]} fields */
  build(fields) {
    this.inputs = fields.map((field) => [field, this.input(field)]);
    const labels = this.inputs.map(([field, input]) =>
      element("label", { class: field.kind === "prompt" ? "wide" : "" }, [field.name, input]),
    );
    this.root.replaceChildren(...labels);
  }

  /** @param {Field} field */
  input(field) {
    const write = (/** @type {boolean} */ done) => this.write(field, input, done);
    const events = { onchange: () => write(true), oninput: field.kind === "prompt" ? () => write(false) : undefined };
    /** @type {any} */
    let input;
    if (field.kind === "prompt") input = element("textarea", events);
    else if (field.kind === "choice") {
      const options = (field.choices ?? []).map((one) => element("option", { value: one, textContent: one || "by its time" }));
      input = element("select", events, options);
    } else input = element("input", { type: "text", class: field.key === "file" ? "long" : "", ...events });
    input.setAttribute("aria-label", field.name);
    return input;
  }

  /** @param {Field} field @returns {string} */
  value(field) {
    const { list, selected } = this.model;
    const entry = field.list ? list : (selected?.entry ?? list?.clip);
    const value = field.trim === undefined ? entry?.[field.key] : trimOf(entry ?? {})[field.trim];
    if (value === undefined || value === null) return "";
    // A seed of 64 bits is text with a mark in front.
    return typeof value === "object" ? JSON.stringify(value) : String(value).replace("\u0000number:", "");
  }

  /** @param {Field} field @param {any} input @param {boolean} done whether undo goes back to before it */
  write(field, input, done) {
    const value = read(field, input.value);
    const wrong = value === null;
    input.setAttribute("aria-invalid", String(wrong));
    if (wrong) return;
    const { model } = this;
    if (field.list) model.commit({ ...model.list, [field.key]: value ?? "" }, model.place, done);
    else if (field.trim !== undefined) {
      const trim = [...trimOf(model.selected?.entry ?? {})];
      trim[field.trim] = /** @type {any} */ (value ?? (field.trim ? null : 0));
      model.change({ trim });
    } else model.change({ [field.key]: field.kind === "prompt" ? (value ?? "") : value }, done);
    this.changed();
  }
}

/** @param {Field} field @param {string} text @returns {string | number | undefined | null} undefined for nothing,
 * null for what cannot be */
function read(field, text) {
  if (field.kind === "prompt" || field.kind === "choice" || field.key === "file") return text || undefined;
  const typed = text.trim().replace(/^(\d+),(\d+)$/, "$1.$2");
  if (!typed) return undefined;
  const number = Number(typed);
  if (field.kind === "time" && Number.isNaN(number)) return typed;
  if (!Number.isFinite(number)) return null;
  return field.key === "seed" && !Number.isSafeInteger(number) ? `\u0000number:${typed}` : number;
}
