// @ts-check
/** What is wrong with a shot list, or not as it was written, while it is edited. */
import { itemsOf, streamOf, TIMES, trimOf } from "./items.js";
import { clipOf, MAX_FRAMES } from "./list.js";
import { KINDS } from "./model.js";
import { phrase } from "./texts.js";
import { secondsOf } from "./times.js";

/** @import { Clip } from "../grid.js" */
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
  const clip = clipOf(list, lengths(list.source?.file));
  const items = itemsOf(list, clip, lengths);
  const found = [...ofClip(list, clip), ...ofParts(list, items), ...ofTimes(clip, items), ...ofFiles(items, missing)];
  found.push(...ofAudio(list, clip, items, lengths), ...ofRegions(list, missing), ...ofGraph(list));
  return found.sort((a, b) => Number(b.error) - Number(a.error)).slice(0, MOST);
}

/** @param {List} list @param {Clip} clip @returns {Warning[]} */
function ofClip(list, clip) {
  const { width, height, seconds, frames, fps } = list.clip ?? {};
  /** @type {Warning[]} */
  const found = [];
  if (seconds !== undefined && frames !== undefined) found.push(error("The clip has seconds and frames: write one."));
  const given = Object.entries({ width, height, seconds, frames, fps }).filter(([, value]) => value !== undefined);
  const wrong = given.filter(([name, value]) => !(value > 0) || (name !== "seconds" && name !== "fps" && !Number.isInteger(value)));
  if (wrong.length) return [...found, ...wrong.map(([name]) => error("The %1 of the clip must be a number above 0.", name))];
  const wanted = frames ?? (seconds === undefined ? undefined : seconds * clip.fps);
  if (wanted > MAX_FRAMES) return [...found, error("The clip is too long.")];
  if (wanted !== undefined && Math.abs(wanted - clip.frames) > 1e-6) {
    found.push(note("%1 frames become %2 (8k + 1), %3 s.", Number(wanted.toFixed(2)), clip.frames, clip.seconds.toFixed(3)));
  }
  for (const name of /** @type {("width" | "height")[]} */ (["width", "height"])) {
    const value = list.clip?.[name];
    if (value !== undefined && value !== clip[name]) found.push(note("%1 %2 becomes %3.", name, value, clip[name]));
  }
  return found;
}

/** @param {List} list @param {Item[]} items @returns {Warning[]} */
function ofParts(list, items) {
  const parts = items.filter((item) => item.track === "parts");
  const empty = parts.filter((part) => !part.label.trim());
  const whole = String(list.prompt ?? "").trim();
  if (empty.length === parts.length && !whole) return [error("There is no prompt yet.")];
  const found = empty.map((part) => error("The prompt from %1 s is empty.", part.start.toFixed(2)));
  parts.forEach((part, number) => {
    if (number && part.start <= parts[number - 1].start) {
      found.push(error("Two prompts begin at %1 s.", part.start.toFixed(2)));
    }
  });
  return found;
}

/** @param {Clip} clip @param {Item[]} items @returns {Warning[]} */
function ofTimes(clip, items) {
  /** @type {Warning[]} */
  const found = [];
  for (const item of items) {
    for (const key of TIMES[item.track]) {
      const time = item.entry[key] ?? 0;
      const seconds = secondsOf(time, clip);
      if (Number.isNaN(seconds)) found.push(error("%1: %2 is no time.", named(item), String(time).slice(0, 20)));
      else if (seconds > clip.seconds + 1e-3) found.push(error("%1 is after the end of the clip.", named(item)));
    }
    if (TIMES[item.track][1] && item.end <= item.start) found.push(error("%1 ends before it begins.", named(item)));
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
    .filter((item) => item.track !== "parts" && item.track !== "regions" && (!item.label || missing(item.label)))
    .map((item) => error(item.label ? "%1 is not in the input folder." : "%1 has no file.", named(item)));
}

/** @param {List} list @param {Clip} clip @param {Item[]} items @param {(file: string) => number | undefined} lengths
 * @returns {Warning[]} */
function ofAudio(list, clip, items, lengths) {
  const pieces = items.filter((item) => item.track === "audio" && lengths(item.label) !== undefined);
  const found = pieces.flatMap((item) => {
    const length = /** @type {number} */ (lengths(item.label));
    const [from, to] = trimOf(item.entry);
    if (from >= length) return [error("%1 begins after its file ends, at %2 s.", named(item), length.toFixed(2))];
    return to !== null && to > length + 1e-3 ? [note("%1 ends with its file, at %2 s.", named(item), length.toFixed(2))] : [];
  });
  const end = Math.max(...pieces.map((item) => item.end));
  if (pieces.length && pieces.length === (list.audio ?? []).length && end < clip.seconds - 0.05) {
    found.push(note("The audio ends at %1 s: silence follows until %2 s.", end.toFixed(2), clip.seconds.toFixed(2)));
  }
  return found;
}

/** @param {List} list @param {(file: string) => boolean} missing @returns {Warning[]} */
function ofRegions(list, missing) {
  const regions = list.regions ?? [];
  if (list.source) {
    if (missing(list.source.file)) return [error("%1 is not in the input folder.", String(list.source.file))];
    return regions.length ? [] : [error("There is a source, and no region of it to regenerate.")];
  }
  if (regions.some((/** @type {any} */ one) => streamOf(one) !== "audio")) return [error("Regions of the video need a source: press Take result, or name a video.")];
  return regions.length && !list.audio?.length ? [error("Regions of the audio need a source or audio.")] : [];
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
  const kind = phrase(KINDS[item.track]);
  return label && item.track !== "regions" ? `${kind} ${label}` : `${kind} ${item.index + 1}`;
}

/** @param {string} text @param {(string | number)[]} values @returns {Warning} */
function error(text, ...values) {
  return { error: true, text: phrase(text, ...values) };
}

/** @param {string} text @param {(string | number)[]} values @returns {Warning} */
function note(text, ...values) {
  return { error: false, text: phrase(text, ...values) };
}
