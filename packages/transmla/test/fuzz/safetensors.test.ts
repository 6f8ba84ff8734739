import { fc } from "@fast-check/vitest";

import { rawFile } from "../checkpoint/files.ts";
import { damage } from "./bytes.ts";
import { fuzz, type Files } from "./harness.ts";
import { jsonDamage } from "./json.ts";
import { asBytes, bundledWeights, damageFile, decode, models } from "./originals.ts";
import { readTensors } from "./readers.ts";

const single = "model.safetensors";
const index = "model.safetensors.index.json";

/** A file cut into its header and its data. */
function parts(file: Uint8Array): { header: string; data: Uint8Array } {
  const { buffer, byteOffset, length } = file;
  const end = 8 + Number(new DataView(buffer, byteOffset, length).getBigUint64(0, true));
  return { header: decode(file.subarray(8, end)), data: file.subarray(end) };
}

/** A change of the header; its length is right again. */
const headerDamage = jsonDamage.map((change) => (file: Uint8Array, other: Uint8Array) => {
  const { header, data } = parts(file);
  const changed = rawFile(change(header, parts(other).header), data.length);
  changed.set(data, changed.length - data.length);
  return changed;
});

const large: readonly Files[] = [{ [single]: bundledWeights }];
const anyDamage = fc.oneof(damage, headerDamage);

fuzz("safetensors", damageFile(models, single, anyDamage), readTensors, 0.95);
fuzz("safetensors, a large file", damageFile(large, single, anyDamage), readTensors, 0.05);

const sharded = models.filter((files) => Object.hasOwn(files, index));
if (sharded.length > 0) {
  fuzz(
    "safetensors index",
    damageFile(sharded, index, fc.oneof(damage, asBytes(jsonDamage))),
    readTensors,
  );
  const shard = "model-00002-of-00003.safetensors";
  fuzz("safetensors shard", damageFile(sharded, shard, anyDamage), readTensors);
}
