// Writes the table of docs/families.md: what each conversion makes of each family, for each runtime. It asks the code,
// which plans the conversion of a configuration without its weights. With --check it writes nothing, and fails when the
// page is out of date.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import {
  planConversion,
  planTensors,
  type ConversionMethod,
} from "../packages/transmla/src/convert/conversion.ts";
import type { Target } from "../packages/transmla/src/convert/targets.ts";
import { ggufLayout } from "../packages/transmla/src/gguf/deepseek2.ts";
import { parseConfig } from "../packages/transmla/src/model/config/families.ts";
import type { HuggingFaceConfig } from "../packages/transmla/src/model/config/model-config.ts";

const page = join(import.meta.dirname, "../docs/families.md");

/** Sizes of a model of 7 billion parameters. */
const base = {
  hidden_size: 4096,
  intermediate_size: 14_336,
  num_hidden_layers: 4,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  head_dim: 128,
  vocab_size: 32_000,
  max_position_embeddings: 8192,
  rms_norm_eps: 1e-5,
};

const window = { sliding_window: 4096 };
const experts = {
  num_local_experts: 8,
  num_experts_per_tok: 2,
  moe_intermediate_size: 1024,
};
const longrope = {
  type: "longrope",
  short_factor: Array.from({ length: 48 }, () => 1),
  long_factor: Array.from({ length: 48 }, (_, i) => 1 + i),
};
const llama3 = {
  rope_type: "llama3",
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 8192,
};

/** A family as it is met: its name, what is special, its configuration, and which optional weights it has. */
type Row = readonly [family: string, special: string, config: object, optional?: RegExp];

const biases = (projections: string): RegExp =>
  new RegExp(`self_attn\\.[${projections}]_proj\\.bias$`);
const headNorms = /self_attn\.[qk]_norm\.weight$/;

const rows: readonly Row[] = [
  ["llama", "LLaMA 2 and 3, SmolLM2", {}],
  ["llama", "one kv head", { num_key_value_heads: 1 }],
  ["llama", "rope `linear`", { rope_scaling: { rope_type: "linear", factor: 4 } }],
  ["llama", "rope `llama3`", { rope_scaling: llama3 }],
  ["llama", "rope `yarn`", { rope_scaling: { rope_type: "yarn", factor: 4 } }],
  ["llama", "rope `dynamic`", { rope_scaling: { rope_type: "dynamic", factor: 4 } }],
  ["llama", "biases of attention", {}, biases("qkvo")],
  ["llama", "biases of feed-forward layers", {}, /mlp\..*\.bias$/],
  ["mistral", "no window", {}],
  ["mistral", "window below the context", window],
  ["mixtral", "experts", experts],
  ["qwen2", "biases on q, k, v", {}, biases("qkv")],
  [
    "qwen2",
    "and a window",
    { ...window, use_sliding_window: true, max_window_layers: 2 },
    biases("qkv"),
  ],
  ["qwen3", "norms of heads", {}, headNorms],
  ["qwen3_moe", "norms of heads, experts", experts, headNorms],
  ["smollm3", "layers without positions", {}],
  ["phi3", "fused projections", {}],
  [
    "phi3",
    "two lists of frequencies, rotated in part",
    { rope_scaling: longrope, partial_rotary_factor: 0.75, original_max_position_embeddings: 4096 },
  ],
  ["gemma2", "soft caps, windows, norms on the way out", { ...window, attn_logit_softcapping: 50 }],
  ["gemma3_text", "norms of heads, two ropes, windows", window, headNorms],
];

/** Sizes that vLLM has kernels for, as far as the model has room. */
const latent = (kvHeads: number, target: Target): ConversionMethod => ({
  method: "latent",
  target,
  ropeDim: 64,
  latentRank: kvHeads === 1 ? 128 : 512,
  calibration: [Array.from({ length: 64 }, (_, i) => i)],
});

type Column = readonly [
  title: string,
  outcome: string,
  method: (kvHeads: number) => ConversionMethod,
];
const columns: readonly Column[] = [
  ["`factored`, own", "exact", () => ({ method: "factored" })],
  ["`merged`, own", "exact", () => ({ method: "merged", target: "own" })],
  ["`merged`, transformers", "exact", () => ({ method: "merged", target: "transformers" })],
  ["`merged`, llama.cpp", "exact", () => ({ method: "merged", target: "llama.cpp" })],
  ["`latent`, own", "fitted", (kvHeads) => latent(kvHeads, "own")],
  ["`latent`, transformers", "fitted", (kvHeads) => latent(kvHeads, "transformers")],
  ["`latent`, vllm", "fitted", (kvHeads) => latent(kvHeads, "vllm")],
  ["`latent`, llama.cpp", "fitted", (kvHeads) => latent(kvHeads, "llama.cpp")],
];

/** Why the code refuses, in the order in which the table comes upon it. */
const reasons: string[] = [];

/** The number of a reason among {@link reasons}. */
function reasonNumber(message: string): number {
  const reason = message
    .replace(/^convert: /, "")
    .replace(/^(?:merged|latent) writes (.*), which has no /, "$1 has no ")
    .replace(/; (?:use|for) .*$/, "")
    .replace(/ \((?:model|sliding|attn_logit)[^)]*\)$/, "");
  const known = reasons.indexOf(reason);
  return (known < 0 ? reasons.push(reason) - 1 : known) + 1;
}

function cell([family, , change, optional]: Row, [, outcome, methodOf]: Column): string {
  const json: HuggingFaceConfig = { ...base, model_type: family, ...change };
  const config = parseConfig(json);
  const method = methodOf(json["num_key_value_heads"] as number);
  const names = planTensors(config, (name) => optional?.test(name) ?? false).map(
    ({ name }) => name,
  );
  const unread = (): never => {
    throw new TypeError("weights are not read");
  };
  const weights = {
    names,
    has: (name: string) => names.includes(name),
    read: unread,
    pieces: unread,
  };
  try {
    const { config: result, plan } = planConversion(json, weights, method);
    if (method.target === "llama.cpp")
      ggufLayout(
        result,
        plan.map(({ name }) => name),
        "F32",
      );
    const conversion = result["transmla_conversion"] as HuggingFaceConfig | undefined;
    return conversion?.["head_norms"] === "linear" ? `${outcome}, no norms` : outcome;
  } catch (error) {
    return `no (${reasonNumber((error as Error).message)})`;
  }
}

function table(cells: readonly (readonly string[])[]): string {
  const widths = cells[0]!.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)));
  const line = (row: readonly string[]): string =>
    `| ${row.map((text, column) => text.padEnd(widths[column]!)).join(" | ")} |`;
  const rule = `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`;
  return [line(cells[0]!), rule, ...cells.slice(1).map(line)].join("\n");
}

const cells = rows.map((row) => [
  `\`${row[0]}\``,
  row[1],
  ...columns.map((column) => cell(row, column)),
]);
const head = ["`model_type`", "what is special", ...columns.map(([title]) => title)];
const generated = [
  table([head, ...cells]),
  "Why not:",
  reasons.map((reason, i) => `${i + 1}. ${reason}.`).join("\n"),
].join("\n\n");

const [begin, end] = ["<!-- generated by npm run families -->", "<!-- end -->"];
const before = readFileSync(page, "utf8");
const [start, stop] = [before.indexOf(begin), before.indexOf(end)];
if (start < 0 || stop < start) throw new Error(`${page}: the marks of the table are missing`);
const after = `${before.slice(0, start + begin.length)}\n\n${generated}\n\n${before.slice(stop)}`;
if (process.argv.includes("--check")) {
  if (after !== before) {
    console.error("docs/families.md is out of date; run: npm run families");
    process.exitCode = 1;
  }
} else {
  writeFileSync(page, after);
}
