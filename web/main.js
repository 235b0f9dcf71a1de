// @ts-check
/** Registers what this pack adds to the page. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { showCompared } from "./compare.js";
import { editResults } from "./edit.js";
import { showPlan } from "./plan.js";
import { fitFiles, useReleased } from "./released.js";
import { showReports } from "./report.js";
import { translate } from "./timeline/texts.js";
import { showTimeline } from "./timeline/widget.js";
import { showWaves } from "./wave.js";
import {
  countSavedStrength,
  countStrengthOfApiFiles,
  greyWithoutEffect,
  keepSavedSize,
  labelTextBoxes,
} from "./widgets.js";

const PREFIX = "LTX2AV";
const COPY = { command: "comfyui-ltx2.copy-command", python: "comfyui-ltx2.copy-python" };
const USE_RELEASED = "comfyui-ltx2.released";

/** @type {any} Data of the workflow that is being opened. */
let opened = null;

/** Copy the graph as text, or say why it has none. @param {"command" | "python"} kind */
async function copy(kind) {
  const { output } = await app.graphToPrompt();
  const answer = await api.fetchApi("/ltx2av/command", { method: "POST", body: JSON.stringify(output) });
  const { error, problems = [error ?? answer.statusText], ...written } = await answer.json();
  const text = written[kind];
  const problem = text ? "" : problems.join("; ") || "A preset is an option of the command alone";
  // Without TLS a page has no clipboard.
  const copied = text && (await navigator.clipboard?.writeText(text).then(() => true, () => false));
  app.extensionManager?.toast?.add({
    severity: problem ? "warn" : "success",
    summary: problem ? "No command does this" : copied ? "Copied" : "Copy this",
    detail: problem || text,
    life: 12000,
  });
}

app.registerExtension({
  name: "comfyui-ltx2.reports",
  commands: [
    {
      id: USE_RELEASED,
      label: "Use released model files",
      async function() {
        useReleased(app.graph.nodes);
        // The page looks for missing files when a workflow is opened.
        await app.loadGraphData(app.graph.serialize());
      },
    },
    { id: COPY.command, label: "Copy as command", function: () => copy("command") },
    { id: COPY.python, label: "Copy as Python", function: () => copy("python") },
  ],
  menuCommands: [{ path: ["LTX-2"], commands: [USE_RELEASED, COPY.command, COPY.python] }],
  async setup() {
    await translate(app, api);
    countStrengthOfApiFiles(app);
  },
  beforeConfigureGraph(/** @type {any} */ graph) {
    opened = graph;
  },
  afterConfigureGraph() {
    for (const node of fitFiles(app.graph.nodes)) {
      // Some pages read what to download from the data.
      const saved = opened?.nodes?.find((/** @type {any} */ one) => one.id === node.id);
      if (saved) saved.widgets_values = node.serialize().widgets_values;
    }
    opened = null;
  },
  refreshComboInNodes() {
    fitFiles(app.graph.nodes);
  },
  nodeCreated(/** @type {any} */ node) {
    showTimeline(node, app, api);
    if (!String(node.comfyClass).startsWith(PREFIX)) return;
    showReports(node);
    showWaves(node);
    showCompared(node, api);
    editResults(node);
    showPlan(node, api);
    labelTextBoxes(node);
    // First, since it decides what is grey.
    countSavedStrength(node);
    greyWithoutEffect(node);
    keepSavedSize(node);
  },
});
