// @ts-check
/** Thumbnails and waveforms of input files, read by the host's view route and held until the timeline goes. */

/**
 * @typedef {object} Medium
 * @property {"loading" | "ready" | "missing"} state
 * @property {ImageBitmap} [image]
 * @property {Float32Array} [peaks] loudest sample of each hundredth of a second
 * @property {AudioBuffer} [buffer]
 * @property {number} [seconds] of audio or video
 */

const HEIGHT = 88;
const MOST_FILES = 300;
const MOST_BYTES = 2 ** 27;
const PEAKS_PER_SECOND = 100;
const VIDEO = /\.(mp4|webm|mov|mkv|m4v)$/i;
const AUDIO = /\.(wav|mp3|flac|ogg|opus|m4a|aac)$/i;

/** @param {string} name @returns {"audio" | "video" | "image"} */
export function kindOf(name) {
  return AUDIO.test(name) ? "audio" : VIDEO.test(name) ? "video" : "image";
}

/** The address of a file of the host. @param {any} api the page's api
 * @param {{ filename: string, subfolder?: string, type?: string }} file @param {string} more further query */
export function viewUrl(api, { filename, subfolder = "", type = "input" }, more = "") {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}${more}`);
}

/** @param {string} name of an input file, which may be in a folder */
export function placeOf(name) {
  const cut = name.lastIndexOf("/") + 1;
  return { filename: name.slice(cut), subfolder: name.slice(0, Math.max(0, cut - 1)) };
}

export class Media {
  /** @param {any} api the page's api @param {() => void} loaded called when a file has been read */
  constructor(api, loaded) {
    this.api = api;
    this.loaded = loaded;
    this.stop = new AbortController();
    /** @type {Map<string, Medium>} */
    this.files = new Map();
  }

  /** What is known of a file; it is read on the first call. @param {unknown} name @param {"audio" | "video" |
   * "image"} kind @returns {Medium} */
  of(name, kind) {
    if (typeof name !== "string" || !name || name.startsWith("data:")) return { state: "missing" };
    const key = `${kind} ${name}`;
    const known = this.files.get(key);
    if (known) return known;
    if (this.files.size >= MOST_FILES) return { state: "loading" };
    /** @type {Medium} */
    const medium = { state: "loading" };
    this.files.set(key, medium);
    this.read(name, kind, medium).catch(() => (medium.state = "missing")).finally(() => {
      if (this.stop.signal.aborted) medium.image?.close();
      else this.loaded();
    });
    return medium;
  }

  /** Seconds of a file, or undefined while they are not known. @param {string} name */
  seconds = (name) => this.files.get(`${kindOf(String(name))} ${name}`)?.seconds;

  /** @param {string} name */
  missing = (name) => ["audio", "video", "image"].some((kind) => this.files.get(`${kind} ${name}`)?.state === "missing");

  /** Ask again for files that were missing. */
  retry() {
    for (const [key, medium] of this.files) if (medium.state === "missing") this.files.delete(key);
  }

  /** @param {string} name @param {"audio" | "video" | "image"} kind @param {Medium} medium */
  async read(name, kind, medium) {
    if (kind === "video") Object.assign(medium, await this.frame(name));
    else if (kind === "audio") Object.assign(medium, await this.audio(name));
    else medium.image = await this.image(name);
    medium.state = "ready";
  }

  /** @param {string} name @param {string} more */
  async fetched(name, more = "") {
    const answer = await fetch(viewUrl(this.api, placeOf(name), more), { signal: this.stop.signal });
    if (!answer.ok || !(Number(answer.headers.get("content-length") ?? NaN) <= MOST_BYTES)) throw new Error("not there");
    return answer;
  }

  /** @param {string} name */
  async image(name) {
    const blob = await (await this.fetched(name, "&preview=webp;70")).blob();
    return createImageBitmap(blob, { resizeHeight: HEIGHT, resizeQuality: "medium" });
  }

  /** @param {string} name */
  async audio(name) {
    const bytes = await (await this.fetched(name)).arrayBuffer();
    // Contexts that play are few; this one plays nothing.
    const buffer = await new OfflineAudioContext(1, 1, 44100).decodeAudioData(bytes);
    return { buffer, seconds: buffer.duration, peaks: peaksOf(buffer.getChannelData(0), buffer.sampleRate) };
  }

  /** The first frame of a video, and its length. @param {string} name */
  async frame(name) {
    const video = document.createElement("video");
    video.muted = true;
    video.preload = "auto";
    try {
      await new Promise((done, failed) => {
        video.onloadeddata = done;
        video.onerror = failed;
        this.stop.signal.addEventListener("abort", failed);
        video.src = viewUrl(this.api, placeOf(name));
      });
      return { image: await createImageBitmap(video, { resizeHeight: HEIGHT }), seconds: video.duration };
    } finally {
      video.removeAttribute("src");
      video.load();
    }
  }

  destroy() {
    this.stop.abort();
    for (const medium of this.files.values()) medium.image?.close();
    this.files.clear();
  }
}

/** @param {Float32Array} samples @param {number} rate samples of a second @returns {Float32Array} */
export function peaksOf(samples, rate) {
  const step = rate / PEAKS_PER_SECOND;
  const peaks = new Float32Array(Math.ceil(samples.length / step));
  for (let i = 0; i < samples.length; i += 1) {
    const at = Math.floor(i / step);
    const size = Math.abs(samples[i]);
    if (size > peaks[at]) peaks[at] = size;
  }
  return peaks;
}

/** The loudest sample between two seconds of a file. @param {Float32Array} peaks @param {number} from @param {number} to */
export function loudest(peaks, from, to) {
  let most = 0;
  const end = Math.min(peaks.length, Math.max(to * PEAKS_PER_SECOND, from * PEAKS_PER_SECOND + 1));
  for (let i = Math.max(0, Math.floor(from * PEAKS_PER_SECOND)); i < end; i += 1) if (peaks[i] > most) most = peaks[i];
  return most;
}
