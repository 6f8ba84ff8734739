import type { Progress } from "../load.ts";
import type { Environment } from "./settings.ts";

/** Choices of `downloadModel`. */
export interface DownloadOptions {
  /** Called as bytes come, with the bytes of all files. What was damaged and is fetched again is subtracted first. */
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Stops the download; what has come is kept for the next one. */
  readonly signal?: AbortSignal | undefined;
  /** `false` leaves the weights out: configuration and tokenizer only. `true` when absent. */
  readonly weights?: boolean | undefined;
  /** Where variables such as `HF_TOKEN` and `HF_HUB_CACHE` are looked up; `process.env` when absent. */
  readonly environment?: Environment | undefined;
  /** How long the hub may send nothing, in milliseconds, before the request is repeated; 30,000 when absent. */
  readonly stallTimeout?: number | undefined;
  /** How often a failed request is repeated; 5 when absent. */
  readonly retries?: number | undefined;
  /** The pause before the first repetition, in milliseconds; each further one is twice as long. 500 when absent. */
  readonly retryDelay?: number | undefined;
  /** Files above this many bytes are fetched in ranges of this size, several at once; 64 MiB when absent. */
  readonly rangeBytes?: number | undefined;
}
