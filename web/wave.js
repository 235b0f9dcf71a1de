// @ts-check
/** Waveform and level of the audio that a node has decoded, below its widgets. */
import { shownBelow } from "./shown.js";
import { element } from "./timeline/elements.js";

const HEIGHT = 76;

/** @typedef {{ seconds: number, peaks: number[], peak_db: number, mean_db: number }} Levels */

/** Levels in words. @param {Levels} levels */
export function levelsInWords({ seconds, peak_db: peak, mean_db: mean }) {
  return `audio: ${seconds.toFixed(2)} s, peak ${peak.toFixed(1)} dB${peak >= 0 ? ", clipped" : ""}, mean ${mean.toFixed(1)} dB`;
}

/** A waveform as SVG, as wide as it has peaks. @param {Levels} levels @returns {string} */
export function drawn({ peaks, peak_db: peak }) {
  const lines = peaks.map((high, x) => `M${x + 0.5} ${0.98 - high}V${1.02 + high}`).join("");
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${peaks.length || 1} 2" preserveAspectRatio="none"><path d="${lines}"
 stroke="${peak >= 0 ? "#e5484d" : "#f5a524"}" stroke-width="0.7"/></svg>`;
}

/** @param {any} node */
export function showWaves(node) {
  shownBelow(node, "ltx2_audio", HEIGHT, ([levels]) => {
    const alt = levelsInWords(levels);
    const src = `data:image/svg+xml,${encodeURIComponent(drawn(levels))}`;
    return [element("img", { src, alt, style: "width:100%;height:36px;display:block" }), alt];
  });
}
