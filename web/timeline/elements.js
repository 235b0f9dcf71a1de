// @ts-check
/** Elements of the timeline: made with text only, never from HTML, and styled below one class. */
import { phrase } from "./texts.js";

/** @param {string} tag @param {Record<string, any>} [properties] of the element; "class", "role" and aria-* are
 * attributes @param {(Node | string)[]} [children] @returns {any} */
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
  const title = phrase(name);
  return element("button", { type: "button", textContent: phrase(text), title, "aria-label": title, onclick: press });
}

export const STYLE = `
.ltx2-timeline { display:flex;flex-direction:column;gap:4px;height:100%;box-sizing:border-box;overflow:auto;
  font:12px/1.4 sans-serif;color:var(--input-text, #ddd);background:var(--comfy-menu-bg, #353535);
  border:1px solid var(--border-color, #4e4e4e);border-radius:4px;padding:4px;
& * { box-sizing:border-box }
& .bar { display:flex;flex-wrap:wrap;gap:3px;align-items:center }
& :is(button, .fields input, .fields textarea, .fields select) {
  font:inherit;color:inherit;background:var(--comfy-input-bg, #222);border:1px solid var(--border-color, #4e4e4e);
  border-radius:3px;padding:2px 6px }
& button { cursor:pointer;min-width:26px }
& button:disabled { opacity:0.4;cursor:default }
& button[aria-pressed="true"] { border-color:#f5a524 }
& :is(button, input, textarea, select):focus-visible { outline:2px solid #f5a524;outline-offset:-1px }
& .space { flex:1 }
& .stage { position:relative;flex:none }
& canvas { display:block;width:100%;touch-action:none }
& .keys { position:absolute;inset:0;width:100%;height:100%;opacity:0;cursor:inherit;
  border:0;padding:0;touch-action:none }
& .stage:has(.keys:focus-visible) { outline:2px solid #f5a524;outline-offset:1px }
& .fields { display:flex;flex-wrap:wrap;gap:4px 8px;align-items:end }
& .fields label { display:flex;flex-direction:column;font-size:11px;min-width:0 }
& .fields input { width:84px }
& .fields input.long { width:170px }
& .fields label.wide { flex:1 1 100% }
& .fields textarea { width:100%;height:44px;resize:vertical }
& .said { font-size:11px;min-height:16px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap }
& ul { margin:0;padding:0;list-style:none;font-size:11px;max-height:52px;overflow:auto;flex:none }
& li { padding-left:14px;position:relative;overflow-wrap:anywhere }
& li::before { content:"i";position:absolute;left:3px;font-weight:bold;color:#8ab4f8 }
& li.error::before { content:"!";color:#e5484d }
& video { width:100%;max-height:240px;background:#000;flex:none }
}
`;
