// npm run bench -- [tables] [--quick] [--write] [--revectorize] [--model FILE]
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

const names = [
  "matmul",
  "threads",
  "matvec",
  "weights",
  "softmax",
  "eigh",
  "svd",
  "svd-javascript",
  "decode",
  "latent",
  "overhead",
];

const help = `Usage: npm run bench -- [tables] [options]

Measures this library and its peers in turns and prints figures and ratios. Any other Node can run bench/run.js.
Tables: ${names.join(", ")}; all when none is named.

  --quick        less effort and fewer sizes
  --write        puts the tables and their pictures into docs/performance.md
  --revectorize  the backend with that option; its tables stand beside the others
  --model FILE   a GGUF file of SmolLM2 135M, for decode

BENCH_PYTHON names a Python with NumPy and SciPy; python3 otherwise.`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
    revectorize: { type: "boolean", default: false },
    model: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
const unknown = positionals.find((name) => !names.includes(name));
if (options.help || unknown) {
  console.log(unknown ? `there is no table ${unknown}\n\n${help}` : help);
  process.exit(unknown ? 2 : 0);
}
if (!existsSync(join(import.meta.dirname, "node_modules"))) {
  console.error(
    "The peers are not installed: (cd bench && npm ci --ignore-scripts), about 620 MB.",
  );
  process.exit(2);
}

// Each table in a process of its own: peers keep threads and memories.
let failed = false;
for (const name of positionals.length > 0 ? positionals : names) {
  const argument = JSON.stringify({ ...options, name });
  const child = spawnSync(process.execPath, [join(import.meta.dirname, "table.js"), argument], {
    stdio: "inherit",
  });
  failed ||= child.status !== 0;
}
if (options.write) {
  const root = join(import.meta.dirname, "..");
  spawnSync("npx", ["oxfmt", "docs/performance.md"], { cwd: root, stdio: "inherit" });
}
process.exit(failed ? 1 : 0);
