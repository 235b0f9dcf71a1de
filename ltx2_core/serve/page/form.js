// @ts-check
/** The form of a new clip: what is typed becomes a request, whose plan is shown while it is typed. */

import { json, Refused, upload } from "./server.js";
import { text } from "./texts.js";

const NUMBERS = ["width", "height", "seconds", "steps", "seed"];
const WAIT_MS = 250;

/** @param {string} id @returns {any} */
const at = (id) => document.getElementById(id);

/** Names that the server has given to files that were sent. @type {Record<string, string | null>} */
const files = { image: null, audio: null };
/** How many files are being sent. */
let sending = 0;

/** The body of a job. Fields that are left empty are decided by the checkpoint, and a seed is drawn. */
export function body() {
  /** @type {Record<string, any>} */
  const request = { prompt: at("prompt").value, seed: -1 };
  for (const name of NUMBERS) if (at(name).value !== "") request[name] = Number(at(name).value);
  for (const [name, path] of Object.entries(files)) if (path) request[name] = path;
  return { model: at("model").value, request };
}

/** Fills the form from the body of an earlier job. @param {any} job */
export function fill(job) {
  at("model").value = job.model;
  at("prompt").value = job.request.prompt;
  for (const name of NUMBERS) at(name).value = job.request[name] ?? "";
  for (const name of Object.keys(files)) setFile(name, job.request[name] ?? null, job.request[name] ?? "");
  plan();
  at("prompt").focus();
}

/** @param {string} words */
export function problem(words) {
  at("problem").textContent = words;
}

/** @param {string} name @param {string | null} path @param {string} shown */
function setFile(name, path, shown) {
  files[name] = path;
  const drop = at(`${name}-drop`);
  drop.querySelector(".name").textContent = shown;
  drop.querySelector(".remove").hidden = !path;
  if (!path) at(name).value = "";
  const image = drop.querySelector("img");
  if (image && !path) image.hidden = true;
}

/** @param {string} name @param {File | undefined} file */
async function send(name, file) {
  if (!file) return;
  problem("");
  setFile(name, null, text("sending"));
  sending += 1;
  try {
    const sent = (/** @type {number} */ share) => setFile(name, null, `${text("sending")} ${Math.floor(100 * share)} %`);
    setFile(name, await upload(file, sent), file.name);
    const image = at(`${name}-drop`).querySelector("img");
    if (image) {
      image.src = URL.createObjectURL(file);
      image.alt = file.name;
      image.hidden = false;
    }
  } catch (error) {
    setFile(name, null, "");
    problem(String(error instanceof Error ? error.message : error));
  } finally {
    sending -= 1;
  }
  plan();
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
/** @type {AbortController | undefined} */
let asked;

/** Shows what the server would make, shortly after the last key. */
export function plan() {
  clearTimeout(timer);
  timer = setTimeout(showPlan, WAIT_MS);
}

async function showPlan() {
  asked?.abort();
  asked = new AbortController();
  const wanted = body();
  // The prompt changes nothing about the plan, and an empty one is no mistake yet.
  wanted.request.prompt ||= "-";
  try {
    const made = await json("v1/plan", wanted, asked.signal);
    const memory = made.memory ? ` · ${(made.memory.peak_bytes / 1e9).toFixed(2)} GB` : "";
    const seconds = Number(made.seconds.toFixed(2));
    const steps = made.steps.join(" + ");
    const size = `${made.width} × ${made.height} · ${made.num_frames} ${text("frames")} · ${made.fps} fps · ${seconds} s`;
    at("plan").textContent = `${text("plan")}: ${size} · ${steps} ${text("steps_word")}${memory}${made.allowed ? "" : ` · ${text("too_large")}`}`;
    at("plan").dataset.size = `${made.width}x${made.height}x${made.num_frames}`;
  } catch (error) {
    if (error instanceof Refused) at("plan").textContent = error.message;
  }
}

/** @param {() => void} queued called after a job was queued */
export function setUpForm(queued) {
  for (const name of [...NUMBERS, "model"]) at(name).addEventListener("input", plan);
  for (const name of Object.keys(files)) {
    const drop = at(`${name}-drop`);
    at(name).addEventListener("change", () => send(name, at(name).files[0]));
    drop.querySelector(".remove").addEventListener("click", () => { setFile(name, null, ""); plan(); });
    drop.addEventListener("dragover", (/** @type {DragEvent} */ event) => { event.preventDefault(); drop.classList.add("over"); });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (/** @type {DragEvent} */ event) => {
      event.preventDefault();
      drop.classList.remove("over");
      send(name, event.dataTransfer?.files[0]);
    });
  }
  at("form").addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    problem(sending ? text("sending") : "");
    if (sending) return;
    at("submit").disabled = true;
    try {
      await json("v1/jobs", body());
      queued();
    } catch (error) {
      problem(String(error instanceof Error ? error.message : error));
    } finally {
      at("submit").disabled = false;
    }
  });
}
