// llama.cpp through node-llama-cpp: the prebuilt CPU binary, its cache in f16 and its other defaults.
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

export const name = "llama.cpp";
export const isNative = true;

export async function load({ threads }) {
  const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error });
  const open = async (file, contextSize) => {
    const model = await llama.loadModel({ modelPath: file });
    const context = await model.createContext({ contextSize, threads, batchSize: 512 });
    const sequence = context.getSequence();
    const dispose = async () => {
      await context.dispose();
      await model.dispose();
    };
    return { sequence, dispose };
  };
  return {
    async decode(file, prompt, count) {
      const { sequence, dispose } = await open(file, prompt.length + count);
      const generate = async () => {
        await sequence.clearHistory();
        const ids = [];
        let first = 0;
        for await (const id of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
          if (ids.length === 0) first = performance.now();
          ids.push(id);
          if (ids.length === count) break;
        }
        return { ids, ms: (performance.now() - first) / (ids.length - 1) };
      };
      return {
        who: name,
        time: async () => (await generate()).ms,
        result: async () => (await generate()).ids,
        dispose,
      };
    },
    async prefill(file, ids) {
      const { sequence, dispose } = await open(file, ids.length);
      const run = async () => {
        await sequence.clearHistory();
        const start = performance.now();
        await sequence.evaluateWithoutGeneratingNewTokens(ids);
        return performance.now() - start;
      };
      return { who: name, time: run, dispose };
    },
    dispose: () => llama.dispose(),
  };
}
