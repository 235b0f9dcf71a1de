// @ts-check
/** The latent grid on the page: the rules of ltx2_core/shapes.py, with the same rounding. */
import { AUDIO_LATENTS_PER_SECOND, SPATIAL_SCALE, TEMPORAL_SCALE } from "./grid_table.js";

/** @typedef {{ width: number, height: number, frames: number, fps: number, seconds: number, audioLatents: number }}
 * Clip */

/** Bring a value to `first + k * step`. @param {number} value @param {number} first @param {number} step @param
 * {string} rule "floor", "nearest" (the smaller of two), "ceil" or "error" @returns {number | null} null where the rule
 * is "error" and the value is off the grid */
export function snap(value, first, step, rule) {
  const steps = (value - first) / step;
  const below = first + Math.max(0, Math.floor(steps)) * step;
  const above = first + Math.max(0, Math.ceil(steps)) * step;
  if (rule === "error") return below === value ? below : null;
  if (rule === "floor") return below;
  if (rule === "ceil") return above;
  return value - below <= above - value ? below : above;
}

/** A size and length on the latent grid. @param {number} width in pixels @param {number} height in pixels @param {{
 * frames?: number, seconds?: number }} length one of the two @param {number} fps @param {string} rule of {@link snap}
 * @param {number} stages 1 or 2 @returns {Clip | null} null for values that the library refuses */
export function planClip(width, height, length, fps, rule = "nearest", stages = 1) {
  const given = length.frames ?? length.seconds ?? NaN;
  if (![width, height, given, fps].every((one) => Number.isFinite(one) && one > 0)) return null;
  if (![width, height, length.frames ?? 1].every(Number.isInteger)) return null;
  const multiple = SPATIAL_SCALE * stages;
  // Seconds times 24000/1001 miss the whole frame by a few ulp.
  const wanted = length.frames ?? Number((given * fps).toFixed(6));
  const wide = snap(width, multiple, multiple, rule);
  const high = snap(height, multiple, multiple, rule);
  const frames = snap(wanted, 1, TEMPORAL_SCALE, rule);
  if (wide === null || high === null || frames === null) return null;
  const seconds = frames / fps;
  const audioLatents = Math.max(1, Math.ceil(seconds * AUDIO_LATENTS_PER_SECOND));
  return { width: wide, height: high, frames, fps, seconds, audioLatents };
}

/** The frames at which latent frames begin: 0, 1, 9, 17, ... @param {number} frames of the clip @returns {number[]}
 * */
export function latentStarts(frames) {
  const starts = [0];
  for (let frame = 1; frame < frames; frame += TEMPORAL_SCALE) starts.push(frame);
  return starts;
}
