import { BackendError, fail, StateError } from "@transmla/core";

import { DeviceLostError } from "./errors.ts";

const scopes = ["validation", "out-of-memory", "internal"] as const;

/**
 * Turns what a device reports later into errors of the operation that caused it: they are thrown by the next read. Also
 * knows when the device is gone.
 */
export class Checks {
  readonly #device: GPUDevice;
  readonly #pending = new Set<Promise<void>>();
  #failure: Error | null = null;
  #gone: Error | null = null;
  readonly #end: Promise<void>;
  #endNow: () => void = () => undefined;

  /** @param device - What reports. */
  constructor(device: GPUDevice) {
    this.#device = device;
    this.#end = new Promise((resolve) => (this.#endNow = resolve));
    void device.lost.then(({ reason, message }) => this.end(new DeviceLostError(reason, message)));
  }

  /** Whether the device is lost or the backend disposed of. */
  get ended(): boolean {
    return this.#gone !== null;
  }

  /**
   * Calls the device, and watches for the errors that it reports later.
   *
   * @param operation - For their messages.
   * @param body - The calls.
   */
  checked<T>(operation: string, body: () => T): T {
    this.requireOpen(operation);
    for (const scope of scopes) this.#device.pushErrorScope(scope);
    try {
      return body();
    } finally {
      for (const scope of scopes.toReversed()) this.watch(this.#pop(operation, scope));
    }
  }

  async #pop(operation: string, scope: string): Promise<void> {
    const error = await this.#device.popErrorScope();
    if (error) this.report(operation, `${scope} error: ${error.message}`);
  }

  /**
   * Makes the next read wait for something.
   *
   * @param check - Reports what it finds. Its rejection means that the device is lost, which is known by then.
   */
  watch(check: Promise<void>): void {
    const settled = check
      .catch(() => undefined)
      .finally(() => {
        this.#pending.delete(settled);
      });
    this.#pending.add(settled);
  }

  /**
   * Remembers an error for the next read; the first one counts.
   *
   * @param operation - What failed.
   * @param problem - The device's words.
   */
  report(operation: string, problem: string): void {
    this.#failure ??= new BackendError(`${operation}: ${problem.trim()}`);
  }

  /**
   * Waits for work, but not for that of a device that is gone: then it throws why.
   *
   * @param work - What to wait for.
   */
  async unlessEnded(work: Promise<unknown>): Promise<void> {
    await Promise.race([work, this.#end]);
    if (this.#gone) throw this.#gone;
  }

  /**
   * Waits for work and for everything that is watched, and throws what went wrong.
   *
   * @param work - What to wait for.
   */
  async settle(work: Promise<unknown>): Promise<void> {
    await this.unlessEnded(Promise.all([work, ...this.#pending]));
    const failure = this.#failure;
    this.#failure = null;
    if (failure) throw failure;
  }

  /**
   * Throws a `DeviceLostError` when the device is lost and a `StateError` after the backend was disposed of.
   *
   * @param operation - For the message.
   */
  requireOpen(operation: string): void {
    if (this.#gone instanceof DeviceLostError) throw this.#gone;
    if (this.#gone) fail(StateError, operation, "the webgpu backend was disposed of");
  }

  /**
   * Makes pending and later reads reject.
   *
   * @param error - Why.
   */
  end(error: Error): void {
    this.#gone ??= error;
    this.#endNow();
  }
}
