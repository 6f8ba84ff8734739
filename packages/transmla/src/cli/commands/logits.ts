import { ArgumentError, fail } from "@transmla/core";

import { writeTensorFile } from "../../checkpoint/disk.ts";
import { openModel, type CommandContext, type StorageOptions } from "../context.ts";
import { readTokenRows } from "../inputs.ts";

/** Writes the logits `[T, vocab]` of given token ids, to compare with other runtimes. */
export async function logits(
  path: string,
  options: StorageOptions & { readonly tokens: string; readonly out: string },
  context: CommandContext,
): Promise<void> {
  const { report } = context;
  const rows = await readTokenRows(options.tokens);
  if (rows.length !== 1)
    fail(
      ArgumentError,
      "logits",
      `one row of token ids is needed, found ${rows.length}`,
      options.tokens,
    );
  const ids = rows[0]!;
  using model = await openModel(path, context, options);
  if (ids.length > model.config.contextLength) {
    fail(
      ArgumentError,
      "logits",
      `${ids.length} token ids exceed the context of ${model.config.contextLength}`,
      options.tokens,
    );
  }
  using cache = model.createCache(ids.length, options.kvDtype);
  using all = model.forward(ids, cache, { logits: "all" });
  const shape = [ids.length, model.config.vocabSize];
  await writeTensorFile(
    options.out,
    new Map([["logits", { dtype: "F32", shape, values: await all.read() }]]),
  );
  report.line(`${options.out}: logits f32[${shape.join(",")}]`);
  report.result({ model: path, out: options.out, shape });
}
