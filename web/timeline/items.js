// @ts-check
/** What a timeline shows of a shot list: items with a track, a start and an end in seconds. */
import { secondsOf } from "./times.js";

/** @import { Clip } from "../grid.js" */
/** @import { List } from "./list.js" */
/** @typedef {{ track: string, index: number }} Place an entry of a list */
/** What is shown of an entry; an image ends at its start.
 * @typedef {{ track: string, index: number, start: number, end: number, label: string,
 * entry: Record<string, any> }} Item */
/** Seconds of files by name, as far as they are known. @typedef {(file: string) => number | undefined} Lengths */

export const TRACKS = [
  { key: "parts", name: "Prompts", height: 40, hue: 212 },
  { key: "images", name: "Images", height: 46, hue: 140 },
  { key: "control", name: "Control", height: 24, hue: 275 },
  { key: "audio", name: "Audio", height: 46, hue: 32 },
  { key: "regions", name: "Regions", height: 32, hue: 0 },
];

/** Keys of an entry that are times. @type {Record<string, string[]>} */
export const TIMES = { parts: ["from"], images: ["at"], control: ["from", "to"], audio: ["at"], regions: ["from", "to"] };

/** All items of a list, track by track, each track by its starts. @param {List} list @param {Clip} clip @param
 * {Lengths} lengths of audio files @returns {Item[]} */
export function itemsOf(list, clip, lengths = () => undefined) {
  return TRACKS.flatMap(({ key }) => {
    /** @type {Item[]} */
    const items = (list[key] ?? []).map((/** @type {any} */ entry, /** @type {number} */ index) =>
      itemOf(key, entry, index, clip, lengths),
    );
    items.sort((a, b) => a.start - b.start || a.index - b.index);
    return key === "parts" ? until(items, clip) : items;
  });
}

/** @param {string} track @param {Record<string, any>} entry @param {number} index @param {Clip} clip @param {Lengths}
 * lengths @returns {Item} */
function itemOf(track, entry, index, clip, lengths) {
  const [from, to] = TIMES[track];
  // What cannot be read is shown at the start, and a warning says so.
  const start = secondsOf(entry[from] ?? 0, clip) || 0;
  const label = String((track === "parts" ? entry.prompt : track === "regions" ? streamOf(entry) : entry.file) ?? "");
  const item = { track, index, start, end: start, label, entry };
  if (track === "audio") return { ...item, end: start + heard(entry, lengths, clip.seconds - start) };
  if (!to) return item;
  const end = entry.to === "end" ? NaN : secondsOf(entry.to, clip);
  return { ...item, end: Math.max(start, Number.isNaN(end) ? clip.seconds : end) };
}

/** Which stream a region is of: "video", "audio" or "both". @param {Record<string, any>} entry */
export function streamOf(entry) {
  return entry.track ?? "both";
}

/** Seconds for which an audio piece is heard; ``rest`` while its length is not known. @param {Record<string, any>} entry
 * @param {Lengths} lengths @param {number} rest */
function heard(entry, lengths, rest) {
  const [from, to] = trimOf(entry);
  const end = to ?? lengths(String(entry.file));
  return end === undefined ? Math.max(0.1, rest) : Math.max(0, end - from);
}

/** Start and end of what is used of a file, in its seconds. @param {Record<string, any>} entry
 * @returns {[number, number | null]} */
export function trimOf(entry) {
  const [from, to] = Array.isArray(entry.trim) ? entry.trim : [];
  return [Number(from) || 0, typeof to === "number" ? to : null];
}

/** Each part lasts until the next one. @param {Item[]} items @param {Clip} clip */
function until(items, clip) {
  return items.map((item, number) => ({
    ...item,
    // The first one holds from the start of the clip, whatever it says.
    start: number === 0 ? 0 : item.start,
    end: Math.max(item.start, items[number + 1]?.start ?? clip.seconds),
  }));
}

/** @param {Item[]} items @param {Place | null} place */
export function find(items, place) {
  return items.find((one) => one.track === place?.track && one.index === place?.index);
}

/** @param {Item} item @returns {number | undefined} undefined where entries of this kind have none */
export function strengthOf(item) {
  if (item.track !== "images" && item.track !== "control") return undefined;
  const strength = item.entry.strength ?? 1;
  return typeof strength === "number" ? strength : 1;
}
