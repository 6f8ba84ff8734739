import { loadModel } from "transmla";

import { faster } from "../goals.js";
import { checkProduct, random } from "../harness.js";
import { storedAs } from "../model-file.js";
import { countingIds, ownDecode, ownPrefill, PROMPT } from "./decode.js";

export const name = "threads";
export const title = "Two threads against one";

const ONE = "transmla, one thread";
const goals = (...ratios) => [faster("one thread", [ONE], ...ratios)];

/** Of the heads of the model: 9 on 3 key heads. */
const attentions = {
  "attention of 512 tokens": { tokens: 512, positions: 512 },
  "attention of 2048 tokens": { tokens: 2048, positions: 2048 },
  "attention of one token, 8192 positions": { tokens: 1, positions: 8192 },
};

// Without peers: their threads go on looking for work after their turn, and take the core from ours.
export async function* cases(bench) {
  const two = await bench.own({ threads: 2 });
  const one = await bench.own({ threads: 1 }, ONE);
  const shape = [1024, 1024, 1024];
  const [a, b] = [random(2 ** 20, 1), random(2 ** 20, 2)];
  yield {
    title: "f32 product, 1024 × 1024 × 1024",
    contenders: [two, one].map((library) => library.matmul(a, b, shape)),
    check: checkProduct(a, b, shape),
    rate: { unit: "GFLOP/s", perRun: 2e-9 * 1024 ** 3 },
    goals: goals(1.8, 1.95),
  };
  const numbers = random(8192 * 9 * 64, 3);
  for (const [title, sizes] of Object.entries(attentions)) {
    yield {
      title,
      contenders: [two, one].map((library) =>
        library.attention(numbers, { ...sizes, heads: 9, kvHeads: 3 }),
      ),
      rate: { unit: "tokens/s", perRun: sizes.tokens },
      goals: goals(),
    };
  }
  let file;
  try {
    file = await storedAs(bench.model, "BF16");
  } catch (error) {
    bench.remarks.add(`without a model of 135M parameters: ${error.message}`);
    return;
  }
  const models = [];
  for (const { backend } of [two, one]) models.push(await loadModel(file, { backend }));
  const ids = countingIds(models[0]);
  const whos = ["transmla", ONE];
  yield {
    title: `prefill of ${ids.length} tokens, 135M parameters, BF16`,
    contenders: models.map((model, i) => ownPrefill(model, ids, whos[i])),
    rate: { unit: "tokens/s", perRun: ids.length },
    goals: goals(),
  };
  yield {
    title: "decode, 135M parameters, BF16",
    contenders: models.map((model, i) => ownDecode(model, ids.slice(0, PROMPT), whos[i])),
    rate: { unit: "tokens/s", perRun: 1 },
    goals: goals(),
  };
  for (const model of models) model[Symbol.dispose]();
}
