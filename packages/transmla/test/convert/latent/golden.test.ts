// Intermediate values of the reference program, in the order in which the steps depend on each other.
import { join } from "node:path";

import { cpuBackend } from "@transmla/backend-cpu";
import { multiply, type Matrix } from "@transmla/core/linalg";
import { afterEach, describe, expect, test } from "vitest";

import { bundledModel } from "../../../src/bundled.ts";
import { diskFolder } from "../../../src/checkpoint/disk.ts";
import { openSafetensors } from "../../../src/checkpoint/safetensors.ts";
import { convert } from "../../../src/convert/convert.ts";
import { stackRows } from "../../../src/convert/latent/algebra/matrices.ts";
import type { ConvertedLayer } from "../../../src/convert/latent/convert-layer.ts";
import { compare } from "../../../src/evaluate/evaluate.ts";
import { loadModel } from "../../../src/load.ts";
import { hasShared, shared } from "../../shared.ts";
import { convertedLayers, readGolden, type Windows } from "./bundled.ts";

/** Relative to the largest element: the model runs in f32 here and there, the linear algebra in f64. */
const TOLERANCE = 1e-5;

/** The reference program ends with the closed form. */
const recipe = { ropeDim: 24, latentRank: 72, logitRefit: false };
const [kvHeads, headDim, pairs, slots] = [4, 32, 16, 12];

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

interface LayerScalars {
  readonly kappa: number;
  readonly relative_error_before_refit: number;
  readonly relative_error: number;
  readonly rho: readonly number[];
  readonly mu_abs_mean_over_heads: readonly number[];
  readonly slot_energy_top: readonly number[];
  readonly slot_energy_total: readonly number[];
  readonly latent_eigenvalues_top8: readonly number[];
  readonly latent_energy_kept: number;
  readonly C_uniform_trace: number;
  readonly C_received_trace: number;
  readonly q_moment_traces: readonly number[];
}

interface Golden {
  readonly calibration_windows: Windows;
  readonly test_windows_first_2: Windows;
  readonly small: {
    readonly layers: readonly LayerScalars[];
    readonly ppl_original: number;
    readonly ppl_converted: number;
    readonly kl: number;
  };
}

const trace = ({ rows, data }: Matrix): number =>
  data.reduce((sum, value, i) => (i % (rows + 1) === 0 ? sum + value : sum), 0);
const total = (values: Iterable<number>): number => [...values].reduce((a, b) => a + b, 0);

/** The values of a layer under the names of the reference. */
function scalars({ moments, slots, phases, latent, ...rest }: ConvertedLayer): LayerScalars {
  const { re, im } = moments.meanRotation;
  const kept = latent.eigenvalues.subarray(0, recipe.latentRank);
  return {
    C_uniform_trace: trace(moments.uniform),
    C_received_trace: trace(moments.received),
    q_moment_traces: moments.queries.map(trace),
    rho: [...re].flatMap((x, l) => [x, im[l]!]),
    kappa: moments.outputVariance,
    slot_energy_top: slots.energies.map((energies) => energies[0]!),
    slot_energy_total: slots.energies.map(total),
    mu_abs_mean_over_heads: Array.from(
      { length: pairs },
      (_, l) => total(phases.map((mu) => Math.hypot(mu.re[l]!, mu.im[l]!))) / phases.length,
    ),
    latent_eigenvalues_top8: [...latent.eigenvalues.subarray(0, 8)],
    latent_energy_kept: total(kept) / total(latent.eigenvalues),
    relative_error_before_refit: rest.errorBefore,
    relative_error: rest.error,
  };
}

/** Named values that are not near what is expected, with their largest deviation. */
type Deviations = Record<string, number>;

function compareTo(
  found: ArrayLike<number>,
  expected: ArrayLike<number>,
  name: string,
  deviations: Deviations,
): void {
  expect(found.length).toBe(expected.length);
  let [difference, magnitude] = [0, 0];
  for (let i = 0; i < found.length; i++) {
    difference = Math.max(difference, Math.abs(found[i]! - expected[i]!));
    magnitude = Math.max(magnitude, Math.abs(expected[i]!));
  }
  if (!(difference < TOLERANCE * magnitude)) deviations[name] = difference / magnitude;
}

/** Slot by slot the projector `b aᴴ` on the keys of all kv heads, real and imaginary parts. */
function slotProjectors({ read, rebuild }: ConvertedLayer["slots"]): number[] {
  const projectors: number[] = [];
  for (let p = 0; p < slots; p++) {
    for (let i = 0; i < kvHeads; i++) {
      const b = (part: number): number =>
        rebuild.data[(i * headDim + part * pairs + p) * rebuild.cols + p]!;
      for (let j = 0; j < kvHeads; j++) {
        const a = (part: number): number =>
          read.data[(part * slots + p) * read.cols + j * headDim + p]!;
        projectors.push(b(0) * a(0) - b(1) * a(1), b(0) * a(1) + b(1) * a(0));
      }
    }
  }
  return projectors;
}

/** The tensors of a layer under the names of the reference, where they do not depend on a choice of basis. */
function tensors({
  moments,
  slots,
  phases,
  latent,
  layer,
}: ConvertedLayer): [string, Float64Array][] {
  const decode = stackRows([latent.decodeKeys, latent.decodeValues]);
  const flat = (parts: readonly Matrix[]): Float64Array => stackRows(parts).data;
  const covariance = moments.uniform.data.map((x, i) => (x + moments.received.data[i]!) / 2);
  const inLatent = multiply(latent.encode, { ...moments.uniform, data: covariance });
  return [
    ["C_uniform", moments.uniform.data],
    ["C_received", moments.received.data],
    ["q_moment", flat(moments.queries)],
    ["slot_energies", Float64Array.from(slots.energies.flatMap((energies) => [...energies]))],
    ["slot_projectors", Float64Array.from(slotProjectors(slots))],
    [
      "mu",
      Float64Array.from(phases.flatMap(({ re, im }) => [...re].flatMap((x, l) => [x, im[l]!]))),
    ],
    ["latent_eigenvalues", latent.eigenvalues],
    ["latent_projector", multiply(decode, latent.encode).data],
    ["latent_second_moment", multiply(inLatent, latent.encode, { transposeB: true }).data],
    ["q_nope", layer.queryNope.data],
    ["k_nope_map", multiply(layer.keyUp, layer.latent).data],
    ["v_map", multiply(layer.valueUp, layer.latent).data],
    ["o_proj", layer.output.data],
  ];
}

describe.skipIf(!hasShared("fixtures/latent"))("golden values of the reference program", () => {
  test("scalars of every layer, four windows of 128 tokens", async () => {
    const golden = readGolden("latent_golden.json") as Golden;
    const windows = golden.calibration_windows.slice(0, 4).map((ids) => ids.slice(0, 128));
    const all = golden.small.layers.map((_, layer) => layer);
    const layers = await convertedLayers(backend, windows, recipe, all);
    const deviations: Deviations = {};
    for (const [layer, expected] of golden.small.layers.entries()) {
      for (const [name, found] of Object.entries(scalars(layers[layer]!))) {
        const value = expected[name as keyof LayerScalars];
        compareTo([found].flat(), [value].flat(), `layer ${layer} ${name}`, deviations);
      }
    }
    expect(deviations).toEqual({});
  });

  test("predictions of the model that four windows of 128 tokens give", async () => {
    const golden = readGolden("latent_golden.json") as Golden;
    const first = (windows: Windows): Windows =>
      windows.slice(0, 4).map((ids) => ids.slice(0, 128));
    using source = await loadModel(bundledModel, { backend });
    const calibration = first(golden.calibration_windows);
    using converted = await convert(source, { method: "latent", ...recipe, calibration });
    const test = first(golden.test_windows_first_2);
    const [comparison] = await compare(source, [converted], test);
    const { perplexity, meanKl } = comparison!;
    expect(perplexity[0]).toBeCloseTo(golden.small.ppl_original, 4);
    expect(perplexity[1]).toBeCloseTo(golden.small.ppl_converted, 3);
    expect(meanKl).toBeCloseTo(golden.small.kl, 5);
  });

  test("tensors of layers 0 and 3, 64 windows of 512 tokens", { timeout: 300_000 }, async () => {
    const golden = readGolden("latent_golden.json") as Golden;
    const layers = await convertedLayers(backend, golden.calibration_windows, recipe, [0, 3]);
    const folder = diskFolder(join(shared, "fixtures/latent"));
    const expected = await openSafetensors(await folder.open("latent_golden.safetensors"));
    const deviations: Deviations = {};
    for (const [i, prefix] of ["layer0", "layer3"].entries()) {
      for (const [name, found] of tensors(layers[i]!)) {
        const full = `${prefix}.${name}`;
        compareTo(found, await expected.numbers(full), full, deviations);
      }
    }
    expect(deviations).toEqual({});
    await expected.close();
  });
});
