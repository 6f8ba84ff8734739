import {
  cacheWidth,
  compare,
  convert,
  cutWindows,
  generate,
  loadModel,
  type Comparison,
  type Model,
  type Progress,
} from "transmla";

import { chooseBackend } from "./backend.ts";
import { fetchBundledModel } from "./bundled.ts";
import { addText, drawn, element, showForm, showProgress } from "./view.ts";

/** Tokens that the models are compared on, and tokens to calibrate on, neither part of the other. */
const COMPARED = 128;
const CALIBRATION = 512;

/** The models in the order of the table: the original first. */
const models: { readonly name: string; readonly model: Model }[] = [];
let sampleIds: readonly number[] = [];

const progressOf =
  (step: string) =>
  ({ done, total }: Progress): void =>
    showProgress(step, done / total);

/** Compares a model with the original and adds it to the table. */
async function add(name: string, model: Model): Promise<void> {
  const original = models[0]?.model;
  models.push({ name, model });
  let comparison: Comparison | undefined;
  if (original) {
    showProgress(`Comparing ${name} with the original`, 0);
    await drawn();
    const windows = cutWindows(sampleIds.slice(0, COMPARED), COMPARED);
    [comparison] = await compare(original, [model], windows);
  }
  const { contextLength } = model.config;
  const cacheOf = ({ config }: Model): number =>
    cacheWidth(config.attention) * config.layers * contextLength * 4;
  showForm(
    {
      name,
      parameters: model.parameters,
      numbersPerToken: cacheWidth(model.config.attention),
      cacheBytes: cacheOf(model),
      ...(comparison && { comparison }),
    },
    cacheOf(original ?? model),
  );
  await drawn();
}

async function start(): Promise<void> {
  const { backend, description, isFallback } = await chooseBackend();
  element("backend", HTMLParagraphElement).textContent = description;
  element("backend", HTMLParagraphElement).classList.toggle("fallback", isFallback);
  const { folder, sample } = await fetchBundledModel((done, total) => {
    showProgress("Fetching the model", done / total);
  });
  const original = await loadModel(folder, { backend, onProgress: progressOf("Loading weights") });
  sampleIds = original.assets.tokenizer!.encode(sample.slice(0, 8000));
  element("context", HTMLSpanElement).textContent = String(original.config.contextLength);
  await add("original", original);
  showProgress("Converting", 0);
  await drawn();
  const merged = await convert(original, {
    method: "merged",
    onProgress: progressOf("Converting"),
  });
  await add("merged", merged);
  ready("Converted exactly: the differences are roundings of f32");
  await writeTexts();
}

/** Converts to half the cache, where `merged` keeps it. */
async function shrink(): Promise<void> {
  busy();
  showProgress("Calibrating", 0);
  await drawn();
  const original = models[0]!.model;
  const { kvHeads, headDim } = original.config.attention as { kvHeads: number; headDim: number };
  const calibration = cutWindows(sampleIds.slice(COMPARED, COMPARED + CALIBRATION), 128);
  const latent = await convert(original, {
    method: "latent",
    ropeDim: headDim / 2,
    latentRank: kvHeads * headDim - headDim / 2,
    calibration,
    onProgress: progressOf("Calibrating and converting"),
  });
  await add("latent", latent);
  ready("Converted to half the cache");
  element("shrink", HTMLButtonElement).disabled = true;
  await writeTexts();
}

/** The same prompt and seed through every model. */
async function writeTexts(): Promise<void> {
  busy();
  element("texts", HTMLDivElement).replaceChildren();
  element("verdict", HTMLParagraphElement).textContent = "";
  const prompt = element("prompt", HTMLInputElement).value;
  const maxTokens = element("tokens", HTMLInputElement).valueAsNumber;
  const seed = element("seed", HTMLInputElement).valueAsNumber;
  const cards = models.map(({ name }) => addText(name));
  const texts: string[] = [];
  for (const [i, { model }] of models.entries()) {
    const card = cards[i]!;
    card.append(prompt);
    let text = "";
    const options = { maxTokens, seed, temperature: 0.8, topP: 0.95 };
    for await (const piece of generate(model, prompt, {
      ...options,
      onFinish: ({ decodeTokensPerSecond, cacheBytes }) => {
        const rate = `${decodeTokensPerSecond.toFixed(1)} tokens/s`;
        card.note(`${rate}, cache ${(cacheBytes / 1024).toFixed(0)} KiB`);
      },
    })) {
      text += piece.text;
      card.append(piece.text);
      await drawn();
    }
    texts.push(text);
  }
  const same = texts[0] === texts[1];
  element("verdict", HTMLParagraphElement).textContent = same
    ? "The original and the merged model wrote the same text."
    : "The original and the merged model wrote different texts.";
  ready();
}

function busy(): void {
  for (const id of ["generate", "shrink"]) element(id, HTMLButtonElement).disabled = true;
}

function ready(step?: string): void {
  if (step !== undefined) showProgress(step, 1);
  element("generate", HTMLButtonElement).disabled = false;
  element("shrink", HTMLButtonElement).disabled = models.some(({ name }) => name === "latent");
}

/** Runs a step and shows its error in the page. */
function run(step: () => Promise<void>): void {
  step().catch((error: unknown) => {
    showProgress(`Failed: ${error instanceof Error ? error.message : String(error)}`, 0);
    ready();
  });
}

element("prompt-form", HTMLFormElement).addEventListener("submit", (event) => {
  event.preventDefault();
  run(writeTexts);
});
element("shrink", HTMLButtonElement).addEventListener("click", () => run(shrink));
run(start);
