// @ts-check
/** Elements of the timeline: made with text only, never from HTML, and styled below one class. */

/**
 * @param {string} tag
 * @param {Record<string, any>} [properties] of the element; "class", "role" and aria-* are attributes
 * @param {(Node | string)[]} [children]
 * @returns {any}
 */
export function element(tag, properties = {}, children = []) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue;
    if (name in made && !name.startsWith("aria-")) /** @type {any} */ (made)[name] = value;
    else made.setAttribute(name, String(value));
  }
  made.append(...children);
  return made;
}

/** @param {string} text @param {string} name what it does, for tooltips and screen readers @param {() => void} press */
export function button(text, name, press) {
  return element("button", { type: "button", textContent: text, title: name, "aria-label": name, onclick: press });
}

export const STYLE = `
.ltx2-timeline { display: flex; flex-direction: column; gap: 4px; height: 100%; box-sizing: border-box; overflow: auto;
  font: 12px/1.4 sans-serif; color: var(--input-text, #ddd); background: var(--comfy-menu-bg, #353535);
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px; padding: 4px; }
.ltx2-timeline * { box-sizing: border-box; }
.ltx2-timeline .bar { display: flex; flex-wrap: wrap; gap: 3px; align-items: center; }
.ltx2-timeline button, .ltx2-timeline .fields input, .ltx2-timeline .fields textarea, .ltx2-timeline .fields select {
  font: inherit; color: inherit; background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #4e4e4e);
  border-radius: 3px; padding: 2px 6px; }
.ltx2-timeline button { cursor: pointer; min-width: 26px; }
.ltx2-timeline button:disabled { opacity: 0.4; cursor: default; }
.ltx2-timeline button[aria-pressed="true"] { border-color: #f5a524; }
.ltx2-timeline :is(button, input, textarea, select):focus-visible { outline: 2px solid #f5a524; outline-offset: -1px; }
.ltx2-timeline .space { flex: 1; }
.ltx2-timeline .stage { position: relative; flex: none; }
.ltx2-timeline canvas { display: block; width: 100%; touch-action: none; }
.ltx2-timeline .keys { position: absolute; inset: 0; width: 100%; height: 100%; opacity: 0; cursor: inherit;
  border: 0; padding: 0; touch-action: none; }
.ltx2-timeline .stage:has(.keys:focus-visible) { outline: 2px solid #f5a524; outline-offset: 1px; }
.ltx2-timeline .fields { display: flex; flex-wrap: wrap; gap: 4px 8px; align-items: end; }
.ltx2-timeline .fields label { display: flex; flex-direction: column; font-size: 11px; min-width: 0; }
.ltx2-timeline .fields input { width: 84px; }
.ltx2-timeline .fields input.long { width: 170px; }
.ltx2-timeline .fields label.wide { flex: 1 1 100%; }
.ltx2-timeline .fields textarea { width: 100%; height: 44px; resize: vertical; }
.ltx2-timeline .said { font-size: 11px; min-height: 16px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.ltx2-timeline ul { margin: 0; padding: 0; list-style: none; font-size: 11px; max-height: 52px; overflow: auto; flex: none; }
.ltx2-timeline li { padding-left: 14px; position: relative; overflow-wrap: anywhere; }
.ltx2-timeline li::before { content: "i"; position: absolute; left: 3px; font-weight: bold; color: #8ab4f8; }
.ltx2-timeline li.error::before { content: "!"; color: #e5484d; }
.ltx2-timeline video { width: 100%; max-height: 240px; background: #000; flex: none; }
`;
