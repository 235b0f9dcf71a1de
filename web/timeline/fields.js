// @ts-check
/** The fields below the tracks: those of the selected entry, or of the clip. */
import { sourced } from "./edit.js";
import { element } from "./elements.js";
import { trimOf } from "./items.js";
import { phrase } from "./texts.js";

/** @import { Model } from "./model.js" */
/** A field of an entry, of one end of its ``trim``, of the list, or of the ``file`` of an object in it.
 * @typedef {{ name: string, key: string, kind: string, choices?: string[], trim?: number, list?: boolean, file?: boolean }} Field */

/** @param {string} name @param {string} key @param {string} [kind] @param {Partial<Field>} [more] @returns {Field} */
const field = (name, key, kind = "number", more = {}) => ({ name, key, kind, ...more });
const FROM = field("From", "from", "time");
const TO = field("To", "to", "time");
const AT = field("At", "at", "time");
const FILE = field("File", "file", "text");
const STRENGTH = field("Strength", "strength");

/** @type {Record<string, Field[]>} */
const FIELDS = {
  clip: [
    field("Width", "width"),
    field("Height", "height"),
    field("Seconds", "seconds"),
    field("Frames", "frames"),
    field("Frames/s", "fps"),
    field("Seed", "seed"),
    field("Source of regions", "source", "text", { list: true, file: true }),
    field("Prompt of the whole clip", "prompt", "prompt", { list: true }),
    field("Negative prompt", "negative", "prompt", { list: true }),
  ],
  parts: [FROM, field("Prompt", "prompt", "prompt")],
  images: [FILE, AT, STRENGTH, field("CRF", "crf"), field("Mode", "mode", "choice", { choices: ["", "start", "key"] })],
  control: [FILE, FROM, TO, STRENGTH, field("Scale", "scale"), field("Every", "every")],
  audio: [
    FILE,
    AT,
    field("File from", "trim", "number", { trim: 0 }),
    field("File to", "trim", "number", { trim: 1 }),
    field("Gain (dB)", "gain_db"),
    field("Fade (s)", "fade"),
  ],
  regions: [FROM, TO, field("Regenerate", "track", "choice", { choices: ["both", "video", "audio"] })],
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
      element("label", { class: field.kind === "prompt" ? "wide" : "" }, [phrase(field.name), input]),
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
      const options = (field.choices ?? []).map((one) => element("option", { value: one, textContent: phrase(one || "by its time") }));
      input = element("select", events, options);
    } else input = element("input", { type: "text", class: field.kind === "text" ? "long" : "", ...events });
    input.setAttribute("aria-label", phrase(field.name));
    return input;
  }

  /** @param {Field} field @returns {string} */
  value(field) {
    const { list, selected } = this.model;
    const entry = field.list ? list : (selected?.entry ?? list?.clip);
    const held = field.trim === undefined ? entry?.[field.key] : trimOf(entry ?? {})[field.trim];
    const value = field.file ? held?.file : (held ?? field.choices?.[0]);
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
    if (field.file) model.commit(sourced(/** @type {any} */ (model.list), value));
    else if (field.list) model.commit({ ...model.list, [field.key]: value ?? "" }, model.place, done);
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
  if (field.kind === "prompt" || field.kind === "choice" || field.kind === "text") return text || undefined;
  const typed = text.trim().replace(/^(\d+),(\d+)$/, "$1.$2");
  if (!typed) return undefined;
  const number = Number(typed);
  if (field.kind === "time" && Number.isNaN(number)) return typed;
  if (!Number.isFinite(number)) return null;
  return field.key === "seed" && !Number.isSafeInteger(number) ? `\u0000number:${typed}` : number;
}
