// @ts-check
/** The text of a shot list and its JSON: what a tool wrote and this page does not know stays as it is. */
import { planClip } from "../grid.js";
import { phrase } from "./texts.js";

export const FORMAT = "ltx2.shots/1";
export const MAX_BYTES = 2 ** 22;
export const MAX_ENTRIES = 1000;
/** More frames than any clip has; a list that asks for more is shown as one of the default length. */
export const MAX_FRAMES = 2 ** 20;
const DEFAULTS = { width: 768, height: 512, fps: 24, frames: 121 };

/** @typedef {Record<string, any>} List */
/** @import { Clip } from "../grid.js" */

/** Lists of a shot list that hold entries. */
export const LISTS = ["parts", "images", "control", "audio", "regions", "loras"];

// Strings are matched too: digits inside are left alone.
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const LITERAL = "\u0000number:";

/** Read the text of a shot list. @param {string} text @returns {{ list: List | null, error: string }} the list, or
 * what is wrong with the text */
export function parse(text) {
  if (text.length > MAX_BYTES) return refused(phrase("a shot list has at most %1 bytes", MAX_BYTES));
  let list;
  try {
    list = JSON.parse(text.replace(TOKENS, exact));
  } catch (error) {
    return refused(error instanceof SyntaxError ? error.message.replaceAll(LITERAL, "") : phrase("lists are nested too deeply"));
  }
  if (!isObject(list)) return refused(phrase("a JSON object is expected"));
  if (list.format !== FORMAT) return refused(phrase("a shot list begins with %1", `"format": "${FORMAT}"`));
  for (const name of ["clip", "source"]) {
    if (list[name] !== undefined && !isObject(list[name])) return refused(phrase("%1 must be an object", name));
  }
  for (const name of LISTS) {
    const entries = list[name];
    if (entries === undefined) continue;
    if (!Array.isArray(entries) || !entries.every(isObject)) return refused(phrase("%1 must be a list of objects", name));
    if (entries.length > MAX_ENTRIES) return refused(phrase("%1 has more than %2 entries", name, MAX_ENTRIES));
  }
  return { list, error: "" };
}

/** @param {string} error */
function refused(error) {
  return { list: null, error };
}

/** A number that JavaScript would round, such as a seed of 64 bits, as text with a mark. @param {string} token */
function exact(token) {
  if (token[0] === '"' || Number.isSafeInteger(Number(token)) || !/^-?\d+$/.test(token)) return token;
  return JSON.stringify(LITERAL + token);
}

/** @param {unknown} value @returns {value is Record<string, any>} */
export function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The text of a shot list: a line for each key, and for each entry of a list. @param {List} list */
export function serialise(list) {
  const lines = Object.entries(list).map(([key, value]) => `  ${JSON.stringify(key)}: ${block(value)}`);
  return `{\n${lines.join(",\n")}\n}`;
}

/** @param {any} value */
function block(value) {
  if (!Array.isArray(value) || !value.some(isObject)) return inline(value);
  return `[\n${value.map((one) => `    ${inline(one)}`).join(",\n")}\n  ]`;
}

/** @param {any} value @returns {string} */
function inline(value) {
  if (typeof value === "string" && value.startsWith(LITERAL)) return value.slice(LITERAL.length);
  if (Array.isArray(value)) return `[${value.map(inline).join(", ")}]`;
  if (!isObject(value)) return JSON.stringify(value);
  return `{${Object.entries(value)
    .map(([key, one]) => `${JSON.stringify(key)}: ${inline(one)}`)
    .join(", ")}}`;
}

/** The clip of a list on the latent grid; what is missing or wrong is as the recipe of LTX-2 has it. @param {List}
 * list @param {number} [source] seconds of its source, where they are known @returns {Clip} */
export function clipOf(list, source) {
  const { width, height, fps, frames, seconds = source ?? 0, stages } = { ...DEFAULTS, frames: undefined, ...list.clip };
  const length = Number.isInteger(frames) ? { frames } : seconds > 0 ? { seconds } : { frames: DEFAULTS.frames };
  const plan = planClip(width, height, length, fps, "nearest", stages === 2 ? 2 : 1);
  const plain = planClip(DEFAULTS.width, DEFAULTS.height, { frames: DEFAULTS.frames }, DEFAULTS.fps);
  return plan && plan.frames <= MAX_FRAMES ? plan : /** @type {Clip} */ (plain);
}
