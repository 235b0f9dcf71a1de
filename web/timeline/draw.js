// @ts-check
/** Draws a timeline on a canvas: what is outside of the view costs nothing. */
import { TEMPORAL_SCALE } from "../grid_table.js";
import { trimOf } from "./items.js";
import { boxOf, HEIGHT, LABELS, levelY, rowOf, ROWS, RULER } from "./layout.js";
import { levelOf } from "./level.js";
import { kindOf, loudest } from "./media.js";
import { phrase } from "./texts.js";
import { tickStep, toSeconds, toX } from "./view.js";

/** @import { Item } from "./items.js" */
/** @import { Box } from "./layout.js" */
/** @typedef {CanvasRenderingContext2D} Ctx */
/** @typedef {{ text: string, faint: string, line: string, ground: string, dark: boolean }} Colours */
/**
 * @typedef {object} Scene
 * @property {import("./model.js").Model} model
 * @property {import("./view.js").View} view
 * @property {import("./media.js").Media} media
 * @property {Colours} colours
 * @property {number} width in CSS pixels
 * @property {boolean} focused
 */

const LEAST_LATENT = 5;

/** @param {Ctx} ctx @param {Scene} scene */
export function draw(ctx, scene) {
  const { model, view, width, colours } = scene;
  ctx.clearRect(0, 0, width, HEIGHT);
  ctx.font = "11px sans-serif";
  ctx.textBaseline = "middle";
  ctx.fillStyle = colours.ground;
  for (const row of ROWS) ctx.fillRect(LABELS, row.y, width - LABELS, row.height);
  ctx.save();
  ctx.beginPath();
  ctx.rect(LABELS, 0, width - LABELS, HEIGHT);
  ctx.clip();
  drawRuler(ctx, scene);
  const source = model.list?.source?.file;
  if (source) drawThumbnail(ctx, scene, source, { ...rowOf("regions"), x: LABELS, width });
  for (const item of model.items) if (item !== model.selected) drawItem(ctx, scene, item);
  if (model.selected) drawItem(ctx, scene, model.selected);
  const x = LABELS + toX(view, model.playhead);
  ctx.fillStyle = "#e5484d";
  ctx.fillRect(x - 0.75, 0, 1.5, HEIGHT);
  ctx.beginPath();
  ctx.moveTo(x - 5, 0);
  ctx.lineTo(x + 5, 0);
  ctx.lineTo(x, 8);
  ctx.fill();
  ctx.restore();
  ctx.fillStyle = colours.text;
  for (const row of ROWS) ctx.fillText(phrase(row.name), 4, row.y + row.height / 2, LABELS - 8);
}

/** @param {Ctx} ctx @param {Scene} scene */
function drawRuler(ctx, { model, view, width, colours }) {
  const { clip } = model;
  ctx.fillStyle = colours.faint;
  const end = Math.min(width, LABELS + toX(view, clip.seconds));
  if ((TEMPORAL_SCALE / clip.fps) * view.scale >= LEAST_LATENT) {
    const first = Math.max(0, Math.floor((view.start * clip.fps) / TEMPORAL_SCALE));
    for (let k = first; k * TEMPORAL_SCALE + 1 < clip.frames; k += 1) {
      const x = LABELS + toX(view, (k * TEMPORAL_SCALE + 1) / clip.fps);
      if (x > width) break;
      ctx.fillRect(x, RULER - 4, 1, 4);
    }
  }
  const step = tickStep(view);
  const last = toSeconds(view, width - LABELS);
  for (let i = Math.ceil(view.start / step); i * step <= Math.min(last, clip.seconds); i += 1) {
    const x = LABELS + toX(view, i * step);
    ctx.fillStyle = colours.line;
    ctx.fillRect(x, RULER - 8, 1, HEIGHT);
    ctx.fillStyle = colours.faint;
    ctx.fillText(`${Number((i * step).toFixed(2))} s`, x + 3, 8);
  }
  ctx.fillStyle = colours.line;
  ctx.fillRect(LABELS, RULER, end - LABELS, 1);
}

/** @param {Ctx} ctx @param {Scene} scene @param {Item} item */
function drawItem(ctx, scene, item) {
  const { view, width, colours, model } = scene;
  const box = boxOf(item, view, width);
  if (box.x > width || box.x + box.width < LABELS) return;
  const selected = item === model.selected;
  const { hue } = rowOf(item.track);
  ctx.save();
  ctx.beginPath();
  ctx.roundRect(box.x, box.y, box.width, box.height, 3);
  ctx.fillStyle = `hsl(${hue} ${colours.dark ? "35% 32%" : "60% 82%"})`;
  ctx.fill();
  ctx.save();
  ctx.clip();
  if (item.track === "audio") drawWave(ctx, scene, item, box);
  else if (item.entry.file !== undefined) drawThumbnail(ctx, scene, item.entry.file, box);
  if (item.track !== "images") drawLabel(ctx, colours, item, box, width);
  ctx.restore();
  ctx.lineWidth = selected ? 2 : 1;
  ctx.strokeStyle = selected ? (scene.focused ? "#f5a524" : colours.text) : `hsl(${hue} 45% 55%)`;
  ctx.stroke();
  if (item.track === "images") {
    ctx.fillStyle = `hsl(${hue} 70% 50%)`;
    ctx.fillRect(LABELS + toX(view, item.start) - 1, box.y, 2, box.height);
  }
  drawLevel(ctx, item, box, selected);
  ctx.restore();
}

/** @param {Ctx} ctx @param {Colours} colours @param {Item} item @param {Box} box @param {number} width */
function drawLabel(ctx, colours, item, box, width) {
  const x = Math.max(box.x, LABELS) + 6;
  const room = Math.min(box.x + box.width, width) - x - 4;
  if (room < 12) return;
  ctx.fillStyle = colours.text;
  // Letters that do not fit cost time for nothing.
  const label = item.track === "regions" ? phrase(item.label) : item.label;
  ctx.fillText(label.slice(0, Math.ceil(room / 3)) || "…", x, box.y + (item.track === "audio" ? 8 : box.height / 2));
}

/** @param {Ctx} ctx @param {Scene} scene @param {unknown} file @param {Box} box */
function drawThumbnail(ctx, { media }, file, box) {
  const { image, state } = media.of(file, kindOf(String(file)));
  if (!image) {
    ctx.fillText(state === "missing" ? "?" : "…", box.x + box.height / 2, box.y + box.height / 2);
    return;
  }
  const scale = box.height / image.height;
  ctx.drawImage(image, box.x, box.y, image.width * scale, box.height);
}

/** @param {Ctx} ctx @param {Scene} scene @param {Item} item @param {Box} box */
function drawWave(ctx, { media, view, width, colours }, item, box) {
  const { peaks } = media.of(item.entry.file, "audio");
  if (!peaks) return;
  const [from] = trimOf(item.entry);
  const middle = box.y + box.height / 2 + 4;
  ctx.fillStyle = colours.dark ? "hsl(32 70% 62%)" : "hsl(32 80% 42%)";
  const first = Math.max(box.x, LABELS);
  const last = Math.min(box.x + box.width, width);
  for (let x = first; x < last; x += 2) {
    const at = from + toSeconds(view, x - LABELS) - item.start;
    const high = loudest(peaks, at, at + 2 / view.scale) * (box.height / 2 - 6);
    ctx.fillRect(x, middle - high, 1.5, Math.max(1, 2 * high));
  }
}

/** @param {Ctx} ctx @param {Item} item @param {Box} box @param {boolean} selected */
function drawLevel(ctx, item, box, selected) {
  const level = levelOf(item);
  if (level === undefined || (level === 1 && !selected && item.track !== "audio")) return;
  const y = levelY(box, level);
  ctx.fillStyle = selected ? "#f5a524" : "#f5a524aa";
  ctx.fillRect(box.x, y - 1, box.width, 2);
  if (!selected) return;
  ctx.beginPath();
  ctx.arc(box.x + box.width / 2, y, 4, 0, 7);
  ctx.fill();
}
