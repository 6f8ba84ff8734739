import { generate, loadModel } from "transmla";

import { faster } from "../goals.js";
import { storedAs } from "../model-file.js";

export const name = "decode";
export const title = "A model of 135M parameters, one thread, end to end, weights stored alike";

export const PROMPT = 128;
const COUNT = 48;
const PREFILL = 512;

/** Tokens of a text whose continuation is certain. */
export function countingIds(model) {
  const text = Array.from({ length: PREFILL }, (_, i) => i + 1).join(", ");
  return model.assets.tokenizer.encode(text).slice(0, PREFILL);
}

/** Greedy texts may part where two tokens are nearly as likely: the roundings differ. */
const SAME = 8;

const goals = { BF16: [0.75, 0.9], Q8_0: [0.5, 0.7] };

export async function* cases(bench) {
  const { backend } = await bench.own();
  const peers = await bench.peers(["llama"]);
  for (const dtype of ["BF16", "Q8_0"]) {
    const file = await storedAs(bench.model, dtype);
    const model = await loadModel(file, { backend });
    const ids = countingIds(model);
    const prompt = ids.slice(0, PROMPT);
    yield {
      title: `decode, ${dtype}`,
      contenders: [
        ownDecode(model, prompt),
        ...(await each(peers, (p) => p.decode(file, prompt, COUNT))),
      ],
      check: agreeWith((await greedy(model, prompt)).ids),
      rate: { unit: "tokens/s", perRun: 1 },
      goals: [faster("llama.cpp", ["llama.cpp"], ...goals[dtype])],
    };
    yield {
      title: `prefill of ${PREFILL} tokens, ${dtype}`,
      contenders: [ownPrefill(model, ids), ...(await each(peers, (p) => p.prefill(file, ids)))],
      rate: { unit: "tokens/s", perRun: PREFILL },
      goals: [faster("llama.cpp", ["llama.cpp"], ...(dtype === "BF16" ? [0.3, 0.5] : []))],
    };
    model[Symbol.dispose]();
  }
}

const each = (peers, make) => Promise.all(peers.map(make));

async function greedy(model, prompt) {
  const ids = [];
  let ms = 0;
  const onFinish = ({ decodeTokensPerSecond }) => (ms = 1000 / decodeTokensPerSecond);
  const options = { maxTokens: COUNT, temperature: 0, ignoreEnd: true, onFinish };
  for await (const { id } of generate(model, prompt, options)) ids.push(id);
  return { ids, ms };
}

/** The continuation of a prompt by a model, token by token. */
export function ownDecode(model, prompt, who = "transmla") {
  return {
    who,
    time: async () => (await greedy(model, prompt)).ms,
    result: async () => (await greedy(model, prompt)).ids,
  };
}

/** The logits of the last of some tokens by a model. */
export function ownPrefill(model, ids, who = "transmla") {
  return {
    who,
    time: async () => {
      const start = performance.now();
      const cache = model.createCache(ids.length);
      const logits = model.forward(ids, cache);
      await logits.read();
      logits.dispose();
      cache[Symbol.dispose]();
      return performance.now() - start;
    },
  };
}

function agreeWith(expected) {
  return (ids) => {
    if (ids.slice(0, SAME).some((id, i) => id !== expected[i])) {
      throw new Error(`its text starts ${ids.slice(0, SAME)}, not ${expected.slice(0, SAME)}`);
    }
  };
}
