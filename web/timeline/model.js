// @ts-check
/** The state of one timeline, without a page: its list, what is selected, the playhead, undo and redo. */
import * as edit from "./edit.js";
import { History } from "./history.js";
import { find, itemsOf, TIMES } from "./items.js";
import { levelInWords, levelOf, withLevel } from "./level.js";
import { clipOf, parse, serialise } from "./list.js";
import { phrase } from "./texts.js";
import { inWords, written } from "./times.js";
import { snapPoints, snapped } from "./view.js";

/** @import { List } from "./list.js" */
/** @import { Item, Place } from "./items.js" */
/** @typedef {"move" | "start" | "end" | "level"} Grip what of an item is held */

/** Names of one entry. @type {Record<string, string>} */
export const KINDS = { parts: "Prompt", images: "Image", control: "Control video", audio: "Audio", regions: "Region" };

export class Model {
  /** @param {(text: string) => void} write called with each new text @param {import("./items.js").Lengths} lengths
   * seconds of audio files */
  constructor(write, lengths = () => undefined) {
    this.write = write;
    this.lengths = lengths;
    this.text = "";
    /** @type {List | null} */
    this.list = null;
    this.error = "";
    this.clip = clipOf({});
    /** @type {Item[]} */
    this.items = [];
    /** @type {Place | null} */
    this.place = null;
    this.playhead = 0;
    this.snapping = true;
    this.history = new History();
    /** @type {{ list: List, item: Item, grip: Grip, points: number[] } | null} */
    this.held = null;
  }

  /** Show a text that came from outside. @param {string} text */
  load(text) {
    if (text === this.text) return;
    this.show(text);
    if (!this.error) this.history.push(text);
  }

  /** @param {string} text */
  show(text) {
    this.text = text;
    this.held = null;
    const { list, error } = parse(text);
    this.error = error;
    this.set(list);
  }

  /** @param {List | null} list */
  set(list) {
    this.list = list;
    this.refresh();
    if (!find(this.items, this.place)) this.place = null;
  }

  /** Count items again, as when the length of a file became known. */
  refresh() {
    this.clip = clipOf(this.list ?? {}, this.lengths(this.list?.source?.file));
    this.items = this.list ? itemsOf(this.list, this.clip, this.lengths) : [];
    this.playhead = edit.clamp(this.playhead, 0, this.clip.seconds);
  }

  get selected() {
    return find(this.items, this.place);
  }

  /** Take a new list as the truth. @param {List | null} list @param {Place | null} place what is selected then @param
   * {boolean} remember whether undo goes back to before it */
  commit(list, place = this.place, remember = true) {
    if (!list) return;
    const text = list === this.list && !this.held ? this.text : serialise(list);
    this.held = null;
    this.place = place;
    this.set(list);
    if (text === this.text && !remember) return;
    const written = text !== this.text;
    this.text = text;
    if (remember) this.history.push(text);
    if (written) this.write(text);
  }

  /** @param {Place} item @param {Grip} grip */
  hold(item, grip) {
    if (!this.list) return;
    this.place = { track: item.track, index: item.index };
    const held = /** @type {Item} */ (this.selected);
    const others = this.items.filter((one) => one !== held);
    const edges = others.flatMap((one) => [one.start, one.end]);
    this.held = { list: this.list, item: held, grip, points: snapPoints(this.clip, [...edges, this.playhead]) };
  }

  /** Drag what is held. @param {number} seconds by which the pointer moved since then @param {number} level by which
   * it moved up, from -1 to 1 @param {number} reach seconds within which it snaps */
  drag(seconds, level, reach) {
    if (!this.held) return;
    const { list, item, grip, points } = this.held;
    const held = this.held;
    const to = (/** @type {number} */ time) => snapped(time, points, this.snapping ? reach : 0, this.clip.fps);
    if (grip === "level") this.set(withLevel(list, item, (levelOf(item) ?? 0) + level));
    else if (grip === "move") this.set(edit.moved(list, this.clip, item, to(item.start + seconds)));
    else this.set(edit.trimmed(list, this.clip, item, grip, to(item[grip] + seconds), this.lengths));
    this.held = held;
  }

  /** End a drag. @param {boolean} keep whether its result is kept */
  drop(keep) {
    if (!this.held) return;
    const { list } = this.held;
    if (keep && this.list !== list) this.commit(this.list);
    else this.set(list);
    this.held = null;
  }

  undo() {
    this.restore(this.history.undo());
  }

  redo() {
    this.restore(this.history.redo());
  }

  /** @param {string | null} text */
  restore(text) {
    if (text === null) return;
    this.show(text);
    this.write(text);
  }

  remove() {
    if (this.list && this.place) this.commit(edit.removed(this.list, this.place), null);
  }

  split() {
    const under = this.items.find((one) => one.track === "parts" && one.start < this.playhead && this.playhead < one.end);
    const place = this.place ?? under;
    if (!this.list || !place) return;
    const result = edit.split(this.list, this.clip, place, this.playhead, this.lengths);
    if (result) this.commit(result.list, result.place);
  }

  /** Add an entry at the playhead. @param {string} track @param {Record<string, any>} entry */
  add(track, entry) {
    if (!this.list) return;
    const { clip } = this;
    const [key, to] = TIMES[track];
    const at = to ? Math.max(0, Math.min(this.playhead, clip.seconds - 1)) : this.playhead;
    // A control video counts in the whole clip, and a region is a second.
    const times = track === "control" ? {} : { [key]: written(at, clip), ...(to && { to: written(at + 1, clip) }) };
    const { list, place } = edit.added(this.list, track, { ...entry, ...times });
    // As if it were dragged there: an image at the last frame is at the end.
    this.commit(key === "at" ? edit.moved(list, clip, /** @type {Place} */ (place), at) : list, place);
  }

  /** @returns {string} the selected entry as text of its own */
  copy() {
    return this.list && this.place ? serialise(edit.copied(this.list, this.place)) : "";
  }

  /** @param {string} text @returns {boolean} whether it was a shot list with entries */
  paste(text) {
    const other = parse(text).list;
    const result = this.list && other && edit.pasted(this.list, this.clip, other, this.playhead);
    if (result) this.commit(result.list, result.place);
    return Boolean(result);
  }

  /** Move the selected item by frames, or its level by hundredths. @param {number} frames @param {boolean} level */
  nudge(frames, level = false) {
    const item = this.selected;
    if (!this.list || !item) return;
    if (level) this.commit(withLevel(this.list, item, (levelOf(item) ?? 0) + frames / 100));
    else this.commit(edit.moved(this.list, this.clip, item, Math.max(0, item.start + frames / this.clip.fps)));
  }

  /** Select the next or the previous item. @param {1 | -1} by @returns {boolean} false at the end */
  step(by) {
    const now = this.items.findIndex((one) => one === this.selected);
    const next = this.items[now < 0 ? (by > 0 ? 0 : this.items.length - 1) : now + by];
    this.place = next ? { track: next.track, index: next.index } : null;
    return Boolean(next);
  }

  /** @param {Record<string, any>} changes of the selected entry, or of the clip */
  change(changes, remember = true) {
    if (!this.list) return;
    if (this.place) this.commit(edit.changed(this.list, this.place, changes), this.place, remember);
    else this.commit(edit.changedClip(this.list, changes), null, remember);
  }

  /** What is selected, in words. */
  get words() {
    if (this.error) return phrase("No shot list: %1", this.error);
    const { clip, selected } = this;
    if (!selected) return phrase("Clip of %1 frames, %2 s, %3 x %4", clip.frames, clip.seconds.toFixed(2), clip.width, clip.height);
    const from = inWords(selected.start, clip);
    const times = selected.end > selected.start ? phrase("%1 to %2 s", from, selected.end.toFixed(2)) : from;
    const parts = [phrase(KINDS[selected.track]), selected.label.slice(0, 80), times, levelInWords(selected)];
    return parts.filter(Boolean).join(", ");
  }
}
