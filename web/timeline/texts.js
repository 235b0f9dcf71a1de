// @ts-check
/** Texts of the timeline in the language of the page; those in English are their own names. */

/** @type {Record<string, string>} */
let texts = {};

/** Take the texts of the page's language, which the host serves from the folder locales. @param {any} app @param {any} api */
export async function translate(app, api) {
  const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
  const answer = language === "en" ? null : await api.fetchApi("/i18n").catch(() => null);
  texts = answer?.ok ? ((await answer.json())[language]?.ltx2av ?? {}) : {};
}

/** A text in the language of the page, with values in place of %1, %2, ... @param {string} english @param
 * {...(string | number)} values */
export function phrase(english, ...values) {
  return (texts[english] ?? english).replace(/%(\d)/g, (_, number) => String(values[number - 1]));
}
