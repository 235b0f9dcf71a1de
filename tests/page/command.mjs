// Reads graphs in API format as JSON and writes the command, the Python and the problems of each.
import { readFileSync } from "node:fs";
import { writtenAs } from "../../web/command.js";

process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(writtenAs)));
