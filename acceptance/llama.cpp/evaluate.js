// Runs a GGUF file in stock llama.cpp: evaluate.js FILE '{"ids": [...], "count": 30}' prints greedy tokens and the
// probabilities of the next token after every id, as JSON. A process of its own, because llama.cpp aborts on files it
// does not understand.
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

const [file, request] = process.argv.slice(2);
const { ids, count } = JSON.parse(request);

const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: file });
// The cache in f32 and no flash attention: the same arithmetic as in Transformers.
const context = await model.createContext({
  contextSize: 512,
  threads: 1,
  flashAttention: false,
  experimentalKvCacheKeyType: "F32",
  experimentalKvCacheValueType: "F32",
});
const sequence = context.getSequence();

const greedy = [];
for await (const token of sequence.evaluate(ids, { temperature: 0 })) {
  greedy.push(token);
  if (greedy.length === count) break;
}
await sequence.clearHistory();
const options = { temperature: 1, topK: 0, topP: 1, minP: 0 };
const evaluated = await sequence.controlledEvaluate(
  ids.map((id) => [id, { generateNext: { probabilities: true, options } }]),
);
const probabilities = evaluated.map(({ next }) => [...next.probabilities]);
process.stdout.write(JSON.stringify({ greedy, probabilities, cacheBytes: context.stateSize }), () =>
  process.exit(0),
);
