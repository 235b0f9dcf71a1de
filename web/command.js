// @ts-check
/** A graph as a line of the command ltx2, and as Python: what it cannot say is named and never left out silently. */

/** @typedef {{ class_type: string, inputs: Record<string, any> }} Node */
/** @typedef {Record<string, Node>} Prompt a graph in API format */
/** A graph, its sampling stages, and what stands in the way. @typedef {{ prompt: Prompt, stages: Node[], problems: string[] }} Graph */
/** Flag of the command, keyword of the library, value. @typedef {[string, string, any]} Setting */

const MODEL = "by the model";
const ABOVE = "as above";
const STAGE = "SampleStage";
const LOADERS = ["LoadAll", "LoadCheckpoint", "LoadTextEncoder", "LoadUpscaler"];
/** Nodes that are read below, or that a command does anyway. */
const KNOWN = new RegExp(
  "^(LTX2AV(Load(All|Checkpoint|TextEncoder|Upscaler|Lora)|ClipPlan|MemoryPlan|Prompt(ByTime)?|ImgToVideoInplace|AddGuide|" +
    "CropGuides|SampleStage|NextStage|LatentUpscale|Decode(Video|Audio|ToVideo))|LoadImage|SaveVideo|CreateVideo|Preview\\w+)$",
);

/** @param {Prompt} prompt @returns {{ command: string, python: string, problems: string[] }} texts, "" where there is
 * none, or why */
export function writtenAs(prompt) {
  if (all(prompt, "ShotList").length) {
    const how = "save the text of LTX-2 Shot List as shots.json and run ltx2 generate --shots shots.json --numerics comfy";
    return { command: "", python: "", problems: [how] };
  }
  const problems = Object.values(prompt)
    .filter((node) => !KNOWN.test(node.class_type))
    .map((node) => `${node.class_type} has no counterpart in one command`);
  const stages = stagesOf(prompt);
  if (stages.length < 1 || stages.length > 2) problems.push(`${stages.length} sampling stages: ltx2 generate has one or two`);
  if (problems.length) return { command: "", python: "", problems };
  const graph = { prompt, stages, problems };
  const models = modelsOf(graph);
  const settings = settingsOf(graph);
  if (problems.length) return { command: "", python: "", problems };
  // A preset is an option of the command alone.
  const python = settings.some(([flag]) => flag === "--preset") ? "" : pythonOf(models, settings);
  return { command: commandOf(models, settings), python, problems };
}

/** @param {Prompt} prompt @param {string} type @returns {Node[]} */
function all(prompt, type) {
  return Object.values(prompt).filter((node) => node.class_type === `LTX2AV${type}`);
}

/** Every node that leads to one. @param {Prompt} prompt @param {Node | undefined} node @param {Set<Node>} found */
function above(prompt, node, found = new Set()) {
  for (const value of Object.values(node?.inputs ?? {})) {
    const source = Array.isArray(value) ? prompt[value[0]] : undefined;
    if (!source || found.has(source)) continue;
    found.add(source);
    above(prompt, source, found);
  }
  return found;
}

/** Sampling stages, the first one first. @param {Prompt} prompt */
function stagesOf(prompt) {
  return all(prompt, STAGE).sort((a, b) => (above(prompt, b).has(a) ? -1 : 1));
}

/** @param {Graph} graph @returns {Setting[]} */
function modelsOf({ prompt, stages, problems }) {
  /** @type {Map<string, Setting>} */
  const files = new Map();
  for (const { inputs } of LOADERS.flatMap((type) => all(prompt, type))) {
    const named = [["--checkpoint", "", "ckpt_name"], ["--text-encoder", "text_encoder", "text_encoder"], ["--upscaler", "upscaler", "upscaler"]];
    for (const [flag, keyword, name] of named) {
      // A text encoder in the files of Hugging Face is named by its folder.
      const file = String(inputs[name] ?? "none").replace(/\/model[^/]*\.safetensors$/, "");
      if (file !== "none") files.set(`${flag} ${file}`, [flag, keyword, file]);
    }
    for (const name of ["video_vae", "audio_vae", "text_parts"]) {
      const file = inputs[name];
      if (typeof file === "string" && /\.\w+$/.test(file)) files.set(`--checkpoint ${file}`, ["--checkpoint", "", file]);
    }
  }
  const settings = [...files.values()];
  const chains = stages.map((stage) => all(prompt, "LoadLora").filter((lora) => above(prompt, { ...stage, inputs: { model: stage.inputs.model } }).has(lora)));
  for (const lora of new Set(chains.flat())) {
    if (lora.inputs.audio_strength) problems.push("a LoRA with an audio strength of its own");
    const only = chains.length === 2 && !chains[0].includes(lora);
    if (chains.length === 2 && !chains[1].includes(lora)) problems.push("a LoRA of the first stage alone");
    settings.push([only ? "--stage2-lora" : "--lora", only ? "stage2_loras" : "loras", loraOf(lora.inputs)]);
  }
  settings.push(["--numerics", "numerics", "comfy"]);
  return settings;
}

/** @param {Record<string, any>} inputs */
function loraOf({ lora, strength, distilled_strength: kind }) {
  if (kind === MODEL && /distilled/i.test(lora)) return [lora, "recipe"];
  return [lora, strength];
}

/** @param {Graph} graph @returns {Setting[]} */
function settingsOf(graph) {
  const { stages, problems } = graph;
  const settings = [...textOf(graph), ...clipOf(graph), ...imagesOf(graph)];
  settings.push(...samplingOf(stages[0].inputs, problems));
  const { schedule, sampler = MODEL, cfg, audio_cfg: audio, preset = ABOVE } = stages[1]?.inputs ?? {};
  const own = !/^second stage/.test(schedule) || cfg !== 1 || (audio && audio !== 1) || preset !== ABOVE;
  if (stages[1] && own) problems.push("a schedule, cfg or preset in the second stage");
  if (sampler !== MODEL) settings.push(["--stage2-sampler", "stage2_sampler", sampler]);
  return settings;
}

/** @param {Graph} graph @returns {Setting[]} */
function textOf({ prompt, problems }) {
  const [node, more] = Object.values(prompt).filter((one) => /Prompt(ByTime)?$/.test(one.class_type));
  if (more) problems.push("several prompts");
  const inputs = node?.inputs ?? {};
  const timed = "parts" in inputs;
  const text = timed ? inputs.prompt : inputs.positive;
  if (typeof text !== "string" || typeof inputs.negative !== "string") problems.push("the prompt comes by a link");
  /** @type {Setting[]} */
  const settings = [["--prompt", "prompt", text], ["--negative", "negative_prompt", inputs.negative]];
  if (timed) settings.push(["--prompts-at", "prompts_at", inputs.parts], ["--prompt-fade", "prompt_fade", inputs.fade]);
  return settings;
}

/** @param {Graph} graph @returns {Setting[]} */
function clipOf({ prompt, stages, problems }) {
  const [plan, more] = all(prompt, "ClipPlan");
  if (!plan || more) {
    problems.push("there is not one LTX-2 Clip Plan");
    return [];
  }
  const { width, height, length_unit: unit, length, fps, snap } = plan.inputs;
  if (plan.inputs.image) problems.push("the size follows an image: write width and height in LTX-2 Clip Plan");
  if (unit === "auto" || [width, height, length, fps].some(Array.isArray)) problems.push("size or length come by a link");
  if (plan.inputs.batch_size > 1) problems.push("several clips in one batch");
  return [
    ["--width", "width", width],
    ["--height", "height", height],
    unit === "frames" ? ["--frames", "num_frames", length] : ["--seconds", "seconds", length],
    ["--fps", "fps", fps],
    ["--snap", "snap", snap],
    ["--stages", "stages", stages.length],
  ];
}

/** @param {Graph} graph @returns {Setting[]} */
function imagesOf({ prompt, stages, problems }) {
  const file = (/** @type {Node} */ node) => {
    const source = prompt[node.inputs.image?.[0]];
    if (source?.class_type !== "LoadImage") problems.push("an image does not come from Load Image");
    return source?.inputs.image;
  };
  /** @type {Setting[]} */
  const settings = [];
  const placed = all(prompt, "ImgToVideoInplace");
  const first = placed.filter((node) => !stages[1] || above(prompt, stages[0]).has(node));
  const ways = new Set(placed.map(({ inputs: { image, strength, crf } }) => `${[image, strength, crf]}`));
  if (first.length > 1 || ways.size > first.length) problems.push("several first images");
  for (const node of first.slice(0, 1)) {
    const { strength, next_strength: next, crf } = node.inputs;
    if (strength < 0) problems.push("an image strength by the model");
    settings.push(["--image", "image", file(node)], ["--image-strength", "image_strength", strength]);
    if (stages[1] && next >= 0) settings.push(["--stage2-image-strength", "stage2_image_strength", next]);
    if (crf >= 0) settings.push(["--image-crf", "image_crf", crf]);
  }
  for (const node of all(prompt, "AddGuide")) {
    const { frame, strength, crf, attention_strength: attention, downscale } = node.inputs;
    if (crf >= 0 || attention || downscale > 1) problems.push("a guide with crf, attention or downscale of its own");
    settings.push(["--keyframe", "images", [file(node), frame, strength]]);
  }
  return settings;
}

/** @param {Record<string, any>} inputs of the first stage @param {string[]} problems @returns {Setting[]} */
function samplingOf({ seed, schedule, steps, cfg, audio_cfg: audio, sampler = MODEL, preset = ABOVE }, problems) {
  /** @type {Setting[]} */
  const settings = Array.isArray(seed) ? [] : [["--seed", "seed", seed]];
  if (preset !== ABOVE) return [...settings, ["--preset", "preset", preset]];
  if (schedule === "distilled 8") settings.push(["--distilled", "distilled", true]);
  else if (schedule === "LTX-2 scheduler") {
    settings.push(["--steps", "steps", steps], ["--cfg", "cfg", cfg]);
    if (audio) settings.push(["--audio-cfg", "audio_cfg", audio]);
  } else problems.push(`the schedule ${schedule}`);
  if (sampler !== MODEL) settings.push(["--sampler", "sampler", sampler]);
  return settings;
}

/** @param {Setting[]} models @param {Setting[]} settings */
function commandOf(models, settings) {
  const words = [...models, ...settings].flatMap(([flag, keyword, value]) => {
    if (value === true) return [flag];
    if (keyword === "images") return [flag, quoted(`${value[0]}@${value[1]}:${value[2]}`)];
    return [flag, quoted(Array.isArray(value) ? value.join(":") : String(value))];
  });
  return `ltx2 generate ${words.join(" ")} -o clip.mp4`;
}

/** A word of a shell. @param {string} text */
function quoted(text) {
  return /^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** @param {Setting[]} models @param {Setting[]} settings */
function pythonOf(models, settings) {
  const of = (/** @type {string} */ name) => models.filter(([, keyword]) => keyword === name).map(([, , value]) => value);
  const loading = [
    ...of("").map(literal),
    ...["text_encoder", "upscaler"].flatMap((name) => of(name).map((value) => `${name}=${literal(value)}`)),
    ...["loras", "stage2_loras"].flatMap((name) => (of(name).length ? [`${name}=[${of(name).map(tuple).join(", ")}]`] : [])),
    "numerics=Numerics.COMFY",
  ];
  const prompt = settings.find(([, keyword]) => keyword === "prompt")?.[2] ?? "";
  const images = settings.filter(([, keyword]) => keyword === "images");
  const rest = settings.filter(([, keyword]) => keyword !== "prompt" && keyword !== "images");
  const given = [literal(prompt), ...rest.map(([, keyword, value]) => `${keyword}=${literal(value)}`)];
  const at = images.map(([, , [file, frame, strength]]) => `ImageAt(source=${literal(file)}, frame=${frame}, strength=${strength})`);
  if (at.length) given.push(`images=(${at.join(", ")},)`);
  const lines = ["from ltx2_core import LTX2Pipeline", "from ltx2_core.types import Numerics"];
  if (at.length) lines.push("from ltx2_core.conditioning.inputs import ImageAt");
  const call = (/** @type {string[]} */ values) => `(\n${values.map((one) => `    ${one},\n`).join("")})`;
  return [...lines, "", `pipe = LTX2Pipeline${call(loading)}`, `clip = pipe${call(given)}`, 'clip.save("clip.mp4")', ""].join("\n");
}

/** A literal of Python. @param {any} value */
function literal(value) {
  return value === true ? "True" : JSON.stringify(value);
}

/** @param {any[]} values */
function tuple(values) {
  return `(${values.map(literal).join(", ")})`;
}
