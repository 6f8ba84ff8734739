// Measures what the latent conversion takes for a layer of well-known shapes, with random weights, and writes
// docs/conversion-cost.md. Weights are made when they are read and results are dropped: no checkpoint is needed.
//
//   npm run layer-cost                                       all shapes
//   npm run layer-cost -- Llama-3-8B --windows 16 --tokens 1024 --print
import { fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { Session } from "node:inspector/promises";
import { cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { cpuBackend } from "@transmla/backend-cpu";
import { encode } from "@transmla/core";
import { cacheWidth, parseConfig } from "transmla";

import { planConversion } from "../packages/transmla/src/convert/conversion.ts";
import { sharesOfSteps } from "./layer-cost/profile.ts";
import { randomWeights } from "./layer-cost/random-weights.ts";
import { shapes, type Shape } from "./layer-cost/shapes.ts";
import { aligned, markdown, type Table } from "./quality/page.ts";
import { writeWhole } from "./quality/results.ts";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    windows: { type: "string" },
    tokens: { type: "string" },
    threads: { type: "string", default: "1" },
    print: { type: "boolean", default: false },
    child: { type: "boolean", default: false },
  },
});

/** What a layer takes. */
interface Cost {
  /** Processor seconds: what other processes take does not count. */
  readonly seconds: number;
  /** Of the whole process, at its most. */
  readonly bytes: number;
  /** The share of each step in the seconds, in the order of steps. */
  readonly steps: readonly (readonly [step: string, share: number])[];
}

const calibrationOf = ({ calibration: [windows, tokens] }: Shape): [number, number] => [
  Number(options.windows ?? windows),
  Number(options.tokens ?? tokens),
];

/** Converts the first of two layers, and passes the second what it needs; reading the embeddings does not count. */
async function measure(shape: Shape): Promise<Cost> {
  const { config, ropeDim, latentRank } = shape;
  const backend = await cpuBackend({ threads: Number(options.threads) });
  const [windows, tokens] = calibrationOf(shape);
  const calibration = Array.from({ length: windows }, (_, window) =>
    Array.from({ length: tokens }, (_token, t) => (7919 * (window * tokens + t)) % 40_009),
  );
  const profiler = new Session();
  profiler.connect();
  await profiler.post("Profiler.enable");
  await profiler.post("Profiler.setSamplingInterval", { interval: 5000 });
  let [reads, start] = [0, 0];
  const weights = randomWeights(config, async () => {
    if (++reads < 2) return; // the first time they are only carried over
    await profiler.post("Profiler.start");
    start = processorSeconds();
  });
  const method = { method: "latent", ropeDim, latentRank, calibration, backend } as const;
  const conversion = planConversion(config, weights, method);
  for await (const { name, pieces } of conversion.tensors()) {
    if (name.startsWith("model.layers.1.")) break;
    for await (const piece of pieces) encode(piece, "bf16");
  }
  const seconds = processorSeconds() - start;
  const { profile } = await profiler.post("Profiler.stop");
  const bytes = 1024 * process.resourceUsage().maxRSS;
  return { seconds, bytes, steps: sharesOfSteps(profile) };
}

function processorSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** Measures in a process of its own, whose memory is nothing else's. */
async function measureAlone(name: string): Promise<Cost> {
  const args = process.argv.slice(2).filter((argument) => !positionals.includes(argument));
  const child = fork(import.meta.filename, [...args, "--child", name]);
  const [cost] = (await once(child, "message")) as [Cost];
  await once(child, "exit");
  return cost;
}

const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;

async function table(names: readonly string[]): Promise<Table> {
  const rows: string[][] = [];
  for (const name of names) {
    const shape = shapes[name]!;
    const { seconds, bytes, steps } = await measureAlone(name);
    const before = cacheWidth(parseConfig(shape.config).attention);
    rows.push([
      name,
      `${before} to ${shape.latentRank} + ${shape.ropeDim}`,
      calibrationOf(shape).join(" x "),
      seconds.toFixed(0),
      `${(bytes / 2 ** 30).toFixed(2)} GiB`,
      steps.map(([step, share]) => `${step} ${percent(share)}`).join(", "),
    ]);
    process.stdout.write(
      `${aligned([header, ...rows])
        .at(-1)!
        .join("  ")}\n`,
    );
  }
  return [header, ...rows];
}

const header = [
  "layer of",
  "cache",
  "windows x tokens",
  "seconds",
  "peak memory",
  "of the seconds",
];

if (options.child) {
  process.send!(await measure(shapes[positionals[0]!]!));
  process.disconnect();
} else {
  const measured = await table(positionals.length > 0 ? positionals : Object.keys(shapes));
  if (!options.print) {
    const introduction = readFileSync(join(import.meta.dirname, "layer-cost/page.md"), "utf8");
    const conditions = `Node ${process.versions.node}, ${cpus()[0]!.model}, threads: ${options.threads}.`;
    const page = join(import.meta.dirname, "../docs/conversion-cost.md");
    writeWhole(page, `${[introduction.trim(), markdown(measured), conditions].join("\n\n")}\n`);
  }
}
