import { ArgumentError, fail } from "./errors.ts";

/** What a scope owns: tensors, seen without their operations. */
export interface Owned {
  /** Frees it. */
  dispose(): void;
}

/** What each open scope owns, the innermost last. */
const scopes: Set<Owned>[] = [];

/** @internal Called by every new tensor: the innermost scope owns it. */
export function adopt(owned: Owned): void {
  scopes.at(-1)?.add(owned);
}

/**
 * Frees every tensor that `body` made, except those it returns: alone, in an array or in an object. What it returns
 * belongs to the surrounding scope, if there is one. When `body` throws, everything it made is freed.
 *
 * @param body - Synchronous work. A body that returns a promise is refused: what it makes later would escape.
 * @returns What `body` returned.
 *
 * @example
 * ```ts
 * import { cpuBackend } from "@transmla/backend-cpu";
 * import { add, mul, scope, tensor } from "@transmla/core";
 * const backend = await cpuBackend();
 * const x = tensor(backend, [1, 2, 3], [3]);
 * const y = scope(() => add(mul(x, x), x)); // the product is freed, the sum is returned
 * console.log(Array.from(await y.read())); // => [2, 6, 12]
 * console.log(backend.memory().buffers); // => 2
 * ```
 */
export function scope<T>(body: () => T extends PromiseLike<unknown> ? never : T): T {
  const outer = scopes.at(-1) ?? null;
  const mine = new Set<Owned>();
  scopes.push(mine);
  try {
    const result: T = body();
    if (result instanceof Promise) {
      result.catch(() => undefined); // it will find its tensors freed, which is said here
      fail(
        ArgumentError,
        "scope",
        "the body is async; free its tensors with `using` or dispose() instead",
      );
    }
    release(result, mine, outer);
    return result;
  } finally {
    scopes.pop();
    for (const owned of mine) owned.dispose();
  }
}

/** Moves what a result holds from one owner to the next. */
function release(result: unknown, from: Set<Owned>, to: Set<Owned> | null): void {
  if (typeof result !== "object" || result === null) return;
  if (from.delete(result as Owned)) to?.add(result as Owned);
  else if (Array.isArray(result)) for (const item of result) release(item, from, to);
  else if (Object.getPrototypeOf(result) === Object.prototype) {
    for (const item of Object.values(result)) release(item, from, to);
  }
}

/**
 * Takes a tensor out of every scope: its holder must dispose of it.
 *
 * @param tensor - A tensor made inside a scope, this one or a surrounding one.
 * @returns The same tensor.
 */
export function keep<T extends Owned>(tensor: T): T {
  for (const owned of scopes) owned.delete(tensor);
  return tensor;
}
