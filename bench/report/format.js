import { ownName } from "../bench.js";

/** Three digits or more. */
export function digits(value) {
  if (value >= 100) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toPrecision(3);
}

/** A time, in the unit that suits it. */
export function duration(ms) {
  return ms < 0.1 ? `${digits(1000 * ms)} µs` : `${digits(ms)} ms`;
}

/** What work a time is the time of, in a second. */
export function speed(rate, ms) {
  return rate ? `${digits(rate.perRun / (ms / 1000))} ${rate.unit}` : "";
}

/** How many times as fast as a contender this library is. */
export function advantage(rows, { figure }) {
  const own = rows.find(({ who }) => who === ownName);
  return own ? figure.median / own.figure.median : undefined;
}

/** Figures of a case: name, median, quartiles, speed, and how many times as fast this library is. */
export function cells({ rows, rate }) {
  return rows.map((row) => {
    const { median, low, high, samples } = row.figure;
    const quartiles = samples < 3 ? "one run" : `${duration(low)} – ${duration(high)}`;
    const ratio = row.who === ownName ? "" : digits(advantage(rows, row));
    return [row.label, duration(median), quartiles, speed(rate, median), ratio];
  });
}

export const heads = ["", "median", "quartiles", "speed", "times as fast"];

/** A goal and what was reached. */
export function verdict({ text, value, required, heading, atMost, holds }) {
  const sign = atMost ? "≤" : "≥";
  const wanted = required === undefined ? "" : `; required ${sign} ${required}`;
  const next =
    heading === undefined || heading === required ? "" : `, heading for ${sign} ${heading}`;
  const outcome = holds === undefined ? "" : holds ? ": reached" : ": MISSED";
  return `${text}: ${digits(value)}${wanted}${next}${outcome}`;
}
