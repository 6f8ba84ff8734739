import { Command, InvalidArgumentError, Option } from "commander";

import { targets } from "../convert/targets.ts";
import { weightDTypes, type WeightDType } from "../load-weights.ts";
import { cacheDTypes } from "../model/cache-size.ts";
import { activationDTypes } from "../model/transformer.ts";
import { chat } from "./commands/chat.ts";
import { compareCommand, type CompareOptions } from "./commands/compare.ts";
import { convertCommand, storedDtypes, type ConvertCommandOptions } from "./commands/convert.ts";
import { demo } from "./commands/demo.ts";
import { evaluateCommand } from "./commands/evaluate.ts";
import { generateCommand } from "./commands/generate.ts";
import { info, type InfoOptions } from "./commands/info.ts";
import { logits } from "./commands/logits.ts";
import { verify, type VerifyOptions } from "./commands/verify.ts";
import { backends, type CommandContext } from "./context.ts";
import { Report } from "./report.ts";

/** What a command's action needs besides its own arguments. */
interface Run {
  /** Runs a command with the options that all commands share; its number, if any, is the exit code. */
  (command: Command, action: (context: CommandContext) => Promise<number | void>): Promise<void>;
}

const positiveInteger = (text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new InvalidArgumentError("It must be a positive integer.");
  return value;
};
const number = (text: string): number => {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value))
    throw new InvalidArgumentError("It must be a number.");
  return value;
};
const collect = (text: string, before: readonly string[] = []): readonly string[] => [
  ...before,
  text,
];

/** The options of every command. */
function command(program: Command, usage: string, description: string): Command {
  return program
    .command(usage)
    .description(description)
    .addOption(
      new Option("--backend <name>", "where tensors live; webgpu needs npm install webgpu@0.6.2")
        .choices(Object.keys(backends))
        .default("cpu"),
    )
    .option(
      "--threads <count>",
      "threads of the cpu backend (default: the machine's, at most 8)",
      positiveInteger,
    )
    .option("--json", "print one JSON object on stdout and nothing else there")
    .option("--quiet", "no progress and no remarks");
}

function withText(of: Command): Command {
  return of
    .option(
      "--text <file>",
      "a text, or a .json file of token ids; text sampled from the model when absent",
    )
    .option(
      "--window <tokens>",
      "tokens in a window (default: the context, at most 512)",
      positiveInteger,
    )
    .option("--max-windows <count>", "the most windows", positiveInteger);
}

/** Options of storage: exact where numbers are measured, compact where text is made. */
function withStorage(of: Command, weights: WeightDType, whose = ""): Command {
  return of
    .addOption(
      new Option(
        "--weights <dtype>",
        `the widest form of the matrices${whose}; what is stored narrower stays as it is`,
      )
        .choices(weightDTypes)
        .default(weights),
    )
    .addOption(
      new Option("--activations <dtype>", `of the numbers that layers pass on${whose}`)
        .choices(activationDTypes)
        .default("f32"),
    )
    .addOption(
      new Option("--kv-dtype <dtype>", `of the cached numbers${whose}`)
        .choices(cacheDTypes)
        .default("f32"),
    );
}

function withSampling(of: Command): Command {
  return of
    .option("--max-tokens <count>", "the most tokens to generate", positiveInteger)
    .option("--temperature <number>", "0 is greedy", number)
    .option("--top-k <count>", "only the k most likely tokens", positiveInteger)
    .option("--top-p <number>", "only the most likely tokens that hold this share", number)
    .option("--min-p <number>", "only tokens at least this likely relative to the best", number)
    .option(
      "--repetition-penalty <number>",
      "above 1: tokens that occurred become less likely",
      number,
    )
    .option("--seed <integer>", "of the sampling", number)
    .option("--stop <text>", "ends the text; may be repeated", collect);
}

/**
 * The command line.
 *
 * @param version - Of the package.
 * @param signal - Aborted by Ctrl-C.
 * @param onExitCode - Receives the exit code of a command that ran to its end.
 */
export function createProgram(
  version: string,
  signal: AbortSignal,
  onExitCode: (code: number) => void,
): Command {
  const program = new Command("transmla")
    .description(
      "Convert GQA language models to multi-head latent attention, verify the result, and run both.",
    )
    .version(version)
    .addHelpText(
      "after",
      "\nA model is a Hugging Face folder, a .gguf file, or hf:organisation/name[@revision] on the hub.",
    )
    .showSuggestionAfterError()
    .exitOverride();
  const run: Run = async (of, action) => {
    const {
      backend: name,
      json,
      quiet,
      threads,
    } = of.opts<{ backend: string; json?: boolean; quiet?: boolean; threads?: number }>();
    const report = new Report({ json: json ?? false, quiet: quiet ?? false });
    const backend = await backends[name]!({ ...(threads !== undefined && { threads }) });
    try {
      onExitCode((await action({ report, backend, signal })) ?? 0);
    } finally {
      backend.dispose();
    }
  };
  addModelCommands(program, run);
  addComparison(program, run);
  addTextCommands(program, run);
  return program;
}

function addModelCommands(program: Command, run: Run): void {
  command(
    program,
    "demo",
    "convert the bundled model exactly, compare it with the original, and generate from both",
  ).action((_options: object, self: Command) => run(self, (context) => demo(context)));
  command(
    program,
    "info <model>",
    "what a model is, and its cache in each form; a config.json is enough",
  )
    .option(
      "--context <tokens>",
      "the context to state the cache for (default: the model's)",
      positiveInteger,
    )
    .addOption(
      new Option("--kv-dtype <dtype>", "of the cached numbers").choices(cacheDTypes).default("f16"),
    )
    .action((model: string, options: InfoOptions, self: Command) => {
      return run(self, (context) => info(model, options, context));
    });
  command(program, "convert <model> <out>", "convert a model to a new folder or GGUF file")
    .addOption(
      new Option(
        "--method <name>",
        "factored: TransMLA v1; merged: a vanilla DeepSeek-V3 folder for Transformers; latent: the same with a smaller cache",
      ).choices(["factored", "merged", "latent"]),
    )
    .addOption(
      new Option(
        "--format <name>",
        "of the result: a folder of safetensors, or one gguf file for llama.cpp, without --method from a DeepSeek model",
      )
        .choices(["safetensors", "gguf"])
        .default("safetensors"),
    )
    .addOption(
      new Option("--init <name>", "the factors of --method factored (default: svd)").choices([
        "svd",
        "identity",
      ]),
    )
    .addOption(
      new Option("--dtype <dtype>", "of the stored weights; f16 and q8_0 in gguf only")
        .choices(storedDtypes)
        .default("f32"),
    )
    .addOption(
      new Option(
        "--target <runtime>",
        "who runs the result (default: transformers); vllm sets the sizes of --method latent, own is this library",
      ).choices(targets),
    )
    .addOption(
      new Option(
        "--recipe <name>",
        "of --method latent: transmla is the published algorithm",
      ).choices(["default", "transmla"]),
    )
    .option(
      "--fold <count>",
      "of --recipe transmla: frequencies that are taken for one",
      positiveInteger,
    )
    .option(
      "--cache <numbers>",
      "of --method latent: per token and layer; sizes are chosen",
      positiveInteger,
    )
    .option("--rope-dim <width>", "of --method latent: the rotated key", positiveInteger)
    .option("--latent-rank <width>", "of --method latent: the latent", positiveInteger)
    .option(
      "--components <count>",
      "of --method latent: of each frequency in the rotated key; more than 1 is for Transformers only",
      positiveInteger,
    )
    .option(
      "--query-rank <width>",
      "of --method latent: compresses the query projection too",
      positiveInteger,
    )
    .option(
      "--refine",
      "of --method latent: fits each layer to what the converted ones before it give, down_proj too; for small caches",
    )
    .option(
      "--calibration <file>",
      "of --method latent: a text, or a .json file of windows; sampled from the model when absent",
    )
    .option(
      "--window <tokens>",
      "of the calibration (default: the context, at most 1024)",
      positiveInteger,
    )
    .option("--max-windows <count>", "the most windows", positiveInteger)
    .option("--svg <file>", "of --method latent: a picture of layer errors and eigenvalues")
    .action((model: string, out: string, options: ConvertCommandOptions, self: Command) => {
      return run(self, (context) => convertCommand(model, out, options, context));
    });
  const comparing = command(
    program,
    "verify <a> <b>",
    "compare the logits of two models on the same tokens",
  );
  withStorage(withText(comparing), "f32", " of b")
    .option("--tolerance <number>", "the largest difference of a logit that passes", number, 1e-4)
    .action((a: string, b: string, options: VerifyOptions, self: Command) => {
      return run(self, (context) => verify(a, b, options, context));
    });
}

function addComparison(program: Command, run: Run): void {
  const comparing = command(
    program,
    "compare <reference> <models...>",
    "perplexity, KL and cache of models beside those of a reference",
  );
  withStorage(withText(comparing), "f32", " of the models beside the reference")
    .option("--svg <file>", "a picture of quality against cache size")
    .action(
      (reference: string, models: readonly string[], options: CompareOptions, self: Command) => {
        return run(self, (context) => compareCommand(reference, models, options, context));
      },
    );
}

function addTextCommands(program: Command, run: Run): void {
  const evaluating = command(program, "evaluate <model>", "the perplexity of a model on a text");
  withStorage(withText(evaluating), "f32").action(
    (model: string, options: Parameters<typeof evaluateCommand>[1], self: Command) => {
      return run(self, (context) => evaluateCommand(model, options, context));
    },
  );
  withStorage(withSampling(command(program, "generate <model>", "continue a prompt")), "bf16")
    .requiredOption("--prompt <text>", "what to continue")
    .action((model: string, options: Parameters<typeof generateCommand>[1], self: Command) => {
      return run(self, (context) => generateCommand(model, options, context));
    });
  const talking = command(program, "chat <model>", "talk with a model through its chat template");
  withStorage(withSampling(talking), "bf16")
    .option("--system <text>", "the system message")
    .action((model: string, options: Parameters<typeof chat>[1], self: Command) => {
      return run(self, (context) => chat(model, options, context));
    });
  const writing = command(program, "logits <model>", "write the logits of given token ids");
  withStorage(writing, "f32")
    .requiredOption("--tokens <file>", 'JSON: a list of token ids, or {"input_ids": [...]}')
    .requiredOption("--out <file>", "a .safetensors file with the tensor logits [T, vocab], f32")
    .action((model: string, options: Parameters<typeof logits>[1], self: Command) => {
      return run(self, (context) => logits(model, options, context));
    });
}
