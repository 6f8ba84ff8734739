import { afterAll, afterEach, beforeAll, beforeEach, describe, expect } from "vitest";

import type { Backend, MemoryCount } from "../backend.ts";
import { attentionTests } from "./conformance/attention.ts";
import { blockTests } from "./conformance/blocks.ts";
import { castTests } from "./conformance/cast.ts";
import { copyTests } from "./conformance/copy.ts";
import { elementwiseTests } from "./conformance/elementwise.ts";
import { factorizationTests } from "./conformance/factorizations.ts";
import { fusedTests } from "./conformance/fused.ts";
import { memoryTests } from "./conformance/memory.ts";
import { productTests } from "./conformance/products.ts";
import { selectionTests } from "./conformance/selection.ts";
import { withShareOfRuns } from "./harness.ts";

/**
 * Declares the tests that a backend must pass: every primitive against plain loops in f64 over generated shapes, dtypes
 * and views; every fused operation as core composes it, against an independent reference; the backend's own fused
 * kernels against those compositions; factorisations by reconstruction; ordering of writes and reads; and that no test
 * leaves memory behind.
 *
 * @param name - How the backend is called in the report.
 * @param makeBackend - Makes the backend, once for the suite, which disposes of it.
 * @param options - `shareOfRuns`, from 0 to 1: on what part of the usual number of values each property is tried; all by
 *   default. For backends that compile for each kind of operands.
 *
 * @example
 * A test file of a backend package:
 * ```ts ignore
 * import { cpuBackend } from "@transmla/backend-cpu";
 * import { conformance } from "@transmla/core/testing";
 * conformance("cpu", () => cpuBackend());
 * ```
 */
export function conformance(
  name: string,
  makeBackend: () => Promise<Backend>,
  { shareOfRuns = 1 }: { readonly shareOfRuns?: number } = {},
): void {
  describe(`${name} conforms`, () => {
    let backend: Backend;
    let before: MemoryCount;

    beforeAll(async () => {
      backend = await makeBackend();
    });
    beforeEach(() => {
      before = backend.memory();
    });
    afterEach(() => {
      expect(backend.memory(), "memory held after the test").toEqual(before);
    });
    afterAll(() => {
      backend.dispose();
    });

    const subject = (): Backend => backend;
    withShareOfRuns(shareOfRuns, () => {
      describe("elementwise", () => {
        elementwiseTests(subject);
      });
      describe("copy", () => {
        copyTests(subject);
      });
      describe("cast", () => {
        castTests(subject);
      });
      describe("blocks", () => {
        blockTests(subject);
      });
      describe("products", () => {
        productTests(subject);
      });
      describe("selection", () => {
        selectionTests(subject);
      });
      describe("fused operations", () => {
        fusedTests(subject);
      });
      describe("attention", () => {
        attentionTests(subject);
      });
      describe("factorizations", () => {
        factorizationTests(subject);
      });
      describe("memory", () => {
        memoryTests(subject);
      });
    });
  });
}
