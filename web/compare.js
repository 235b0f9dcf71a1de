// @ts-check
/** Two videos in the same place with a slider between them. */
import { shownBelow } from "./shown.js";
import { button, element } from "./timeline/elements.js";
import { viewUrl } from "./timeline/media.js";
import { phrase } from "./timeline/texts.js";

const HEIGHT = 260;
const FILL = "position:absolute;inset:0;width:100%;height:100%;object-fit:contain;background:#000";
/** Seconds by which the videos may be apart before one of them jumps. */
const APART = 0.1;

/** @param {any} node @param {any} api the page's api */
export function showCompared(node, api) {
  shownBelow(node, "ltx2_compare", HEIGHT, (files) => compared(files.map((file) => viewUrl(api, file))));
}

/** @param {string[]} urls of the video before and the one after */
function compared([first, second]) {
  const video = (/** @type {string} */ src, /** @type {string} */ name) =>
    element("video", { src, loop: true, preload: "auto", style: FILL, "aria-label": phrase(name) });
  const [before, after] = [video(first, "Before"), video(second, "After")];
  // The audio is that of the result.
  before.muted = true;
  const line = element("div", { style: "position:absolute;top:0;bottom:0;width:2px;background:#f5a524" });
  const slider = element("input", { type: "range", min: 0, max: 100, value: 50, style: "flex:1", "aria-label": phrase("Slider between before and after") });
  const play = button("▶", "Play both", () => (after.paused ? after.play().catch(() => {}) : after.pause()));
  const split = () => {
    after.style.clipPath = `inset(0 0 0 ${slider.value}%)`;
    line.style.left = `calc(${slider.value}% - 1px)`;
  };
  const follow = () => {
    if (Math.abs(before.currentTime - after.currentTime) > APART || after.paused) before.currentTime = after.currentTime;
    if (after.paused) before.pause();
    else before.play().catch(() => {});
    play.textContent = after.paused ? "▶" : "❚❚";
  };
  for (const kind of ["play", "pause", "seeked", "timeupdate"]) after.addEventListener(kind, follow);
  slider.oninput = split;
  const stage = element("div", { style: "position:relative;height:220px" }, [before, after, line]);
  split();
  return [stage, element("div", { style: "display:flex;gap:6px" }, [play, phrase("before"), slider, phrase("after")])];
}
