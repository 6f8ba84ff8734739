/** Where the numbers of an axis lie, from 0 to 1, and which of them are labelled. */
export interface Scale {
  /** The place of a number; numbers beyond the axis lie beyond 0 or 1. */
  place(value: number): number;
  /** Round numbers along the axis. */
  readonly ticks: readonly number[];
}

/** Labelled numbers on an axis, about. */
const TICKS = 5;

/**
 * An axis from zero to a little above the largest number.
 *
 * @param values - What it must hold; not negative.
 */
export function linearScale(values: readonly number[]): Scale {
  const largest = Math.max(...values) || 1;
  const magnitude = 10 ** Math.floor(Math.log10(largest / TICKS));
  const step = [1, 2, 5, 10].map((x) => x * magnitude).find((x) => largest / x <= TICKS)!;
  const count = Math.ceil(largest / step);
  const end = count * step;
  return {
    place: (value) => value / end,
    ticks: Array.from({ length: count + 1 }, (_, i) => i * step),
  };
}

/**
 * A logarithmic axis between round numbers on both sides of the values.
 *
 * @param values - What it must hold; those that are not positive have no place.
 */
export function logScale(values: readonly number[]): Scale {
  const positive = values.filter((value) => value > 0);
  const [least, largest] = [Math.min(...positive), Math.max(...positive)];
  const decades = Math.log10(largest / least);
  // One, two and five of each decade on a short axis, powers of ten on a long one.
  const parts = decades > 3 ? [1] : decades > 1.2 ? [1, 3] : [1, 2, 3, 5, 7];
  const numbers: number[] = [];
  for (let e = Math.floor(Math.log10(least)); e <= Math.ceil(Math.log10(largest)) + 1; e++) {
    for (const part of parts) numbers.push(part * 10 ** e);
  }
  const first = numbers.findLastIndex((x) => x <= least);
  const last = numbers.findIndex((x) => x >= largest && x > numbers[first]!);
  const ticks = numbers.slice(first, last + 1);
  const every = Math.ceil(ticks.length / 8);
  const [start, length] = [Math.log(ticks[0]!), Math.log(ticks.at(-1)! / ticks[0]!)];
  return {
    place: (value) => (value > 0 ? (Math.log(value) - start) / length : Number.NEGATIVE_INFINITY),
    ticks: ticks.filter((_, i) => i % every === 0),
  };
}
