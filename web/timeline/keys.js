// @ts-check
/** What keys do while the tracks have the focus; all others are left to the page and to other packs. */

/** @import { Panel } from "./panel.js" */

/** Named in the help of the node. @type {Record<string, (panel: Panel) => void>} */
export const KEYS = {
  " ": (panel) => panel.player.toggle(),
  Delete: (panel) => panel.model.remove(),
  Backspace: (panel) => panel.model.remove(),
  s: (panel) => panel.model.split(),
  n: (panel) => panel.toggleSnap(),
  ArrowLeft: (panel) => panel.nudge(-1),
  ArrowRight: (panel) => panel.nudge(1),
  "Shift+ArrowLeft": (panel) => panel.nudge(-8),
  "Shift+ArrowRight": (panel) => panel.nudge(8),
  ArrowUp: (panel) => panel.model.nudge(5, true),
  ArrowDown: (panel) => panel.model.nudge(-5, true),
  Home: (panel) => panel.seek(0),
  End: (panel) => panel.seek(panel.model.clip.seconds),
  Escape: (panel) => panel.giveUp(),
  "+": (panel) => panel.zoom(1.5),
  "=": (panel) => panel.zoom(1.5),
  "-": (panel) => panel.zoom(1 / 1.5),
  f: (panel) => panel.fit(),
  "Ctrl+z": (panel) => panel.model.undo(),
  "Ctrl+Shift+z": (panel) => panel.model.redo(),
  "Ctrl+y": (panel) => panel.model.redo(),
};

/** @param {KeyboardEvent} event @param {Panel} panel */
export function pressed(event, panel) {
  // Tab walks through the items, and leaves at the ends.
  if (event.key === "Tab" && !event.ctrlKey && panel.model.items.length) {
    if (panel.model.step(event.shiftKey ? -1 : 1)) used(event);
    return panel.update();
  }
  const shift = event.shiftKey && event.key.length > 1 ? "Shift+" : "";
  const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const control = event.ctrlKey || event.metaKey;
  const name = control ? `Ctrl+${event.shiftKey ? "Shift+" : ""}${letter}` : `${shift}${letter}`;
  const action = event.altKey ? undefined : KEYS[name];
  if (!action) return undefined;
  used(event);
  action(panel);
  return panel.update();
}

/** @param {Event} event */
function used(event) {
  event.preventDefault();
  event.stopPropagation();
}
