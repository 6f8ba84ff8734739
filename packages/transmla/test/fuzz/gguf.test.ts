import { fc } from "@fast-check/vitest";

import { ggufContent } from "../gguf/small-model.ts";
import {
  field,
  ggufBytes,
  list,
  type Content,
  type Field,
  type WrittenTensor,
} from "../gguf/writer.ts";
import { damage } from "./bytes.ts";
import { fuzz, type Files } from "./harness.ts";
import { damageFile, ggufFiles } from "./originals.ts";
import { readGgufFile } from "./readers.ts";

const files: readonly Files[] = ggufFiles.map((bytes) => ({ "x.gguf": bytes }));

const int = (min: number, max: number): fc.Arbitrary<number> => fc.integer({ min, max });
const texts = fc.oneof(
  fc.constantFrom(
    "",
    "a",
    "llama",
    "gpt2",
    "none",
    "linear",
    "yarn",
    "{{ messages }}",
    "{% for %}",
  ),
  fc.string({ unit: "binary", maxLength: 20 }),
);
/** Values by the number of their type; 9 is the array. */
const scalars: readonly (readonly [type: number, values: fc.Arbitrary<unknown>])[] = [
  [0, int(0, 255)],
  [1, int(-128, 127)],
  [4, fc.oneof(fc.constantFrom(0, 1, 2, 3, 6, 16, 2 ** 31, 2 ** 32 - 1), int(0, 100))],
  [5, fc.oneof(int(-2, 100), int(-(2 ** 31), 2 ** 31 - 1))],
  [6, fc.oneof(fc.constantFrom(0, -1, NaN, Infinity, 1e-40, 3e38), fc.float())],
  [7, fc.boolean()],
  [8, texts],
  [10, fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })],
  [12, fc.double()],
];
const values: fc.Arbitrary<Field> = fc.oneof(
  ...scalars.map(([type, value]) => value.map((x) => field(type, x))),
  ...scalars.map(([type, value]) =>
    fc.array(value, { maxLength: 20 }).map((items) => list(type, items)),
  ),
  int(1, 6).map((depth) => {
    let nested = list(4, [1]);
    for (let i = 1; i < depth; i++) nested = list(9, [nested]);
    return nested;
  }),
);

const contents = (["llama", "qwen2"] as const).map((architecture) =>
  ggufContent({ architecture, biased: architecture === "qwen2", tied: false }),
);

/** Keys with other values, or gone. */
const metadataChanges = fc.array(
  fc.tuple(
    fc.nat(),
    fc.option(values),
    fc.option(fc.constantFrom("rope.scaling.type", "rope.scaling.factor")),
  ),
  { maxLength: 3 },
);
const sizes = fc.oneof(
  fc.constantFrom<number | bigint>(0, 1, 2, 16, 2 ** 31, 2n ** 32n, 2n ** 63n),
  int(0, 100),
);
const tensorChanges = fc.array(
  fc.tuple(
    fc.nat(),
    fc.record<Partial<WrittenTensor>>(
      {
        name: fc.oneof(
          fc.constantFrom("rope_freqs.weight", "output.weight", "blk.9.attn_q.weight"),
          texts,
        ),
        shape: fc.array(sizes, { maxLength: 5 }),
        type: int(0, 40),
        data: fc.uint8Array({ maxLength: 200 }),
        offset: fc.oneof(int(0, 10_000), fc.constantFrom(32, 64, 2 ** 40)),
      },
      { requiredKeys: [] },
    ),
  ),
  { maxLength: 2 },
);

/** A file of right form that says something else. */
const restated = fc
  .tuple(fc.constantFrom(...contents), metadataChanges, tensorChanges)
  .map(([content, keys, tensors]): Content => {
    const metadata = { ...content.metadata };
    for (const [which, value, added] of keys) {
      const names = Object.keys(metadata);
      const name = added
        ? `${names.some((key) => key.startsWith("qwen")) ? "qwen2" : "llama"}.${added}`
        : names[which % names.length]!;
      if (value) metadata[name] = value;
      else delete metadata[name];
    }
    const changed = [...content.tensors!];
    for (const [which, change] of tensors) {
      const at = which % changed.length;
      changed[at] = { ...changed[at]!, ...change };
    }
    return { metadata, tensors: changed };
  })
  // A tensor that is far away would make a large file.
  .filter(({ tensors = [] }) => tensors.every(({ offset = 0 }) => offset < 2 ** 20))
  .map((content): Files => ({ "x.gguf": ggufBytes(content) }));

fuzz("GGUF", damageFile(files, "x.gguf", damage), readGgufFile, 0.6);
fuzz("GGUF of right form", restated, readGgufFile, 0.4);
