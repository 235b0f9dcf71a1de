// @ts-check
/** What is wrong with a shot list, or not as it was written, while it is edited. */
import { itemsOf, trimOf } from "./items.js";
import { clipOf, MAX_FRAMES } from "./list.js";
import { secondsOf } from "./times.js";

/** @import { List } from "./list.js" */
/** @import { Item } from "./items.js" */
/** @typedef {{ error: boolean, text: string }} Warning an error stops the run */

const MOST = 20;
const ELSEWHERE = {
  control: "Control videos: in a graph connect LTX-2 Add Guide.",
  loras: "LoRAs: in a graph use LTX-2 Load LoRA.",
  voice: "A voice: in a graph connect LTX-2 Reference Audio.",
};

/** @param {List} list @param {(file: string) => number | undefined} lengths seconds of audio files, as far as they
 * are known @param {(file: string) => boolean} missing whether a file is known not to be there @returns {Warning[]}
 * errors first, at most 20 */
export function warningsOf(list, lengths = () => undefined, missing = () => false) {
  const items = itemsOf(list, clipOf(list), lengths);
  const found = [...ofClip(list), ...ofParts(list, items), ...ofTimes(list, items), ...ofFiles(items, missing)];
  found.push(...ofAudio(list, items, lengths), ...ofGraph(list));
  return found.sort((a, b) => Number(b.error) - Number(a.error)).slice(0, MOST);
}

/** @param {List} list @returns {Warning[]} */
function ofClip(list) {
  const clip = clipOf(list);
  const { width, height, seconds, frames, fps } = list.clip ?? {};
  /** @type {Warning[]} */
  const found = [];
  if (seconds !== undefined && frames !== undefined) found.push(error("The clip has seconds and frames: write one."));
  const given = Object.entries({ width, height, seconds, frames, fps }).filter(([, value]) => value !== undefined);
  const wrong = given.filter(([name, value]) => !(value > 0) || (name !== "seconds" && name !== "fps" && !Number.isInteger(value)));
  if (wrong.length) return [...found, ...wrong.map(([name]) => error(`The ${name} of the clip must be a number above 0.`))];
  const wanted = frames ?? (seconds === undefined ? undefined : seconds * clip.fps);
  if (wanted > MAX_FRAMES) return [...found, error("The clip is too long.")];
  if (wanted !== undefined && Math.abs(wanted - clip.frames) > 1e-6) {
    found.push(note(`${Number(wanted.toFixed(2))} frames become ${clip.frames} (8k + 1), ${clip.seconds.toFixed(3)} s.`));
  }
  for (const name of /** @type {("width" | "height")[]} */ (["width", "height"])) {
    const value = list.clip?.[name];
    if (value !== undefined && value !== clip[name]) found.push(note(`${name} ${value} becomes ${clip[name]}.`));
  }
  return found;
}

/** @param {List} list @param {Item[]} items @returns {Warning[]} */
function ofParts(list, items) {
  const parts = items.filter((item) => item.track === "parts");
  const empty = parts.filter((part) => !part.label.trim());
  const whole = String(list.prompt ?? "").trim();
  if (empty.length === parts.length && !whole) return [error("There is no prompt yet.")];
  const found = empty.map((part) => error(`The prompt from ${part.start.toFixed(2)} s is empty.`));
  parts.forEach((part, number) => {
    if (number && part.start <= parts[number - 1].start) {
      found.push(error(`Two prompts begin at ${part.start.toFixed(2)} s.`));
    }
  });
  return found;
}

/** @param {List} list @param {Item[]} items @returns {Warning[]} */
function ofTimes(list, items) {
  const clip = clipOf(list);
  /** @type {Warning[]} */
  const found = [];
  for (const item of items) {
    if (item.track === "control") continue;
    const time = (item.track === "parts" ? item.entry.from : item.entry.at) ?? 0;
    const seconds = secondsOf(time, clip);
    if (Number.isNaN(seconds)) found.push(error(`${named(item)}: ${String(time).slice(0, 20)} is no time.`));
    else if (seconds > clip.seconds + 1e-3) found.push(error(`${named(item)} is after the end of the clip.`));
  }
  const first = items.filter(isFirstImage);
  if (first.length > 1) found.push(error("Two images are the first frame: give one of them mode key."));
  return found;
}

/** @param {Item} item */
function isFirstImage(item) {
  return item.track === "images" && (item.entry.mode ?? (item.start === 0 ? "start" : "key")) === "start";
}

/** @param {Item[]} items @param {(file: string) => boolean} missing @returns {Warning[]} */
function ofFiles(items, missing) {
  return items
    .filter((item) => item.track !== "parts" && (!item.label || missing(item.label)))
    .map((item) => error(item.label ? `${named(item)} is not in the input folder.` : `${named(item)} has no file.`));
}

/** @param {List} list @param {Item[]} items @param {(file: string) => number | undefined} lengths
 * @returns {Warning[]} */
function ofAudio(list, items, lengths) {
  const clip = clipOf(list);
  const pieces = items.filter((item) => item.track === "audio" && lengths(item.label) !== undefined);
  const found = pieces.flatMap((item) => {
    const length = /** @type {number} */ (lengths(item.label));
    const [from, to] = trimOf(item.entry);
    if (from >= length) return [error(`${named(item)} begins after its file ends, at ${length.toFixed(2)} s.`)];
    return to !== null && to > length + 1e-3 ? [note(`${named(item)} ends with its file, at ${length.toFixed(2)} s.`)] : [];
  });
  const end = Math.max(...pieces.map((item) => item.end));
  if (pieces.length && pieces.length === (list.audio ?? []).length && end < clip.seconds - 0.05) {
    found.push(note(`The audio ends at ${end.toFixed(2)} s: silence follows until ${clip.seconds.toFixed(2)} s.`));
  }
  return found;
}

/** What the node leaves to other nodes. @param {List} list @returns {Warning[]} */
function ofGraph(list) {
  const found = Object.entries(ELSEWHERE)
    .filter(([key]) => (Array.isArray(list[key]) ? list[key].length : list[key]))
    .map(([, text]) => error(text));
  if (list.clip?.stages === 2) found.push(error("Two stages: in a graph set stages to 1."));
  return found;
}

/** @param {Item} item */
function named(item) {
  const label = item.label.length > 40 ? `${item.label.slice(0, 40)}…` : item.label;
  const kind = { parts: "Prompt", images: "Image", control: "Control video", audio: "Audio" }[item.track];
  return label ? `${kind} ${label}` : `${kind} ${item.index + 1}`;
}

/** @param {string} text @returns {Warning} */
function error(text) {
  return { error: true, text };
}

/** @param {string} text @returns {Warning} */
function note(text) {
  return { error: false, text };
}
