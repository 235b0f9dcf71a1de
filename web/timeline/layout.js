// @ts-check
/** Where tracks and items are on the canvas, in pixels, and what is under the pointer. */
import { streamOf, TRACKS } from "./items.js";
import { levelOf } from "./level.js";
import { toX } from "./view.js";

/** @import { Item } from "./items.js" */
/** @import { View } from "./view.js" */
/** @typedef {{ x: number, y: number, width: number, height: number }} Box */
/** @typedef {{ item: Item, grip: import("./model.js").Grip } | { ruler: true } | { track: string } | null} Hit */

export const LABELS = 62;
export const RULER = 22;
const GAP = 4;
const EDGE = 6;
const LEAST = 5;

/** Top and height of each track. */
export const ROWS = (() => {
  let y = RULER + GAP;
  return TRACKS.map((track) => {
    const row = { ...track, y };
    y += row.height + GAP;
    return row;
  });
})();
export const HEIGHT = ROWS[ROWS.length - 1].y + ROWS[ROWS.length - 1].height + GAP;

/** @param {string} key */
export function rowOf(key) {
  return /** @type {typeof ROWS[0]} */ (ROWS.find((row) => row.key === key));
}

/** An image is a square that begins at its time, or ends at the last one. @param {Item} item @param {View} view
 * @param {number} width of the canvas @returns {Box} */
export function boxOf(item, view, width) {
  const { y, height } = rowOf(item.track);
  const x = LABELS + toX(view, item.start);
  if (item.track !== "images") {
    const wide = Math.max(LEAST, (item.end - item.start) * view.scale);
    // A region of one stream has its half of the track.
    const half = item.track === "regions" && streamOf(item.entry) !== "both" ? height / 2 : 0;
    return { x, y: y + (half && streamOf(item.entry) === "audio" ? half : 0), width: wide, height: height - half };
  }
  const seen = x >= LABELS && x <= width + 1;
  return { x: seen ? Math.min(x, width - height) : x, y, width: height, height };
}

/** What is at a place of the canvas; what is drawn last is found first. @param {Item[]} items @param {View} view
 * @param {number} x @param {number} y @param {number} width of the canvas @param {Item | undefined} selected which lies
 * on top @returns {Hit} */
export function hitAt(items, view, x, y, width, selected) {
  if (x < LABELS) return null;
  if (y < RULER) return { ruler: true };
  const row = ROWS.find((one) => y >= one.y && y < one.y + one.height);
  if (!row) return null;
  const inside = (/** @type {Item} */ item) => {
    const box = boxOf(item, view, width);
    return item.track === row.key && x >= box.x - 1 && x <= box.x + box.width + 1 && y >= box.y && y < box.y + box.height;
  };
  if (selected && inside(selected)) return { item: selected, grip: gripAt(selected, view, x, y, width) };
  for (let i = items.length - 1; i >= 0; i -= 1) {
    if (inside(items[i])) return { item: items[i], grip: gripAt(items[i], view, x, y, width) };
  }
  return { track: row.key };
}

/** @param {Item} item @param {View} view @param {number} x @param {number} y @param {number} width
 * @returns {import("./model.js").Grip} */
function gripAt(item, view, x, y, width) {
  const box = boxOf(item, view, width);
  const edge = item.track === "images" ? -2 : Math.min(EDGE, box.width / 3);
  if (x <= box.x + edge) return "start";
  if (x >= box.x + box.width - edge) return "end";
  const level = levelOf(item);
  return level !== undefined && Math.abs(y - levelY(box, level)) <= 4 ? "level" : "move";
}

/** @param {Box} box @param {number} level */
export function levelY(box, level) {
  return box.y + 3 + (1 - level) * (box.height - 6);
}
