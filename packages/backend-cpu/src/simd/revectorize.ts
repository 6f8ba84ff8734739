import { builtin, now, v8Version } from "../platform.ts";
import { webAssembly } from "../webassembly.ts";
import { emit } from "./kernels.ts";
import { tileFor } from "./tile.ts";

/** The first V8 (of Node 24) that joins two operations on 128 bits into one on 256. Older ones ignore or refuse the flag. */
const FIRST_V8 = 13;

/** How long the probe waits for the optimising compiler, in milliseconds. */
const PATIENCE = 300;

/** The wide tile has to be this many times as fast as the plain one, against 1.6 to 1.9 where vectors are joined. */
const GAIN = 1.25;

/** Depth of the panels that are timed. */
const DEPTH = 512;

/** What the probe found, by kind of kernel. It is made once: the flag is that of the process. */
const found = new Map<boolean, boolean>();

/**
 * Asks V8 to join vectors in pairs, and finds out by timing a product whether it does: without, the wide tile would be
 * slower than the plain one.
 *
 * @param relaxed - Whether products use relaxed instructions.
 */
export function revectorizes(relaxed: boolean): boolean {
  let answer = found.get(relaxed);
  if (answer === undefined) {
    answer = requestPairs() && isWideFaster(relaxed);
    found.set(relaxed, answer);
  }
  return answer;
}

function requestPairs(): boolean {
  if (v8Version() < FIRST_V8) return false;
  const v8 = builtin("node:v8") as { setFlagsFromString(flags: string): void } | undefined;
  v8?.setFlagsFromString("--experimental-wasm-revectorize");
  return v8 !== undefined;
}

function isWideFaster(relaxed: boolean): boolean {
  const [plain, wide] = [false, true].map((revectorized) => timer(relaxed, revectorized)) as [
    () => number,
    () => number,
  ];
  let [best, bestWide] = [Infinity, Infinity];
  for (const start = now(); now() - start < PATIENCE;) {
    best = Math.min(best, plain());
    bestWide = Math.min(bestWide, wide());
    // Both have to be optimised: the first rounds are not.
    if (now() - start > PATIENCE / 6 && bestWide * GAIN < best) return true;
  }
  return false;
}

/** Times products with one tile, in milliseconds a multiplication. */
function timer(relaxed: boolean, revectorized: boolean): () => number {
  const { rows, vectors } = tileFor(relaxed, revectorized);
  const memory = new webAssembly.Memory({ initial: 1, maximum: 1 });
  const module = new webAssembly.Module(emit("multiplyPanels f32", { relaxed, revectorized }));
  const run = new webAssembly.Instance(module, { env: { memory } }).exports["run"]!;
  const columns = 4 * vectors;
  const [left, right] = [0, 4 * rows * DEPTH];
  const out = right + 4 * columns * DEPTH;
  const repetitions = 4;
  return () => {
    const start = now();
    for (let i = 0; i < repetitions; i++) {
      run(left, right, out, 4 * columns, rows, columns, DEPTH, 0, out + 4 * rows * columns);
    }
    return (now() - start) / (repetitions * rows * columns * DEPTH);
  };
}
