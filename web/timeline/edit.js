// @ts-check
/** Edits of a shot list: each takes a list and returns another one, and leaves what it does not touch. */
import { find, itemsOf, TIMES, trimOf } from "./items.js";
import { rounded, secondsOf, written } from "./times.js";

/** @import { Clip } from "../grid.js" */
/** @import { List } from "./list.js" */
/** @import { Item, Lengths, Place } from "./items.js" */
/** @typedef {{ list: List, place: Place | null }} Edit a list, and the entry that is selected in it */

/** @param {List} list @param {Place} place @param {Record<string, any>} changes keys to set; undefined removes one
 * @returns {List} */
export function changed(list, { track, index }, changes) {
  const entries = [...list[track]];
  const entry = { ...entries[index], ...changes };
  for (const key of Object.keys(changes)) if (changes[key] === undefined) delete entry[key];
  entries[index] = entry;
  return { ...list, [track]: entries };
}

/** Set keys of ``clip``. @param {List} list @param {Record<string, any>} changes @returns {List} */
export function changedClip(list, changes) {
  const { clip } = changed({ clip: [list.clip ?? {}] }, { track: "clip", index: 0 }, changes);
  return { ...list, clip: clip[0] };
}

/** Set the clip whose regions are regenerated. @param {List} list @param {unknown} file undefined for none @returns
 * {List} */
export function sourced(list, file) {
  const { source, ...rest } = list;
  return file === undefined ? rest : { ...rest, source: { ...source, file } };
}

/** Add an entry. @param {List} list @param {string} track @param {Record<string, any>} entry @returns {Edit} */
export function added(list, track, entry) {
  const entries = [...(list[track] ?? []), entry];
  return { list: { ...list, [track]: entries }, place: { track, index: entries.length - 1 } };
}

/** @param {List} list @param {Place} place @returns {List} */
export function removed(list, { track, index }) {
  return { ...list, [track]: list[track].filter((/** @type {any} */ _, /** @type {number} */ i) => i !== index) };
}

/** Move an item so that it starts at ``seconds``; parts keep their length where a part follows. @param {List} list
 * @param {Clip} clip @param {Place} place @param {number} seconds @returns {List} */
export function moved(list, clip, place, seconds) {
  const item = find(itemsOf(list, clip), place);
  if (!item) return list;
  if (item.track === "parts") return movedPart(list, clip, item, seconds);
  if (TIMES[item.track][1]) {
    const length = item.end - item.start;
    const from = clamp(seconds, 0, Math.max(0, clip.seconds - length));
    return from === item.start ? list : ranged(list, clip, item, from, from + length);
  }
  const start = clamp(seconds, 0, (clip.frames - 1) / clip.fps);
  const last = Math.round(start * clip.fps) >= clip.frames - 1;
  const at = item.track === "images" && last ? "end" : written(start, clip, item.entry.at);
  return changed(list, place, { at });
}

/** Set both ends of a region, or of the seconds in which a control video counts. @param {List} list @param {Clip} clip
 * @param {Item} item @param {number} start @param {number} end */
function ranged(list, clip, item, start, end) {
  const { from, to } = item.entry;
  // No number for the end: a longer clip has it too.
  const last = end > clip.seconds - 0.5 / clip.fps;
  return changed(list, item, { from: written(start, clip, from), to: last ? "end" : written(end, clip, to) });
}

/** @param {List} list @param {Clip} clip @param {Item} item @param {number} seconds */
function movedPart(list, clip, item, seconds) {
  const parts = itemsOf(list, clip).filter((one) => one.track === "parts");
  const number = parts.findIndex((one) => one.index === item.index);
  if (number === 0) return list;
  const next = parts[number + 1];
  const frame = 1 / clip.fps;
  const latest = (parts[number + 2]?.start ?? clip.seconds) - frame - (next ? item.end - item.start : 0);
  const start = clamp(seconds, parts[number - 1].start + frame, latest);
  let result = begun(list, clip, item, start, parts[number - 1]);
  if (next) result = begun(result, clip, next, start + item.end - item.start, item);
  return result;
}

/** Begin a part at ``start``; ends that were written say nothing any more. @param {List} list @param {Clip} clip
 * @param {Item} part @param {number} start @param {Item} before */
function begun(list, clip, part, start, before) {
  const result = "to" in before.entry ? changed(list, before, { to: undefined }) : list;
  return changed(result, part, { from: written(start, clip, part.entry.from), to: undefined });
}

/** Move one edge of an item to ``seconds``: of a range, of a part, or of what is heard of an audio file. @param {List}
 * list @param {Clip} clip @param {Place} place @param {"start" | "end"} edge @param {number} seconds @param {Lengths}
 * lengths @returns {List} */
export function trimmed(list, clip, place, edge, seconds, lengths = () => undefined) {
  const items = itemsOf(list, clip, lengths);
  const item = find(items, place);
  if (item?.track === "audio") return trimmedAudio(list, clip, item, edge, seconds, lengths);
  if (!item || item.track === "images") return list;
  if (item.track !== "parts") {
    const least = 1 / clip.fps;
    const [start, end] =
      edge === "start" ? [clamp(seconds, 0, item.end - least), item.end] : [item.start, clamp(seconds, item.start + least, clip.seconds)];
    return ranged(list, clip, item, start, end);
  }
  const parts = items.filter((one) => one.track === "parts");
  const cut = parts.findIndex((one) => one.index === item.index) + (edge === "end" ? 1 : 0);
  if (cut === 0 || cut >= parts.length) return list;
  const frame = 1 / clip.fps;
  const start = clamp(seconds, parts[cut - 1].start + frame, parts[cut].end - frame);
  return begun(list, clip, parts[cut], start, parts[cut - 1]);
}

/** @param {List} list @param {Clip} clip @param {Item} item @param {"start" | "end"} edge @param {number} seconds
 * @param {Lengths} lengths */
function trimmedAudio(list, clip, item, edge, seconds, lengths) {
  const [from, to] = trimOf(item.entry);
  const frame = 1 / clip.fps;
  if (edge === "end") {
    const longest = (lengths(item.label) ?? Infinity) - from;
    const length = clamp(seconds - item.start, frame, longest);
    // The end of the file is not written, so that a longer file is heard to its end.
    return changed(list, item, { trim: length >= longest ? [from, null] : [from, rounded(from + length)] });
  }
  const start = clamp(seconds, Math.max(0, item.start - from), item.end - frame);
  const trim = [rounded(from + start - item.start), to];
  return changed(list, item, { at: written(start, clip, item.entry.at), trim });
}

/** Split an item at ``seconds``. @param {List} list @param {Clip} clip @param {Place} place @param
 * {number} seconds @param {Lengths} lengths @returns {Edit | null} null where there is nothing to split */
export function split(list, clip, place, seconds, lengths = () => undefined) {
  const item = find(itemsOf(list, clip, lengths), place);
  const frame = 1 / clip.fps;
  if (!item || seconds < item.start + frame / 2 || seconds > item.end - frame / 2) return null;
  if (item.track === "parts") {
    const { to: _, ...entry } = item.entry;
    return added(changed(list, place, { to: undefined }), "parts", { ...entry, from: written(seconds, clip, entry.from) });
  }
  if (item.track === "images") return null;
  if (item.track !== "audio") {
    const before = ranged(list, clip, item, item.start, seconds);
    const after = ranged(list, clip, item, seconds, item.end)[item.track][item.index];
    return added(before, item.track, after);
  }
  const [from, to] = trimOf(item.entry);
  const middle = rounded(from + seconds - item.start);
  const second = { ...item.entry, at: written(seconds, clip, item.entry.at), trim: [middle, to] };
  return added(changed(list, place, { trim: [from, middle] }), "audio", second);
}

/** An entry as a list of its own, which can be pasted into another one. @param {List} list @param {Place} place */
export function copied(list, { track, index }) {
  return { format: "ltx2.shots/1", [track]: [list[track][index]] };
}

/** Add all entries of another list, the first of them at ``seconds``. @param {List} list @param {Clip} clip @param
 * {List} other @param {number} seconds @returns {Edit | null} null where there is nothing to add */
export function pasted(list, clip, other, seconds) {
  const items = itemsOf(other, clip);
  const first = Math.min(...items.map((item) => secondsOf(item.entry.from ?? item.entry.at ?? 0, clip)));
  /** @type {Edit | null} */
  let result = null;
  for (const { track, start, end, entry } of items) {
    const [key, to] = TIMES[track];
    const at = seconds + secondsOf(entry[key] ?? 0, clip) - first;
    const { to: _, ...rest } = entry;
    const timed = Number.isNaN(at) ? rest : { ...rest, [key]: written(at, clip, entry[key]) };
    if (to) timed.to = written(Math.min(clip.seconds, at + end - start), clip, entry.to);
    result = added(result?.list ?? list, track, timed);
  }
  return result;
}

/** @param {number} value @param {number} least @param {number} most */
export function clamp(value, least, most) {
  return Math.max(least, Math.min(most, value));
}
