import { assetFiles } from "../assets.ts";
import type { Folder } from "../checkpoint/folder.ts";
import type { GgufWritableType } from "../checkpoint/gguf/types.ts";
import { createGguf } from "../checkpoint/gguf/write.ts";
import type { OutputFolder } from "../checkpoint/output.ts";
import { collect, elementCount } from "../checkpoint/tensors.ts";
import { createCheckpoint } from "../checkpoint/write.ts";
import { ggufLayout, type GgufPart } from "../gguf/deepseek2.ts";
import { tokenizerMetadata } from "../gguf/tokenizer-metadata.ts";
import type { HuggingFaceConfig } from "../model/config/model-config.ts";
import type { Conversion, ConvertedTensor } from "./conversion.ts";
import { formatConfig } from "./format-config.ts";
import type { OutputDType } from "./merged.ts";
import { onePiece, scaledPieces } from "./pieces.ts";

/** Writes the result of a conversion in some format. */
export interface ModelWriter {
  /**
   * Writes a tensor of the plan.
   *
   * @param tensor - Its values are taken.
   * @returns What rounding costs: ‖rounded - exact‖ / ‖exact‖.
   */
  write(tensor: ConvertedTensor): Promise<number>;
  /** Writes what comes after the tensors. The output is not committed. */
  close(): Promise<void>;
}

/**
 * A Hugging Face folder.
 *
 * @param from - The source, whose tokenizer, chat template and generation defaults are carried over.
 * @param output - Where the files go.
 * @param conversion - What will be written.
 * @param dtype - Of all tensors.
 */
export async function folderWriter(
  from: Folder,
  output: OutputFolder,
  conversion: Conversion,
  dtype: OutputDType,
): Promise<ModelWriter> {
  const [stored, name] =
    dtype === "f32" ? (["F32", "float32"] as const) : (["BF16", "bfloat16"] as const);
  const writer = await createCheckpoint(
    output,
    conversion.plan.map((entry) => ({ ...entry, dtype: stored })),
  );
  return {
    write: async ({ name, pieces }) => writer.writePieces(name, pieces),
    close: async () => {
      await writer.close();
      const config: HuggingFaceConfig = { ...conversion.config, torch_dtype: name, dtype: name };
      await output.writeText("config.json", formatConfig(config));
      for (const [file, bytes] of await assetFiles(from)) {
        const sink = await output.create(file);
        await sink.write(0, bytes);
        await sink.close();
      }
    },
  };
}

/**
 * A GGUF file, `model.gguf`, that stock llama.cpp loads.
 *
 * @param from - The source, whose tokenizer and chat template are carried over.
 * @param output - Where the file goes.
 * @param conversion - What will be written.
 * @param type - Of matrices.
 * @throws UnsupportedError when llama.cpp cannot hold the model or its tokenizer.
 */
export async function ggufWriter(
  from: Folder,
  output: OutputFolder,
  { config, plan }: Conversion,
  type: GgufWritableType,
): Promise<ModelWriter> {
  const layout = ggufLayout(
    config,
    plan.map(({ name }) => name),
    type,
  );
  const parts = new Map(plan.map(({ name, shape }) => [name, layout.parts(name, shape)]));
  const tokenizer = await tokenizerMetadata(from, config, config["vocab_size"] as number);
  const writer = await createGguf(
    await output.create("model.gguf"),
    new Map([...layout.metadata, ...tokenizer]),
    [...parts.values()].flat().map(({ planned }) => planned),
  );
  const writePart = async (
    { planned, scale }: GgufPart,
    pieces: AsyncIterable<Float64Array>,
  ): Promise<number> => writer.write(planned.name, scaledPieces(pieces, scale));
  return {
    write: async ({ name, shape, pieces }) => {
      const own = parts.get(name)!;
      if (own.every(({ arrange }) => arrange === undefined)) {
        const [part] = own; // without a place in the file there is none
        return part ? writePart(part, pieces) : 0;
      }
      const whole = await collect(pieces, new Float64Array(elementCount(shape)));
      let worst = 0;
      for (const part of own) {
        const values = part.arrange ? part.arrange(whole) : whole;
        worst = Math.max(worst, await writePart(part, onePiece(values)));
      }
      return worst;
    },
    close: async () => writer.close(),
  };
}
