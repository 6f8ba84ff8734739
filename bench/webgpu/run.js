// npm run bench:webgpu -- [part of a case's name] [--tokens N] [--node | --browser]
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { softwareGpu } from "../../scripts/software-gpu.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tokens: { type: "string", default: "100" },
    node: { type: "boolean", default: false },
    browser: { type: "boolean", default: false },
  },
});
if (!existsSync(join(import.meta.dirname, "../node_modules"))) {
  console.error("The peers are not installed: (cd bench && npm ci --ignore-scripts).");
  process.exit(2);
}
const settings = JSON.stringify({ wanted: positionals[0] ?? "", tokens: Number(values.tokens) });
// A process of its own: the dynamic linker finds the software driver by the environment it starts with.
const env = { ...process.env, ...softwareGpu()?.env };
const both = values.node === values.browser;
for (const [name, chosen] of [
  ["node.js", both || values.node],
  ["browser.js", both || values.browser],
]) {
  if (!chosen) continue;
  const args = ["--conditions=source", join(import.meta.dirname, name), settings];
  const { status } = spawnSync(process.execPath, args, { env, stdio: "inherit" });
  if (status !== 0) process.exit(1);
}
