// @ts-check
/** Model files of a workflow on the page: where they are installed, and what replaces the tiny test models. */

/** Property of a node in the shipped workflows: by widget, the value with the tiny models and a real one. */
export const RELEASED = "ltx2_released";

/** Prepare the nodes of an opened workflow: released files in place of tiny ones that are not installed, and files
 * under the name by which this ComfyUI lists them. @param {any[]} nodes @returns {any[]} the nodes that have changed */
export function fitFiles(nodes) {
  const loaders = nodes.filter((node) => node.properties?.models);
  const changed = new Set(loaders.some(lacksTiny) ? useReleased(nodes) : []);
  for (const node of loaders) {
    for (const widget of node.widgets ?? []) {
      if (set(widget, listed(widget))) changed.add(node);
    }
  }
  return [...changed];
}

/** Set widgets to released files and to sizes of real clips, where they still have the tiny ones. @param {any[]}
 * nodes @returns {any[]} the nodes that have changed */
export function useReleased(nodes) {
  const changed = new Set();
  for (const node of nodes) {
    for (const widget of node.widgets ?? []) {
      const [tiny, released] = node.properties?.[RELEASED]?.[widget.name] ?? [];
      if (widget.value === tiny && set(widget, released)) changed.add(node);
    }
  }
  return [...changed];
}

/** Give a widget another value, as if the user had chosen it. @param {any} widget @param {any} value nothing happens
 * if it is undefined or the one that the widget has @returns {boolean} whether the value has changed */
function set(widget, value) {
  if (value === undefined || value === widget.value) return false;
  widget.value = value;
  widget.callback?.(value);
  return true;
}

/** @param {any} node */
function lacksTiny(node) {
  return (node.widgets ?? []).some(
    (/** @type {any} */ widget) =>
      isFile(widget.value) && widget.value === node.properties[RELEASED]?.[widget.name]?.[0] && !listed(widget),
  );
}

/** The file of a widget as this ComfyUI lists it: by its name alone, or below a folder. @param {any} widget @returns
 * {string | undefined} undefined if it is not listed, or if the widget holds no file */
function listed({ value, options }) {
  if (!isFile(value) || !Array.isArray(options?.values)) return undefined;
  if (options.values.includes(value)) return value;
  return options.values.find((/** @type {any} */ one) => String(one).replaceAll("\\", "/").endsWith(`/${value}`));
}

/** @param {any} value */
function isFile(value) {
  return typeof value === "string" && /\.safetensors$/i.test(value);
}
