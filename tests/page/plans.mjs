// Reads clips as JSON and writes what the page plans for each: [width, height, frames, audio latents] or null.
import { readFileSync } from "node:fs";
import { planClip } from "../../web/grid.js";

const clips = JSON.parse(readFileSync(0, "utf8"));
const plans = clips.map(({ width, height, frames, seconds, fps, snap, stages }) => {
  const length = frames === null ? { seconds } : { frames };
  const plan = planClip(width, height, length, fps, snap, stages);
  return plan && [plan.width, plan.height, plan.frames, plan.audioLatents];
});
process.stdout.write(JSON.stringify(plans));
