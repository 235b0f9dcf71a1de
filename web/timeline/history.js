// @ts-check
/** Undo and redo of one timeline. */

const MOST = 200;

export class History {
  constructor() {
    /** @type {string[]} */
    this.texts = [];
    this.at = -1;
  }

  /** Remember a text as the present one; what was undone before is forgotten. @param {string} text */
  push(text) {
    if (text === this.texts[this.at]) return;
    this.texts = [...this.texts.slice(0, this.at + 1), text].slice(-MOST);
    this.at = this.texts.length - 1;
  }

  /** @returns {string | null} the text before, or null at the first one */
  undo() {
    return this.at > 0 ? this.texts[--this.at] : null;
  }

  /** @returns {string | null} */
  redo() {
    return this.at < this.texts.length - 1 ? this.texts[++this.at] : null;
  }
}
