// How a statement of the specification becomes a test. docs/specification.md lists every call of these functions.
import { fc } from "@fast-check/vitest";
import type { Backend } from "@transmla/core";
import { expect, test } from "vitest";

import { backends } from "../backends.ts";

/** A statement about every input that its generators make. */
export interface Statement {
  /** The number that the documentation uses. */
  readonly id: `P${number}`;
  /** What holds, in one sentence. */
  readonly statement: string;
  /** How closely it is checked. */
  readonly tolerance: string;
  /** How many inputs are tried; 50 when absent, or one where there is nothing to generate. */
  readonly runs?: number;
}

/** A generator for each argument of a check. */
export type Arbitraries<Inputs extends unknown[]> = {
  [I in keyof Inputs]: fc.Arbitrary<Inputs[I]>;
};

/** Fails by throwing, as `expect` does. */
type Check<Inputs extends unknown[]> = (...inputs: Inputs) => void | Promise<void>;

function register<Inputs extends unknown[]>(
  claim: Statement,
  name: string,
  arbitraries: Arbitraries<Inputs>,
  check: Check<Inputs>,
  timeout?: number,
): void {
  const numRuns = arbitraries.length === 0 ? 1 : (claim.runs ?? 50);
  const inputs = fc.tuple(...(arbitraries as fc.Arbitrary<unknown>[])) as fc.Arbitrary<Inputs>;
  test(`${claim.id} ${name}`, { ...(timeout !== undefined && { timeout }) }, async () => {
    expect.hasAssertions();
    // A failure reports the seed and the smallest input that fails.
    await fc.assert(
      fc.asyncProperty(inputs, async (values) => check(...values)),
      { numRuns },
    );
  });
}

/**
 * Registers a test of a statement.
 *
 * @param claim - The statement.
 * @param arbitraries - What its inputs are; none for a statement about fixed numbers.
 * @param check - Throws for an input that contradicts it.
 */
export function property<Inputs extends unknown[]>(
  claim: Statement,
  arbitraries: Arbitraries<Inputs>,
  check: Check<Inputs>,
): void {
  register(claim, claim.statement, arbitraries, check);
}

/**
 * Registers a test that a premise is needed: without it, every input contradicts the statement.
 *
 * @param claim - What breaks, and without which premise.
 * @param arbitraries - What the inputs are.
 * @param check - Throws for an input that does not break it.
 */
export function counterexample<Inputs extends unknown[]>(
  claim: Statement,
  arbitraries: Arbitraries<Inputs>,
  check: Check<Inputs>,
): void {
  register(claim, `counterexample: ${claim.statement}`, arbitraries, check);
}

/**
 * Registers a test of a statement on every backend that is present, in each of its modes. Each input must leave the backend's memory as it was.
 *
 * @param claim - The statement; `runs` is 5 when absent.
 * @param arbitraries - What its inputs are.
 * @param check - Receives the backend before the inputs.
 */
export function backendProperty<Inputs extends unknown[]>(
  claim: Statement,
  arbitraries: Arbitraries<Inputs>,
  check: (backend: Backend, ...inputs: Inputs) => Promise<void>,
): void {
  for (const [name, backend] of backends) {
    // One mode tries all inputs; what they differ in concerns the other modes little. A software adapter takes long to compile
    // the kernels of an input.
    const slow = backend.name !== "cpu";
    const others = slow ? 1 : 2;
    const few = { ...claim, runs: name === "cpu" ? (claim.runs ?? 5) : others };
    const checkOn = async (...inputs: Inputs): Promise<void> => {
      const before = backend.memory();
      await check(backend, ...inputs);
      expect(backend.memory()).toEqual(before);
    };
    register(few, `${claim.statement} (${name})`, arbitraries, checkOn, slow ? 300_000 : undefined);
  }
}
