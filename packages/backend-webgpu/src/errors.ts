import { BackendError } from "@transmla/core";

/** The device is gone: the driver failed, the page was in the background, or someone destroyed it. Make a new backend. */
export class DeviceLostError extends BackendError {
  /** Why, as WebGPU says it: `unknown` or `destroyed`. */
  readonly reason: string;

  /**
   * @param reason - As WebGPU says it.
   * @param detail - The driver's words.
   */
  constructor(reason: string, detail: string) {
    super(
      `webgpu: the device was lost (${reason}${detail === "" ? "" : `: ${detail}`}); make a new backend and load again`,
    );
    this.reason = reason;
  }
}
