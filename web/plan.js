// @ts-check
/** LTX-2 Clip Plan says what becomes of its size and length while they are typed, and whether memory is enough. */
import { planClip } from "./grid.js";
import { element } from "./timeline/elements.js";
import { after, widgetOf } from "./widgets.js";

const NODE = "LTX2AVClipPlan";
const ROUTE = "/ltx2av/plan";
const PAUSE_MS = 500;
const WIDGETS = ["width", "height", "length_unit", "length", "fps", "snap", "stages", "with_audio"];
const LOADERS = ["LTX2AVLoadAll", "LTX2AVLoadCheckpoint"];

/** Size and length of the clip for what is typed. @param {Record<string, any>} typed values of the widgets by name
 * @returns {string} "" for values that the node refuses */
export function described({ width, height, length_unit, length, fps, snap, stages }) {
  const plan = planClip(width, height, { [length_unit]: length }, fps, snap, Number(stages));
  return plan ? `${plan.width} x ${plan.height}, ${plan.frames} frames at ${Number(fps.toPrecision(6))} fps = ${plan.seconds.toFixed(3)} s` : "";
}

/** @param {any} node @param {any} api the page's api */
export function showPlan(node, api) {
  const report = widgetOf(node, "report")?.element;
  if (node.comfyClass !== NODE || !report) return;
  const memory = element("div");
  let waiting = 0;
  let said = "";
  const tell = () => {
    const typed = valuesOf(node);
    const text = typed ? described(typed) : "";
    const now = text && JSON.stringify(typed);
    if (now === said) return;
    said = now;
    // What the node reported of other values would be wrong now.
    report.textContent = text;
    memory.replaceChildren();
    clearTimeout(waiting);
    if (text) {
      waiting = window.setTimeout(async () => {
        const plan = await planned(node, api, typed);
        // Another size is typed by now.
        if (!plan || said !== now) return;
        report.textContent = plan.report;
        report.append(memory);
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
  const query = new URLSearchParams({ ...typed, model });
  const answer = await api.fetchApi(`${ROUTE}?${query}`).catch(() => null);
  return answer?.ok ? answer.json().catch(() => null) : null;
}

/** Bars of the stages against the budget. @param {any} plan the answer of the route */
function bar({ stages, budget }) {
  const most = Math.max(budget, ...stages.map((/** @type {any} */ one) => one.weights + one.working));
  const one = (/** @type {any} */ { name, weights, working }) => {
    const title = `${name}: ${size(weights)} of weights, ${size(working)} to work, of ${size(budget)}`;
    const color = weights + working > budget ? "#e5484d" : "#46a758";
    const [first, second] = [weights, weights + working].map((bytes) => `${(100 * bytes) / most}%`);
    const style = `flex:1;height:6px;border-radius:2px;background:linear-gradient(to right,
      ${color} ${first}, ${color}99 ${first} ${second}, #8884 ${second})`;
    return element("div", { title, role: "img", "aria-label": title, style });
  };
  return element("div", { style: "display:flex;gap:4px;margin:2px 0" }, stages.map(one));
}

/** @param {number} bytes */
function size(bytes) {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
