import type { HostTensor } from "../host-tensor.ts";

/** A converted layer and what is known of it. */
export interface StoredLayer {
  /** Its tensors that differ from the source's, by their names below that of the layer. */
  readonly tensors: Readonly<Record<string, HostTensor>>;
  /** Facts that its configuration or a report needs. */
  readonly facts: Readonly<Record<string, number | readonly number[]>>;
}

/**
 * Where converted layers are kept until all are known, so that a run that was cut off goes on behind the last of them.
 * What it holds belongs to one model, recipe and calibration: its maker sees to that.
 */
export interface LayerStore {
  /** A layer that was written. */
  read(layer: number): Promise<StoredLayer | undefined>;
  /** Keeps a layer, whole or not at all. */
  write(layer: number, stored: StoredLayer): Promise<void>;
}

/** A store in memory. */
export function memoryLayerStore(): LayerStore {
  const layers = new Map<number, StoredLayer>();
  return {
    read: async (layer) => layers.get(layer),
    write: async (layer, stored) => void layers.set(layer, stored),
  };
}

/**
 * A layer from a store, or made and kept there.
 *
 * @param store - The store, if there is one.
 * @param layer - Which layer.
 * @param make - Converts it.
 */
export async function keptLayer(
  store: LayerStore | undefined,
  layer: number,
  make: () => Promise<StoredLayer>,
): Promise<StoredLayer> {
  const kept = await store?.read(layer);
  if (kept) return kept;
  const made = await make();
  await store?.write(layer, made);
  return made;
}
