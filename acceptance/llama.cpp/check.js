// Writes GGUF files and compares stock llama.cpp with this library on them: the same greedy text, and the KL divergence
// of next-token distributions within a bound for each type. `npm run acceptance` runs it on the bundled model and on small
// DeepSeek models where they are at hand; further arguments are DeepSeek folders.
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";

import { cpuBackend } from "@transmla/backend-cpu";
import { bundledModel, generate, loadModel } from "transmla";

const root = join(import.meta.dirname, "../..");
const cli = join(root, "packages/transmla/dist/cli.js");
const fixtures = join(root, "../shared/fixtures/models");

/** The mean KL divergence that each type may cost: rounding alone for f32, what was measured for the others. */
const bounds = { f32: 1e-6, bf16: 2e-3, f16: 2e-3, q8_0: 2e-2 };

const yarn = { rope_type: "yarn", rope_theta: 1e4, factor: 4, mscale: 0.8, mscale_all_dim: 0.8 };

/** Small models in f32: the folder of golden values, and how it is converted, or a rotary embedding in the place of its own. */
const small = [
  { source: "deepseek2-dense" },
  { source: "deepseek3-dense" },
  { source: "deepseek3-dense-qlora" },
  { source: "deepseek3-dense-tied" },
  { source: "deepseek3-dense-halfrope" },
  { source: "deepseek3-latent-eps" },
  { source: "youtu" },
  { source: "llama-mqa", options: ["--method", "merged"] },
  { source: "deepseek3-dense", rope: { ...yarn, original_max_position_embeddings: 32 } },
];

const GREEDY = 30;
const PROMPT = 48;
const folder = mkdtempSync(join(tmpdir(), "transmla-acceptance-"));
const backend = await cpuBackend();
let failed = false;

function print(...cells) {
  const widths = [26, 5, 10, 19, 9, 13, 0];
  console.log(
    cells
      .map((cell, column) => cell.padEnd(widths[column]))
      .join(" ")
      .trimEnd(),
  );
}

function run(command, args) {
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, [command, ...args], {
    encoding: "utf8",
    maxBuffer: 2 ** 30,
  });
  if (status !== 0)
    throw new Error(`${basename(command)} ${args[0]}: ${signal ?? status}\n${stderr}`);
  return stdout;
}

/** The logarithms of the probabilities after every id, as this library computes them. */
async function logProbabilitiesOf(path, ids) {
  using model = await loadModel(path, { backend });
  using cache = model.createCache(ids.length);
  using logits = model.forward(ids, cache, { logits: "all" });
  const values = await logits.read();
  const vocabulary = model.config.vocabSize;
  return ids.map((_, t) => {
    const row = Float64Array.from(values.subarray(t * vocabulary, (t + 1) * vocabulary));
    const largest = Math.max(...row);
    const total = Math.log(row.reduce((sum, x) => sum + Math.exp(x - largest), 0)) + largest;
    return row.map((x) => x - total);
  });
}

/** The most likely continuation, as this library computes it. */
async function greedyOf(path, ids) {
  using model = await loadModel(path, { backend });
  const tokens = [];
  const options = { maxTokens: GREEDY, temperature: 0, ignoreEnd: true };
  for await (const { id } of generate(model, ids, options)) tokens.push(id);
  return tokens;
}

/**
 * Writes GGUF files of a folder and runs them in llama.cpp. Its distributions are compared with those of the folder, and its
 * greedy tokens with those of this library on the same file.
 */
async function check(name, path, ids, types, options = []) {
  const own = await logProbabilitiesOf(path, ids);
  for (const type of types) {
    const file = join(folder, `${name}.${type}.gguf`);
    run(cli, ["convert", path, file, "--format", "gguf", "--dtype", type, "--quiet", ...options]);
    const request = JSON.stringify({ ids, count: GREEDY });
    const other = JSON.parse(run(join(import.meta.dirname, "evaluate.js"), [file, request]));
    let kl = 0;
    let largest = 0;
    other.probabilities.forEach((pairs, t) => {
      const total = pairs.reduce((sum, [, probability]) => sum + probability, 0); // 1, but for f32
      for (const [id, probability] of pairs) {
        const mine = own[t][id];
        const difference = mine - Math.log(probability / total);
        if (probability > 0) kl += Math.exp(mine) * difference;
        // Probabilities come as f32: the smallest say nothing.
        if (probability > 1e-6) largest = Math.max(largest, Math.abs(difference));
      }
    });
    kl /= ids.length;
    const greedy = await greedyOf(file, ids);
    const first = greedy.findIndex((id, i) => id !== other.greedy[i]);
    const same = first < 0 ? GREEDY : first;
    const passed = Math.abs(kl) <= bounds[type] && (type !== "f32" || same === GREEDY);
    failed ||= !passed;
    print(
      name,
      type,
      String(statSync(file).size),
      `${same} of ${GREEDY}`,
      kl.toExponential(1),
      largest.toExponential(1),
      passed ? "holds" : `FAILED: ${bounds[type]}`,
    );
    rmSync(file);
  }
}

/** A folder with another rotary embedding, and a tokenizer: the small models have none, and llama.cpp aborts without. */
function completed(path, name, rope) {
  const copy = join(folder, name);
  mkdirSync(copy);
  writeFileSync(join(copy, "model.safetensors"), readFileSync(join(path, "model.safetensors")));
  const config = JSON.parse(readFileSync(join(path, "config.json"), "utf8"));
  const size = config.vocab_size;
  writeFileSync(
    join(copy, "config.json"),
    JSON.stringify({ ...config, ...(rope && { rope_parameters: rope }) }),
  );
  const letters = Array.from({ length: size }, (_, id) => String.fromCharCode(33 + id));
  const byteLevel = {
    type: "ByteLevel",
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: true,
  };
  const tokenizer = {
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      vocab: Object.fromEntries(letters.map((token, id) => [token, id])),
      merges: [],
    },
  };
  writeFileSync(join(copy, "tokenizer.json"), JSON.stringify(tokenizer));
  return copy;
}

print("model", "type", "bytes", "same greedy tokens", "mean KL", "max |Δ ln p|", "bound");
try {
  if (existsSync(fixtures)) {
    for (const { source, rope, options } of small) {
      const path = join(fixtures, source);
      const name = rope ? `${source}-${rope.rope_type}` : source;
      const { input_ids: ids } = JSON.parse(readFileSync(join(path, "golden.json"), "utf8"));
      await check(name, completed(path, name, rope), ids, ["f32"], options);
    }
  }
  const latent = join(folder, "bundled-latent");
  const sizes = ["--latent-rank", "160", "--rope-dim", "16", "--max-windows", "16"];
  run(cli, ["convert", bundledModel, latent, "--method", "latent", ...sizes, "--quiet"]);
  for (const path of [latent, ...process.argv.slice(2)]) {
    using model = await loadModel(path, { backend });
    const text = "To be, or not to be, that is the question. ".repeat(8);
    const ids = model.assets.tokenizer.encode(text).slice(0, PROMPT);
    await check(basename(path), path, ids, Object.keys(bounds));
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = failed ? 1 : 0;
