import { empty, assign, tensor, type Backend, type Tensor } from "@transmla/core";

import type { Fields } from "./config/fields.ts";
import type { RopeConfig } from "./config/model-config.ts";

/** The frequencies of the original rotary embedding (Su et al. 2021): `theta^(-2i/dim)`, half as many as `dim`. */
function defaultFrequencies(theta: number, dim: number): number[] {
  return Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim));
}

/** What a scaling works on. */
interface Unscaled {
  readonly frequencies: readonly number[];
  readonly theta: number;
  /** The rotated width. */
  readonly dim: number;
  /** `max_position_embeddings`. */
  readonly contextLength: number;
  /** `original_max_position_embeddings`, wherever it is stated. */
  readonly originalLength: () => number;
}

/** Reads the scaling of one `rope_type`. */
type Scaling = (unscaled: Unscaled, fields: Fields) => Omit<RopeConfig, "interleaved">;

/** The growth of attention scores with the context that YaRN compensates (Peng et al. 2023, section 3.4). */
const mscale = (factor: number, weight = 1): number =>
  factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1;

const scalings: Readonly<Record<string, Scaling>> = {
  default: ({ frequencies }) => ({ frequencies, tableScale: 1 }),

  /** Position interpolation (Chen et al. 2023). */
  linear({ frequencies }, fields) {
    const factor = fields.positive("factor");
    return { frequencies: frequencies.map((f) => f / factor), tableScale: 1 };
  },

  /** Dynamic NTK: the base grows once the sequence is longer than the context. */
  dynamic({ frequencies, theta, contextLength }, fields) {
    const dynamic = { above: contextLength, factor: fields.positive("factor"), theta };
    return { frequencies, tableScale: 1, dynamic };
  },

  /** Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, and a smooth ramp lies between. */
  llama3({ frequencies, originalLength }, fields) {
    const factor = fields.positive("factor");
    const low = fields.positive("low_freq_factor");
    const high = fields.positive("high_freq_factor");
    if (high <= low) fields.refuse("high_freq_factor", `must be above low_freq_factor = ${low}`);
    const scaled = frequencies.map((f) => {
      const turns = (originalLength() * f) / (2 * Math.PI); // over the original context
      const kept = Math.min(Math.max((turns - low) / (high - low), 0), 1);
      return (1 - kept) * (f / factor) + kept * f;
    });
    return { frequencies: scaled, tableScale: 1 };
  },

  /** YaRN (Peng et al. 2023): interpolation of slow frequencies, with a ramp over the index of the pair. */
  yarn({ frequencies, theta, dim, originalLength }, fields) {
    const factor = fields.positive("factor");
    const pairAt = (turns: number): number =>
      (dim * Math.log(originalLength() / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
    const round = fields.flag("truncate", true);
    const [first, last] = [
      pairAt(fields.positive("beta_fast", 32)),
      pairAt(fields.positive("beta_slow", 1)),
    ];
    const low = Math.max(round ? Math.floor(first) : first, 0);
    const high = Math.min(round ? Math.ceil(last) : last, dim - 1);
    const width = low === high ? 0.001 : high - low; // as Transformers avoids the division by zero
    const scaled = frequencies.map((f, i) => {
      const slowed = Math.min(Math.max((i - low) / width, 0), 1);
      return (f / factor) * slowed + f * (1 - slowed);
    });
    const weights = [fields.number("mscale", 0), fields.number("mscale_all_dim", 0)] as const;
    const derived =
      weights[0] && weights[1]
        ? mscale(factor, weights[0]) / mscale(factor, weights[1])
        : mscale(factor);
    return { frequencies: scaled, tableScale: fields.positive("attention_factor", derived) };
  },

  longrope,
  su: longrope,
};

/** LongRoPE (Ding et al. 2024): an explicit factor for each frequency, others beyond the original context. */
function longrope(
  { frequencies, contextLength, originalLength }: Unscaled,
  fields: Fields,
): Omit<RopeConfig, "interleaved"> {
  const divided = (name: string): number[] => {
    const factors = fields.positives(name, frequencies.length);
    return frequencies.map((f, i) => f / factors[i]!);
  };
  const [short, long] = [divided("short_factor"), divided("long_factor")];
  const above = originalLength();
  const factor = fields.positive("factor", contextLength / above);
  const derived = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(above));
  return {
    frequencies: short,
    tableScale: fields.positive("attention_factor", derived),
    ...(long.some((f, i) => f !== short[i]) ? { long: { above, frequencies: long } } : {}),
  };
}

/** Where a rotary embedding is stated: the whole configuration, and what scales it. */
export interface RopeSource {
  /** The configuration. */
  readonly fields: Fields;
  /** `rope_parameters` (Transformers 5) or `rope_scaling`; absent for no scaling. */
  readonly scaling: Fields | undefined;
  /** The base. */
  readonly theta: number;
}

/**
 * Where the rotary embedding of a configuration is stated, in the form of Transformers 5 or the older one.
 *
 * @param fields - The configuration.
 */
export function ropeSource(fields: Fields): RopeSource {
  const current = fields.has("rope_parameters") ? fields.object("rope_parameters") : undefined;
  const scaling =
    current ?? (fields.has("rope_scaling") ? fields.object("rope_scaling") : undefined);
  const theta = (current?.has("rope_theta") ? current : fields).positive("rope_theta", 10_000);
  return { fields, scaling, theta };
}

/** What the object that states a rotary embedding may say. */
const knownFields = new Set(
  `attention_factor beta_fast beta_slow factor finetuned high_freq_factor long_factor low_freq_factor mscale mscale_all_dim
  original_max_position_embeddings partial_rotary_factor rope_theta rope_type short_factor truncate type`.split(
    /\s+/,
  ),
);

/**
 * What scales a rotary embedding: `default` for nothing.
 *
 * @param source - Where it is stated.
 */
export function ropeType({ scaling }: Pick<RopeSource, "scaling">): string {
  return scaling?.text("rope_type", scaling.text("type", "default")) ?? "default";
}

/**
 * Reads a rotary embedding.
 *
 * @param source - Where it is stated.
 * @param headDim - The width of a head; with a `partial_rotary_factor` only its first part is rotated.
 * @param interleaved - Which components form pairs.
 */
export function readRope(
  { fields, scaling, theta }: RopeSource,
  headDim: number,
  interleaved: boolean,
): RopeConfig {
  const unknown = scaling?.names.find((name) => scaling.has(name) && !knownFields.has(name));
  if (unknown !== undefined) scaling!.refuse(unknown, "is not known, and may change the logits");
  const contextLength = fields.size("max_position_embeddings");
  const type = ropeType({ scaling });
  const partial = (scaling?.has("partial_rotary_factor") ? scaling : fields).positive(
    "partial_rotary_factor",
    1,
  );
  const dim = Math.floor(headDim * partial);
  if (dim < 2 || dim > headDim || dim % 2 !== 0) {
    fields.refuse(
      "partial_rotary_factor",
      `rotates ${dim} of ${headDim} components; it must be an even number of them`,
    );
  }
  const read = Object.hasOwn(scalings, type) ? scalings[type] : undefined;
  if (!read) {
    const known = Object.keys(scalings).join(", ");
    return scaling!.refuse(
      scaling!.has("rope_type") ? "rope_type" : "type",
      `is not supported; known: ${known}`,
    );
  }
  const original = "original_max_position_embeddings";
  const originalLength = (): number =>
    (scaling?.has(original) ? scaling : fields).size(original, contextLength);
  const unscaled = {
    frequencies: defaultFrequencies(theta, dim),
    theta,
    dim,
    contextLength,
    originalLength,
  };
  const rope = { ...read(unscaled, scaling ?? fields), interleaved };
  checkFinite(rope, fields);
  return rope;
}

/** Bases and factors at the limits of f64 leave no frequency that can be computed with. */
function checkFinite({ frequencies, long, dynamic }: RopeConfig, fields: Fields): void {
  const all = [...frequencies, ...(long?.frequencies ?? [])];
  const stated = ["rope_parameters", "rope_scaling"].find((name) => fields.has(name));
  if (!all.every(Number.isFinite)) {
    fields.refuse(stated ?? "rope_theta", "gives frequencies that are not finite");
  }
  if (dynamic && frequencies.length < 2) {
    fields.refuse(stated!, "cannot scale a rotary embedding of one pair");
  }
}

/**
 * What DeepSeek multiplies its softmax scale by where the rotary embedding is scaled: the square of YaRN's mscale.
 *
 * @param source - Where the rotary embedding is stated.
 */
export function scoreScale({ scaling }: RopeSource): number {
  const weight = scaling?.number("mscale_all_dim", 0) ?? 0;
  const scaled = ropeType({ scaling }) !== "default";
  if (!scaling || !scaled || !weight) return 1;
  const scale = mscale(scaling.positive("factor"), weight) ** 2;
  if (!Number.isFinite(scale)) scaling.refuse("mscale_all_dim", "gives scores that are not finite");
  return scale;
}

/** Cosines and sines of positions, `[positions, pairs]` each. */
export interface RopeTables {
  /** Cosines, times the table scale. */
  readonly cos: Tensor;
  /** Sines, times the table scale. */
  readonly sin: Tensor;
}

/** The frequencies for tokens that enter when the sequence has reached a length. */
function frequenciesAt(rope: RopeConfig, length: number): readonly number[] {
  if (rope.long && length > rope.long.above) return rope.long.frequencies;
  if (rope.dynamic && length > rope.dynamic.above) {
    const { theta, factor, above } = rope.dynamic;
    const dim = 2 * rope.frequencies.length;
    const growth = (factor * length) / above - (factor - 1);
    return defaultFrequencies(theta * growth ** (dim / (dim - 2)), dim);
  }
  return rope.frequencies;
}

/**
 * The rotation tables of one sequence. Angles, cosines and sines are computed in f64 and rounded once. Where the
 * frequencies depend on the length, keys keep the rotation that they entered with, as in Transformers.
 */
export class SequenceTables implements Disposable {
  readonly #rope: RopeConfig;
  readonly #tables: RopeTables;

  /**
   * @param backend - Where the tables live.
   * @param rope - Frequencies and scale.
   * @param capacity - How many positions.
   */
  constructor(backend: Backend, rope: RopeConfig, capacity: number) {
    const shape = [capacity, rope.frequencies.length];
    this.#rope = rope;
    this.#tables = { cos: empty(backend, shape), sin: empty(backend, shape) };
    this.#write(0, capacity, rope.frequencies);
  }

  #write(start: number, end: number, frequencies: readonly number[]): void {
    const pairs = frequencies.length;
    for (const [table, fn] of [
      [this.#tables.cos, Math.cos],
      [this.#tables.sin, Math.sin],
    ] as const) {
      const values = new Float32Array((end - start) * pairs);
      for (let t = start; t < end; t++) {
        frequencies.forEach((frequency, i) => {
          values[(t - start) * pairs + i] = fn(t * frequency) * this.#rope.tableScale;
        });
      }
      using rows = tensor(table.backend, values, [end - start, pairs]);
      using window = table.slice(0, start, end);
      assign(window, rows);
    }
  }

  /**
   * Settles the rotation of positions that enter now.
   *
   * @param start - The first of them.
   * @param end - One past the last: the length of the sequence.
   */
  enter(start: number, end: number): void {
    if (this.#rope.long ?? this.#rope.dynamic)
      this.#write(start, end, frequenciesAt(this.#rope, end));
  }

  /**
   * The tables of a range of positions, as views.
   *
   * @param start - The first.
   * @param end - One past the last.
   */
  range(start: number, end: number): RopeTables {
    return {
      cos: this.#tables.cos.slice(0, start, end),
      sin: this.#tables.sin.slice(0, start, end),
    };
  }

  /** Frees the tables. */
  [Symbol.dispose](): void {
    this.#tables.cos.dispose();
    this.#tables.sin.dispose();
  }
}
