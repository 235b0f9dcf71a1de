// @ts-check
/** What the page asks the server for. A token, if the server needs one, is held until the tab is closed. */

const KEY = "ltx2-token";
/** Bytes of a piece of an upload, and of the largest file that is sent whole. */
const PIECE = 8 * 2 ** 20;
const TUS = { "Tus-Resumable": "1.0.0" };
const TRIES = 8;
const WAIT_MS = 500;
/** States of HTTP after which a piece is sent again: another one is still arriving, or a proxy has no server behind it. */
const AGAIN = [408, 409, 423, 502, 503, 504];

/** An error with the words of the server; `status` is that of HTTP. */
export class Refused extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** @param {string} token */
export function setToken(token) {
  sessionStorage.setItem(KEY, token);
}

/**
 * The answer to a request. Throws Refused for an error.
 * @param {string} path
 * @param {RequestInit} [options]
 */
export async function ask(path, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = new Headers(options.headers);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  const answer = await fetch(path, { ...options, headers });
  if (!answer.ok) throw new Refused(answer.status, message(await answer.json().catch(() => null)) ?? answer.statusText);
  return answer;
}

/** @param {string} path @param {any} [body] @param {AbortSignal} [signal] */
export async function json(path, body, signal) {
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return (await ask(path, { ...options, signal })).json();
}

/**
 * Sends a file, a large one in pieces; the answer is the name by which a request names it.
 * @param {File} file @param {(share: number) => void} on called with the share that has arrived
 * @returns {Promise<string>}
 */
export async function upload(file, on) {
  if (file.size > PIECE) return uploadInPieces(file, on);
  const form = new FormData();
  form.append("file", file);
  return (await (await ask("v1/files", { method: "POST", body: form })).json()).path;
}

/**
 * Sends a file by tus. A piece that fails because the connection breaks or the server restarts is sent again from where it ended.
 * @param {File} file @param {(share: number) => void} on
 */
async function uploadInPieces(file, on) {
  const filename = btoa(String.fromCharCode(...new TextEncoder().encode(file.name)));
  const begun = { ...TUS, "Upload-Length": String(file.size), "Upload-Metadata": `filename ${filename}` };
  const { path } = await (await ask("v1/uploads", { method: "POST", headers: begun })).json();
  for (let at = 0, failed = 0; at < file.size; on(at / file.size)) {
    const headers = { ...TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": String(at) };
    try {
      await ask(`v1/${path}`, { method: "PATCH", headers, body: file.slice(at, at + PIECE) });
      at = Math.min(at + PIECE, file.size);
      failed = 0;
    } catch (error) {
      failed += 1;
      if (failed > TRIES || (error instanceof Refused && !AGAIN.includes(error.status))) throw error;
      await new Promise((resolve) => setTimeout(resolve, WAIT_MS * failed));
      at = await arrived(path).catch(() => at);
    }
  }
  return path;
}

/** How many bytes of an upload the server has. @param {string} path */
async function arrived(path) {
  return Number((await ask(`v1/${path}`, { method: "HEAD", headers: TUS })).headers.get("Upload-Offset"));
}

/**
 * Calls `on` with the name and the data of each event of a job, until the job ends.
 * Not an EventSource, which sends no token.
 * @param {string} id @param {(name: string, data: any) => void} on @param {AbortSignal} signal
 */
export async function follow(id, on, signal) {
  const answer = await ask(`v1/jobs/${id}/events`, { signal });
  if (!answer.body) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop() ?? "";
    for (const part of parts) {
      const name = /^event: (.*)$/m.exec(part);
      const data = /^data: (.*)$/m.exec(part);
      if (name && data) on(name[1], JSON.parse(data[1]));
    }
  }
}

/** @param {any} body */
function message(body) {
  if (body?.error) return body.error.message;
  if (Array.isArray(body?.detail)) return body.detail.map((/** @type {any} */ one) => `${one.loc.at(-1)}: ${one.msg}`).join("\n");
  return typeof body?.detail === "string" ? body.detail : body?.detail?.error?.message;
}
