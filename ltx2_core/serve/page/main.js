// @ts-check
/** Starts the page: language, token, models, form and queue. */

import { plan, problem, setUpForm } from "./form.js";
import { refresh, relabel } from "./queue.js";
import { json, Refused, setToken } from "./server.js";
import { applyTexts, LANGUAGES, language, setLanguage } from "./texts.js";

const EVERY_MS = 2000;
const at = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

async function start() {
  try {
    const { models } = await json("v1/models");
    at("model").replaceChildren(...models.map((/** @type {any} */ model) => new Option(model.id, model.id)));
    at("token-form").hidden = true;
    at("form").hidden = false;
    plan();
    await refresh();
    setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, EVERY_MS);
  } catch (error) {
    const unknown = error instanceof Refused && error.status === 401;
    at("token-form").hidden = !unknown;
    at("form").hidden = unknown;
    if (!unknown) problem(String(error instanceof Error ? error.message : error));
  }
}

at("language").append(...Object.entries(LANGUAGES).map(([code, name]) => new Option(name, code)));
at("language").value = language();
at("language").addEventListener("change", () => { setLanguage(at("language").value); plan(); relabel().catch(() => {}); });
at("token-form").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  setToken(at("token").value);
  start();
});
applyTexts();
setUpForm(() => refresh().catch((error) => problem(String(error))));
start();
