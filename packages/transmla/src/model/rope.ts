import { tensor, type Backend, type Tensor } from "@transmla/core";

import type { RopeConfig } from "./config.ts";
import type { Fields } from "./fields.ts";

/**
 * The frequencies of the original rotary embedding (Su et al. 2021): `theta^(-2i/dim)`.
 *
 * @param theta - The base, `rope_theta`.
 * @param dim - The rotated width; half as many frequencies.
 */
function defaultFrequencies(theta: number, dim: number): number[] {
  return Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim));
}

/** Reads the scaling of one `rope_type` for frequencies that are given. */
type Scaling = (
  frequencies: readonly number[],
  fields: Fields,
  contextLength: number,
) => Omit<RopeConfig, "interleaved">;

const scalings: Readonly<Record<string, Scaling>> = {
  default: (frequencies) => ({ frequencies, tableScale: 1 }),

  /** Position interpolation (Chen et al. 2023). */
  linear(frequencies, fields) {
    const factor = fields.positive("factor");
    return { frequencies: frequencies.map((f) => f / factor), tableScale: 1 };
  },

  /** Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, and a smooth ramp lies between. */
  llama3(frequencies, fields) {
    const factor = fields.positive("factor");
    const low = fields.positive("low_freq_factor");
    const high = fields.positive("high_freq_factor");
    const original = fields.size("original_max_position_embeddings");
    if (high <= low) fields.refuse("high_freq_factor", `must be above low_freq_factor = ${low}`);
    const scaled = frequencies.map((f) => {
      const turns = (original * f) / (2 * Math.PI); // over the original context
      const kept = Math.min(Math.max((turns - low) / (high - low), 0), 1);
      return (1 - kept) * (f / factor) + kept * f;
    });
    return { frequencies: scaled, tableScale: 1 };
  },

  /** LongRoPE (Ding et al. 2024): an explicit factor for each frequency. */
  longrope(frequencies, fields, contextLength) {
    const short = fields.positives("short_factor", frequencies.length);
    const long = fields.positives("long_factor", frequencies.length);
    if (long.some((factor, i) => factor !== short[i])) {
      fields.refuse(
        "long_factor",
        "differs from short_factor; frequencies that depend on the length are not supported",
      );
    }
    const original = fields.size("original_max_position_embeddings", contextLength);
    const factor = fields.positive("factor", contextLength / original);
    const derived = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
    return {
      frequencies: frequencies.map((f, i) => f / short[i]!),
      tableScale: fields.positive("attention_factor", derived),
    };
  },
};

/**
 * Reads the rotary embedding of a configuration, in the form of Transformers 5 (`rope_parameters`) or the older one
 * (`rope_theta` and `rope_scaling`).
 *
 * @param fields - The whole configuration.
 * @param dim - The rotated width.
 * @param interleaved - Which components form pairs.
 * @param contextLength - `max_position_embeddings`.
 */
export function readRope(
  fields: Fields,
  dim: number,
  interleaved: boolean,
  contextLength: number,
): RopeConfig {
  const current = fields.has("rope_parameters") ? fields.object("rope_parameters") : undefined;
  const scaling =
    current ?? (fields.has("rope_scaling") ? fields.object("rope_scaling") : undefined);
  const theta = (current?.has("rope_theta") ? current : fields).positive("rope_theta", 10_000);
  const type = scaling?.text("rope_type", scaling.text("type", "default")) ?? "default";
  const partial = (current?.has("partial_rotary_factor") ? current : fields).positive(
    "partial_rotary_factor",
    1,
  );
  if (partial !== 1) fields.refuse("partial_rotary_factor", "is not supported");
  const read = Object.hasOwn(scalings, type) ? scalings[type] : undefined;
  if (!read) {
    return scaling!.refuse(
      scaling!.has("rope_type") ? "rope_type" : "type",
      `is not supported; known: ${Object.keys(scalings).join(", ")}`,
    );
  }
  return { ...read(defaultFrequencies(theta, dim), scaling ?? fields, contextLength), interleaved };
}

/** Cosines and sines of every position, `[positions, d/2]` each. */
export interface RopeTables {
  /** Cosines, times the table scale. */
  readonly cos: Tensor;
  /** Sines, times the table scale. */
  readonly sin: Tensor;
}

/**
 * Computes the rotation tables of positions 0, 1, 2 ... in f64, with one rounding.
 *
 * @param backend - Where the tables live; the caller disposes of both.
 * @param rope - Frequencies and scale.
 * @param positions - How many.
 */
export function ropeTables(backend: Backend, rope: RopeConfig, positions: number): RopeTables {
  const pairs = rope.frequencies.length;
  const table = (fn: (angle: number) => number): Tensor => {
    const values = new Float32Array(positions * pairs);
    for (let t = 0; t < positions; t++) {
      for (let i = 0; i < pairs; i++)
        values[t * pairs + i] = fn(t * rope.frequencies[i]!) * rope.tableScale;
    }
    return tensor(backend, values, [positions, pairs]);
  };
  return { cos: table(Math.cos), sin: table(Math.sin) };
}
