// @ts-check
/** Plays the audio pieces of a timeline, or the clip that was made last, along with its playhead. */
import { trimOf } from "./items.js";

/** @import { Model } from "./model.js" */

export class Player {
  /** @param {Model} model @param {import("./media.js").Media} media @param {HTMLVideoElement} video shows the result;
   * without a source the audio pieces are played @param {() => void} moved called for each frame while it plays, and when
   * it stops */
  constructor(model, media, video, moved) {
    this.model = model;
    this.media = media;
    this.video = video;
    this.moved = moved;
    this.playing = false;
    /** @type {AudioContext | null} */
    this.context = null;
    this.frame = 0;
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    const { model } = this;
    if (model.playhead >= model.clip.seconds - 1 / model.clip.fps) model.playhead = 0;
    this.playing = true;
    if (this.video.src) {
      this.video.currentTime = model.playhead;
      this.video.play().catch(() => this.pause());
    } else this.pieces();
    const from = model.playhead;
    const began = performance.now();
    const tick = () => {
      const passed = (performance.now() - began) / 1000;
      model.playhead = Math.min(model.clip.seconds, this.video.src ? this.video.currentTime : from + passed);
      if (model.playhead >= model.clip.seconds || this.video.ended) return this.pause();
      this.frame = requestAnimationFrame(tick);
      return this.moved();
    };
    this.frame = requestAnimationFrame(tick);
  }

  /** Start all pieces that are heard after the playhead, with their gain and fades. */
  pieces() {
    const { model, media } = this;
    this.context = new AudioContext();
    const now = this.context.currentTime;
    for (const item of model.items) {
      const buffer = item.track === "audio" && media.of(item.entry.file, "audio").buffer;
      const late = Math.max(0, model.playhead - item.start);
      const length = Math.min(item.end, model.clip.seconds) - item.start;
      if (!buffer || length - late <= 0) continue;
      const begin = now + Math.max(0, item.start - model.playhead);
      const gain = this.context.createGain();
      const loud = 10 ** ((Number(item.entry.gain_db) || 0) / 20);
      const fade = Math.min(Number(item.entry.fade) || 0, (length - late) / 2);
      gain.gain.setValueAtTime(fade && !late ? 0 : loud, begin);
      if (fade) {
        gain.gain.linearRampToValueAtTime(loud, begin + fade);
        gain.gain.setValueAtTime(loud, begin + length - late - fade);
        gain.gain.linearRampToValueAtTime(0, begin + length - late);
      }
      const source = new AudioBufferSourceNode(this.context, { buffer });
      source.connect(gain).connect(this.context.destination);
      source.start(begin, trimOf(item.entry)[0] + late, length - late);
    }
  }

  pause() {
    this.playing = false;
    cancelAnimationFrame(this.frame);
    this.context?.close();
    this.context = null;
    this.video.pause();
    this.moved();
  }

  /** Show the frame at the playhead. */
  seek() {
    if (this.playing) this.pause();
    if (this.video.src) this.video.currentTime = this.model.playhead;
  }

  destroy() {
    this.moved = () => {};
    this.pause();
    if (!this.video.src) return;
    this.video.removeAttribute("src");
    this.video.load();
  }
}
