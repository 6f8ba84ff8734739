import { cpuBackend } from "@transmla/backend-cpu";
import { webgpuBackend } from "@transmla/backend-webgpu";
import type { Backend } from "@transmla/core";

import type { WeightDType } from "../load-weights.ts";
import { loadModel } from "../load.ts";
import type { CacheDType } from "../model/cache-size.ts";
import { unknownFields } from "../model/config/known-fields.ts";
import type { Model } from "../model/model.ts";
import type { ActivationDType } from "../model/transformer.ts";
import type { Report } from "./report.ts";

/** What every command is given. */
export interface CommandContext {
  readonly report: Report;
  readonly backend: Backend;
  /** Aborted by Ctrl-C. */
  readonly signal: AbortSignal;
}

/** What the command line says of a backend. */
export interface BackendOptions {
  /** How many threads compute, where the processor does. */
  readonly threads?: number;
}

/** How the commands that run a model hold its weights, its activations and its cache. */
export interface StorageOptions {
  readonly weights: WeightDType;
  readonly activations: ActivationDType;
  readonly kvDtype: CacheDType;
}

/** The backends that `--backend` names. */
export const backends: Readonly<Record<string, (options: BackendOptions) => Promise<Backend>>> = {
  cpu: (options) => cpuBackend(options),
  webgpu: () => webgpuBackend({ powerPreference: "high-performance" }),
};

/** Loads a model with a progress bar, and warns of configuration fields that this library does not know. */
export async function openModel(
  path: string,
  { report, backend, signal }: CommandContext,
  { weights, activations }: Partial<StorageOptions> = {},
): Promise<Model> {
  const model = await loadModel(path, {
    backend,
    weights,
    activations,
    signal,
    onProgress: report.progress(`loading ${path}`),
    onDownload: report.progress(`downloading ${path}`),
  });
  for (const field of unknownFields(model.huggingFaceConfig)) {
    report.warn(
      `${path}/config.json: the field ${field} is not known; if it changes the logits, they are wrong`,
    );
  }
  return model;
}
