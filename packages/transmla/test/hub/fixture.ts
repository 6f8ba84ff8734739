import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach } from "vitest";

import { downloadModel } from "../../src/hub/download.ts";
import { HubError } from "../../src/hub/errors.ts";
import type { DownloadOptions } from "../../src/hub/options.ts";
import { noise, startHub, type TestHub } from "./server.ts";

export const weights: Buffer = noise(10_000);
export const files = {
  "README.md": Buffer.from("not needed"),
  "config.json": Buffer.from('{"model_type": "llama"}'),
  "tokenizer.json": noise(3000, 2),
  "pytorch_model.bin": noise(100, 3),
  "model.safetensors": weights,
};

/** The files that a download brings, in order. */
export const wanted = ["config.json", "model.safetensors", "tokenizer.json"] as const;

/** A hub and an empty cache, made before each test. */
export class Fixture {
  root = "";
  environment: Record<string, string> = {};
  #hub: TestHub | undefined;

  constructor() {
    beforeEach(async () => {
      this.root = await mkdtemp(join(tmpdir(), "hub-"));
      await this.serve(files);
    });
    afterEach(async () => {
      await this.hub.close();
      await rm(this.root, { recursive: true });
    });
  }

  get hub(): TestHub {
    return this.#hub!;
  }

  /** Replaces the hub by one with other files. */
  async serve(content: Readonly<Record<string, Buffer>>): Promise<void> {
    await this.#hub?.close();
    this.#hub = await startHub(content);
    this.environment = { HF_HOME: this.root, HF_ENDPOINT: this.hub.url };
  }

  /** A path in the repository's folder of the cache. */
  at(...names: string[]): string {
    return join(this.root, "hub", "models--org--name", ...names);
  }

  async download(options: DownloadOptions = {}, spec = "hf:org/name"): Promise<string> {
    return downloadModel(spec, {
      environment: this.environment,
      retryDelay: 1,
      retries: 2,
      stallTimeout: 5000,
      rangeBytes: 3000,
      ...options,
    });
  }

  /** What is left of files that are not complete. */
  async incomplete(): Promise<string[]> {
    const names = await readdir(this.at("blobs"));
    return names.filter((name) => name.includes("incomplete"));
  }

  /** The ranges of the weights that were asked for, in order. */
  ranges(): string[] {
    return this.hub
      .requests("model.safetensors")
      .map(({ range = "" }) => range)
      .toSorted((a, b) => (a < b ? -1 : 1));
  }
}

export const refusal = (problem: string, file?: string): HubError =>
  new HubError(
    `downloadModel: ${problem} (org/name@main${file === undefined ? "" : ` · ${file}`})`,
  );
