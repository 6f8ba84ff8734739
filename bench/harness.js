// How all tables measure: contenders take turns, so that what else the machine does hits all of them; medians with quartiles.

/**
 * @typedef {object} Contender One library doing the work of a case.
 * @property {string} who What the tables call it.
 * @property {() => unknown} [run] Does the work once; may be asynchronous.
 * @property {(result: any) => ArrayLike<number> | Promise<ArrayLike<number>>} [read] The numbers of a result.
 * @property {(result: any) => void} [free] Frees a result.
 * @property {(repeats: number) => Promise<number>} [time] In place of `run`: milliseconds of one repeat, measured elsewhere.
 * @property {() => Promise<ArrayLike<number>>} [result] In place of `read`, beside `time`.
 * @property {() => void} [dispose] Frees the operands.
 */

/** @typedef {{ median: number, low: number, high: number, samples: number }} Figure Milliseconds; quartiles. */

/** Numbers from -0.5 to 0.5 that depend on the seed only. */
export function random(length, seed, Kind = Float32Array) {
  const values = new Kind(length);
  let state = seed >>> 0;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = state / 2 ** 32 - 0.5;
  }
  return values;
}

/** Milliseconds of one repeat. */
async function time(contender, repeats) {
  if (contender.time) return contender.time(repeats);
  const start = performance.now();
  for (let i = 0; i < repeats; i++) {
    let result = contender.run();
    if (result instanceof Promise) result = await result;
    contender.free?.(result);
  }
  return (performance.now() - start) / repeats;
}

/** The numbers that a contender computes. */
export async function resultOf(contender) {
  if (contender.result) return contender.result();
  const result = await contender.run();
  const numbers = await contender.read(result);
  contender.free?.(result);
  return numbers;
}

/** Samples are at least this long, in milliseconds: shorter work is repeated. */
const SAMPLE = 4;

/**
 * Measures contenders in turns, until each has enough samples or the time of the case is over.
 *
 * @param {readonly Contender[]} contenders
 * @param {{ seconds: number, samples: number }} effort Slow contenders end with fewer samples, but at least one.
 * @returns {Promise<Map<string, Figure>>}
 */
export async function measure(contenders, { seconds, samples }) {
  const states = [];
  for (const contender of contenders) {
    let first = await time(contender, 1); // compiles, and warms caches
    const slow = first > 500 * seconds;
    if (!slow) first = Math.min(await time(contender, 1), await time(contender, 1));
    const repeats = Math.max(1, Math.ceil(SAMPLE / first));
    if (!slow && repeats > 1) await time(contender, 10 * repeats);
    states.push({ contender, repeats, times: slow ? [first] : [], slow });
  }
  const end = performance.now() + 1000 * seconds;
  const fast = states.filter(({ slow }) => !slow);
  for (let round = 0; round < 200 && fast.length > 0; round++) {
    if (round >= samples && performance.now() > end) break;
    if (round >= 3 && performance.now() > end + 2000 * seconds) break;
    for (const { contender, repeats, times } of fast) times.push(await time(contender, repeats));
  }
  return new Map(states.map(({ contender, times }) => [contender.who, figure(times)]));
}

/** Median and quartiles. */
function figure(times) {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (part) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))];
  return { median: at(0.5), low: at(0.25), high: at(0.75), samples: sorted.length };
}

/** The largest difference of two lists, relative to the largest number of the second. */
function difference(actual, expected) {
  if (actual.length !== expected.length) return Infinity;
  let error = 0;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    error = Math.max(error, Math.abs(actual[i] - expected[i]));
    largest = Math.max(largest, Math.abs(expected[i]));
    if (Number.isNaN(actual[i])) return Number.NaN;
  }
  return error / largest;
}

/** Throws unless numbers are near the expected ones. */
export function requireNear(actual, expected, tolerance) {
  const error = difference(actual, expected);
  if (!(error <= tolerance)) throw new Error(`wrong by ${error} relative to the largest entry`);
}

/** Some entries of `a b`, in f64. */
export function checkProduct(a, b, [m, k, n], tolerance = 1e-4) {
  const places = Array.from({ length: 16 }, (_, q) => [(q * 7919) % m, (q * 104729) % n]);
  const expected = places.map(([i, j]) => {
    let sum = 0;
    for (let p = 0; p < k; p++) sum += a[i * k + p] * b[p * n + j];
    return sum;
  });
  return (c) => {
    if (c.length !== m * n) throw new Error(`${c.length} entries in place of ${m * n}`);
    requireNear(
      places.map(([i, j]) => c[i * n + j]),
      expected,
      tolerance,
    );
  };
}
