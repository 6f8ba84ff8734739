import { webgpuBackend } from "@transmla/backend-webgpu";
import { convert, generate, loadModel } from "transmla";
/** Generates with the original and the merged model, and counts. */
export async function decode(from, tokens) {
  const backend = await webgpuBackend({ powerPreference: "high-performance" });
  using original = await loadModel(from, { backend });
  using merged = await convert(original, { method: "merged" });
  const results = [];
  for (const [form, model] of [
    ["original", original],
    ["merged", merged],
  ]) {
    for await (const _ of generate(model, "ROMEO:", { maxTokens: 4 })); // compiles
    const live = backend.memory().bytes;
    let counts = backend.counts();
    let [seen, early, rate] = [0, 0, 0];
    const options = { maxTokens: tokens, temperature: 0.8, topK: 50, seed: 1 };
    const device = () => backend.counts().liveBytes + backend.counts().pooledBytes;
    for await (const _ of generate(model, "ROMEO:", {
      ...options,
      onFinish: ({ decodeTokensPerSecond }) => (rate = decodeTokensPerSecond),
    })) {
      seen++;
      if (seen === 1) counts = backend.counts(); // the prompt is over
      if (seen === Math.ceil(tokens / 5)) early = device();
    }
    const after = backend.counts();
    const each = (key) => (after[key] - counts[key]) / (seen - 1);
    results.push({
      form,
      tokensPerSecond: rate,
      submitsPerToken: each("submits"),
      dispatchesPerToken: each("dispatches"),
      bytesReadPerToken: each("bytesRead"),
      bytesWrittenPerToken: each("bytesWritten"),
      memory: [live, backend.memory().bytes, early, device()],
    });
  }
  backend.dispose();
  return results;
}
