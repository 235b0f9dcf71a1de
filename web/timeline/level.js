// @ts-check
/** The level line of an item: strength of an image or a control video, gain of an audio piece. */
import { changed, clamp } from "./edit.js";
import { strengthOf } from "./items.js";
import { phrase } from "./texts.js";

/** @import { Item } from "./items.js" */

const QUIETEST_DB = -40;
const LOUDEST_DB = 12;

/** @param {Item} item @returns {number | undefined} from 0 to 1; undefined where there is none */
export function levelOf(item) {
  if (item.track !== "audio") {
    const strength = strengthOf(item);
    return strength === undefined ? undefined : clamp(strength, 0, 1);
  }
  const gain = Number(item.entry.gain_db) || 0;
  return clamp((gain - QUIETEST_DB) / (LOUDEST_DB - QUIETEST_DB), 0, 1);
}

/** @param {import("./list.js").List} list @param {Item} item @param {number} level from 0 to 1 */
export function withLevel(list, item, level) {
  const value = clamp(level, 0, 1);
  if (item.track !== "audio") return changed(list, item, { strength: Math.round(value * 100) / 100 });
  const gain = Math.round(QUIETEST_DB + value * (LOUDEST_DB - QUIETEST_DB));
  return changed(list, item, { gain_db: gain });
}

/** @param {Item} item @returns {string} the level in words, or "" */
export function levelInWords(item) {
  if (item.track === "audio") return `${Number(item.entry.gain_db) || 0} dB`;
  const strength = strengthOf(item);
  return strength === undefined ? "" : phrase("strength %1", strength);
}
