// @ts-check
/** LTX-2 Clip Plan says what becomes of its size and length while they are typed, and whether memory is enough. */
import { planClip } from "./grid.js";
import { after, widgetOf } from "./widgets.js";

const NODE = "LTX2AVClipPlan";
const ROUTE = "/ltx2av/plan";
const PAUSE_MS = 500;
const WIDGETS = ["width", "height", "length_unit", "length", "fps", "snap", "stages", "with_audio"];
const LOADERS = ["LTX2AVLoadAll", "LTX2AVLoadCheckpoint"];

/** A number as Python's %g writes it. @param {number} value */
export function short(value) {
  return String(Number(value.toPrecision(6)));
}

/** The report of LTX-2 Clip Plan for what is typed. @param {Record<string, any>} typed values of the widgets by name
 * @returns {string} "" for values that the node refuses */
export function described(typed) {
  const { width, height, length_unit, length, fps, snap, with_audio } = typed;
  const stages = Number(typed.stages);
  const byFrames = length_unit === "frames";
  const plan = planClip(width, height, byFrames ? { frames: length } : { seconds: length }, fps, snap, stages);
  if (!plan) return "";
  const lines = [`${plan.width} x ${plan.height}, ${plan.frames} frames at ${short(fps)} fps = ${plan.seconds.toFixed(3)} s`];
  if (stages === 2) lines.push(`first stage: ${plan.width / 2} x ${plan.height / 2}`);
  lines.push(with_audio === false ? "without audio" : `audio: ${plan.audioLatents} latents`);
  for (const [name, value, used] of [["width", width, plan.width], ["height", height, plan.height]]) {
    if (value !== used) lines.push(`${name} is ${used} instead of ${value}: it must be a multiple of ${32 * stages}`);
  }
  const wanted = byFrames ? length : Number((length * fps).toFixed(6));
  if (wanted !== plan.frames) {
    const asked = byFrames ? `frames=${length}` : `seconds=${short(length)} (${short(length * fps)} frames at ${short(fps)} fps)`;
    lines.push(`the clip has ${plan.frames} frames (${plan.seconds.toFixed(3)} s) instead of ${asked}: it must be 8k + 1 frames`);
  }
  return lines.join("\n");
}

/** @param {any} node @param {any} api the page's api */
export function showPlan(node, api) {
  const report = widgetOf(node, "report")?.element;
  if (node.comfyClass !== NODE || !report) return;
  const memory = document.createElement("div");
  let waiting = 0;
  let said = "";
  const tell = () => {
    const typed = valuesOf(node);
    const text = typed ? described(typed) : "";
    if (text === said) return;
    said = text;
    // What the node reported of other values would be wrong now.
    report.textContent = text;
    memory.replaceChildren();
    clearTimeout(waiting);
    if (text) {
      waiting = window.setTimeout(async () => {
        const plan = await planned(node, api, typed);
        // Another size is typed by now.
        if (!plan || said !== text) return;
        memory.replaceChildren(bar(plan), `${plan.model}: ${plan.text}`);
        node.setDirtyCanvas?.(true, true);
      }, PAUSE_MS);
    }
    report.append(memory);
    node.setDirtyCanvas?.(true, true);
  };
  for (const name of WIDGETS) {
    const widget = widgetOf(node, name);
    if (widget) after(widget, "callback", tell);
  }
  for (const method of ["onConfigure", "onConnectionsChange", "onAdded"]) after(node, method, tell);
  after(node, "onExecuted", () => report.append(memory));
  after(node, "onRemoved", () => clearTimeout(waiting));
}

/** @param {any} node @returns {Record<string, any> | null} null where a link decides */
function valuesOf(node) {
  const linked = (/** @type {string} */ name) =>
    node.inputs?.some((/** @type {any} */ one) => one.name === name && one.link != null);
  if ([...WIDGETS, "image"].some(linked)) return null;
  const values = Object.fromEntries(node.widgets.map((/** @type {any} */ one) => [one.name, one.value]));
  return values.length_unit === "auto" ? null : values;
}

/** The memory plan of a clip with the model of the graph, by the pack's route. @param {any} node of the graph @param
 * {any} api @param {Record<string, any>} typed size and length, as widgets of LTX-2 Clip Plan @returns {Promise<any>}
 * null where there is none */
export async function planned(node, api, typed) {
  const loader = node.graph?.nodes?.find((/** @type {any} */ one) => LOADERS.includes(one.type));
  const model = widgetOf(loader, "ckpt_name")?.value ?? "";
  const { width, height, fps, snap, stages, length, length_unit } = typed;
  const query = new URLSearchParams({ width, height, fps, snap, stages, length, length_unit, model });
  const answer = await api.fetchApi(`${ROUTE}?${query}`).catch(() => null);
  return answer?.ok ? answer.json().catch(() => null) : null;
}

/** Bars of the stages against the budget. @param {any} plan the answer of the route */
function bar({ stages, budget }) {
  const most = Math.max(budget, ...stages.map((/** @type {any} */ one) => one.weights + one.working));
  const root = document.createElement("div");
  root.style.cssText = "display: flex; gap: 4px; margin: 2px 0;";
  for (const { name, weights, working } of stages) {
    const one = document.createElement("div");
    one.title = `${name}: ${size(weights)} of weights, ${size(working)} to work, of ${size(budget)}`;
    one.setAttribute("role", "img");
    one.setAttribute("aria-label", one.title);
    const color = weights + working > budget ? "#e5484d" : "#46a758";
    const [first, second] = [weights, weights + working].map((bytes) => `${(100 * bytes) / most}%`);
    one.style.cssText = `flex: 1; height: 6px; border-radius: 2px; background: linear-gradient(to right,
      ${color} ${first}, ${color}99 ${first} ${second}, #8884 ${second});`;
    root.append(one);
  }
  return root;
}

/** @param {number} bytes */
function size(bytes) {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
