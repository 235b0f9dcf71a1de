// @ts-check
/** Registers what this pack adds to the page. */
import { app } from "../../scripts/app.js";
import { showReports } from "./report.js";
import {
  countSavedStrength,
  countStrengthOfApiFiles,
  greyWithoutEffect,
  keepSavedSize,
  labelTextBoxes,
} from "./widgets.js";

const PREFIX = "LTX2AV";

app.registerExtension({
  name: "comfyui-ltx2.reports",
  setup() {
    countStrengthOfApiFiles(app);
  },
  nodeCreated(/** @type {any} */ node) {
    if (!String(node.comfyClass).startsWith(PREFIX)) return;
    showReports(node);
    labelTextBoxes(node);
    // First, since it decides what is grey.
    countSavedStrength(node);
    greyWithoutEffect(node);
    keepSavedSize(node);
  },
});
