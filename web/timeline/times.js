// @ts-check
/** Times of a shot list: seconds, "0:30", a frame as "f48", a share as "50%", and for images "end". */
import { phrase } from "./texts.js";

/** @import { Clip } from "../grid.js" */

const CLOCK = /^(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)$/;
const PLAIN = /^(\d+(?:\.\d+)?)s?$/;

/** A time in seconds from the start of the clip. @param {unknown} time @param {Clip} clip @returns {number} NaN for
 * what is no time */
export function secondsOf(time, clip) {
  if (typeof time === "number") return time >= 0 ? time : NaN;
  if (typeof time !== "string" || time.length > 20) return NaN;
  const text = time.trim();
  if (text === "end") return (clip.frames - 1) / clip.fps;
  if (/^f\d{1,9}$/.test(text)) return Number(text.slice(1)) / clip.fps;
  if (/^\d{1,3}(?:\.\d+)?%$/.test(text)) return (Number(text.slice(0, -1)) / 100) * clip.seconds;
  const plain = PLAIN.exec(text);
  if (plain) return Number(plain[1]);
  const clock = CLOCK.exec(text);
  return clock ? Number(clock[1] ?? 0) * 3600 + Number(clock[2]) * 60 + Number(clock[3]) : NaN;
}

/** A time as it is written: seconds, or a frame where the time before was one. @param {number} seconds @param {Clip}
 * clip @param {unknown} before the time that is replaced @returns {number | string} */
export function written(seconds, clip, before = 0) {
  const frame = Math.round(seconds * clip.fps);
  if (typeof before === "string" && /^\s*f\d/.test(before)) return `f${frame}`;
  return rounded(seconds);
}

/** Seconds to a tenth of a millisecond, which is nearer than any frame. @param {number} seconds */
export function rounded(seconds) {
  return Math.round(seconds * 1e4) / 1e4;
}

/** A time in words: "2.50 s, frame 60". @param {number} seconds @param {Clip} clip */
export function inWords(seconds, clip) {
  return phrase("%1 s, frame %2", seconds.toFixed(2), Math.round(seconds * clip.fps));
}
