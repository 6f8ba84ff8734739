import { affine, scope, tensor, type Backend, type Tensor } from "@transmla/core";

import { latentAttention } from "../../../model/attention.ts";
import { bindAttention, layerPrefix } from "../../../model/bind-weights.ts";
import type { ModelConfig } from "../../../model/config/model-config.ts";
import { NamedTensors } from "../../../model/named-tensors.ts";
import { projectedAttention } from "../../../model/projected-attention.ts";
import type { HostTensor } from "../../host-tensor.ts";
import type { StoredLayer } from "../layer-store.ts";
import { rotationTables } from "../source-layer.ts";
import type { SourceLayers } from "../source-layers.ts";
import { wholeWindow } from "../whole-window.ts";

/** The attention of a converted layer on a backend. */
export interface StoredAttention extends Disposable {
  /** Its outputs `[T, D]` for the normalised inputs of a window; the surrounding scope owns them. */
  outputs(x: Tensor): Tensor;
}

/** What a converted layer belongs to. */
export interface ConvertedModel {
  /** The configuration of the result, as far as it is known. */
  readonly config: ModelConfig;
  /** The factor of its residual stream. */
  readonly residual: number;
  /** The source, for what conversion leaves as it is. */
  readonly layers: SourceLayers;
}

/**
 * Uploads the attention of a converted layer as it is stored, to be run as the result will run it.
 *
 * @param backend - Where to.
 * @param model - What it belongs to.
 * @param layer - Which layer.
 * @param stored - The layer.
 * @param positions - The length of the longest window.
 */
export async function uploadStored(
  backend: Backend,
  { config, residual, layers }: ConvertedModel,
  layer: number,
  { tensors }: StoredLayer,
  positions: number,
): Promise<StoredAttention> {
  const prefix = layerPrefix(layer);
  const names: string[] = [];
  const stored = (name: string): HostTensor | undefined => tensors[name.slice(prefix.length)];
  bindAttention<void>(
    {
      has: (name) => stored(name) !== undefined || layers.has(name),
      take: (name) => void names.push(name),
      takeStacked: (all) => void names.push(...all),
    },
    config,
    layer,
  );
  const made: Tensor[] = [];
  const dispose = (): void => {
    for (const held of made) held.dispose();
  };
  try {
    const weights = new Map<string, Tensor>();
    for (const name of names) {
      const { shape, data } = stored(name) ?? (await layers.read(name));
      made.push(tensor(backend, data, shape));
      weights.set(name, made.at(-1)!);
    }
    const w = bindAttention(new NamedTensors(weights), config, layer);
    const rope = config.ropes[layer]!;
    const rotation = scope(() => rotationTables(backend, rope.frequencies, positions));
    made.push(rotation.cos, rotation.sin);
    return {
      outputs: (x) => {
        const how = { rotation, interleaved: rope.interleaved, norms: config, layer };
        const context = wholeWindow(x.shape[0]!, how);
        const c = config.attention;
        if (w.kind === "projected" && c.kind === "projected")
          return projectedAttention(x, w, c, context);
        if (w.kind === "latent" && c.kind === "latent")
          return affine(latentAttention(x, w, c, context), 1 / residual);
        throw new TypeError(`convert: no attention of kind ${w.kind} is run here`);
      },
      [Symbol.dispose]: dispose,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}
