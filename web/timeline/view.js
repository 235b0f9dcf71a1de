// @ts-check
/** Which seconds of the clip are seen: zoom, scroll, ticks, and what is snapped to. */
import { latentStarts } from "../grid.js";

/** @import { Clip } from "../grid.js" */
/** @typedef {{ start: number, scale: number }} View seconds at the left edge, and pixels of a second */

const MOST_SCALE = 2000;
const STEPS = [0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];

/** The whole clip in ``width`` pixels. @param {number} seconds @param {number} width @returns {View} */
export function fitted(seconds, width) {
  return { start: 0, scale: Math.max(width, 1) / Math.max(seconds, 1e-3) };
}

/** @param {View} view @param {number} seconds */
export function toX(view, seconds) {
  return (seconds - view.start) * view.scale;
}

/** @param {View} view @param {number} x */
export function toSeconds(view, x) {
  return view.start + x / view.scale;
}

/** Zoom so that the second under ``x`` stays there. @param {View} view @param {number} factor @param {number} x
 * @param {number} seconds of the clip @param {number} width in pixels @returns {View} */
export function zoomed(view, factor, x, seconds, width) {
  const least = fitted(seconds, width).scale;
  const scale = Math.min(Math.max(view.scale * factor, least), Math.max(MOST_SCALE, least));
  return scrolled({ start: toSeconds(view, x) - x / scale, scale }, 0, seconds, width);
}

/** @param {View} view @param {number} by seconds @param {number} seconds of the clip @param {number} width
 * @returns {View} */
export function scrolled(view, by, seconds, width) {
  const latest = Math.max(0, seconds - width / view.scale);
  return { ...view, start: Math.max(0, Math.min(latest, view.start + by)) };
}

/** Seconds between two ticks. @param {View} view @param {number} apart pixels */
export function tickStep(view, apart = 70) {
  return STEPS.find((step) => step * view.scale >= apart) ?? STEPS[STEPS.length - 1];
}

/** Where items snap: latent frames, and edges of other items. @param {Clip} clip @param {number[]} edges in seconds
 * @returns {number[]} seconds, rising */
export function snapPoints(clip, edges) {
  const points = [...latentStarts(clip.frames), clip.frames - 1].map((frame) => frame / clip.fps);
  return [...new Set([...points, ...edges])].sort((a, b) => a - b);
}

/** The nearest point within ``reach`` seconds, else the nearest frame. @param {number} seconds @param {number[]}
 * points rising @param {number} reach @param {number} fps */
export function snapped(seconds, points, reach, fps) {
  const near = nearest(seconds, points);
  if (near !== null && Math.abs(near - seconds) <= reach) return near;
  return Math.max(0, Math.round(seconds * fps) / fps);
}

/** @param {number} value @param {number[]} points rising @returns {number | null} */
function nearest(value, points) {
  let low = 0;
  let high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle] < value) low = middle + 1;
    else high = middle;
  }
  const [before, after] = [points[low - 1], points[low]];
  if (before === undefined || after === undefined) return before ?? after ?? null;
  return value - before <= after - value ? before : after;
}
