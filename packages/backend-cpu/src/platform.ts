/** What Node says of itself. */
interface NodeProcess {
  readonly getBuiltinModule?: (name: string) => unknown;
  readonly versions?: { readonly v8?: string };
}

const { process, performance } = globalThis as unknown as {
  readonly process?: NodeProcess;
  readonly performance: { now(): number };
};

/**
 * A module of Node's, without an import that browsers and bundlers would stumble over.
 *
 * @param name - Its name: `node:os`.
 * @returns `undefined` elsewhere.
 */
export function builtin(name: string): unknown {
  return process?.getBuiltinModule?.(name);
}

/** The major version of V8 under Node; 0 elsewhere. */
export function v8Version(): number {
  return Number.parseInt(process?.versions?.v8 ?? "0", 10);
}

/** Milliseconds since some moment, with fractions. */
export function now(): number {
  return performance.now();
}
