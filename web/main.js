// @ts-check
/** Registers what this pack adds to the page. */
import { app } from "../../scripts/app.js";
import { showReports } from "./report.js";

app.registerExtension({ name: "comfyui-ltx2.reports", nodeCreated: showReports });
