// Measures what a smaller cache costs, prints the tables and writes docs/quality.md.
//
//   npm run quality                    the bundled model
//   npm run quality -- --help          any model, with windows of token ids or texts
//
// Measurements are kept in docs/quality/<name>.json: a run that was stopped goes on where it was.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";

import { cpuBackend } from "@transmla/backend-cpu";
import { bundledModel, cacheWidth, evaluate, loadModel, type Model } from "transmla";

import { Measuring } from "./quality/measure.ts";
import {
  ablationTable,
  aligned,
  qualityPicture,
  qualityTable,
  section,
  type Table,
} from "./quality/page.ts";
import { readResults, writeResults, writeWhole, type Setting } from "./quality/results.ts";
import { bundledTexts, describe, readWindows, type Texts } from "./quality/texts.ts";

const root = join(import.meta.dirname, "..");
const folder = join(root, "docs/quality");

const help = `usage: npm run quality -- [options]
  --model PATH          a model (default: the bundled one, with its own texts)
  --name NAME           what to call it
  --calibration FILE    windows: a text, or {"windows": [[ids], ...]}; so are the next two
  --selection FILE      to choose settings by
  --test FILE           to report
  --caches N,N,...      numbers per token and layer (default: 192,128,96,64)
  --recipes A,B         of transmla, default, refined, transformers, own, own-refined (default: transmla,default,transformers)
  --rope-dims N,N,...   the only widths of the rotated key that are tried
  --folds N,N,...       the only folds of the published recipe that are tried
  --ablation N          measure the default recipe without each ingredient at this cache
  --page                measure nothing, only write the page
`;

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: bundledModel },
    name: { type: "string" },
    calibration: { type: "string" },
    selection: { type: "string" },
    test: { type: "string" },
    caches: { type: "string", default: "192,128,96,64" },
    recipes: { type: "string", default: "transmla,default,transformers" },
    "rope-dims": { type: "string" },
    folds: { type: "string" },
    ablation: { type: "string" },
    page: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

const list = (text: string | undefined): number[] | undefined => text?.split(",").map(Number);

function readTexts({ assets }: Model): Texts {
  const tokenizer = assets.tokenizer!;
  const { calibration, selection, test } = options;
  if (options.model === bundledModel) return bundledTexts(tokenizer);
  if (calibration === undefined || selection === undefined || test === undefined) {
    throw new Error("quality: --model needs --calibration, --selection and --test");
  }
  return {
    calibration: readWindows(calibration, tokenizer),
    selection: readWindows(selection, tokenizer),
    test: readWindows(test, tokenizer),
  };
}

async function measure(name: string, path: string): Promise<void> {
  const backend = await cpuBackend();
  using model = await loadModel(options.model, { backend });
  const texts = readTexts(model);
  if (!readResults(path)) {
    writeResults(path, {
      model: name,
      cache: cacheWidth(model.config.attention),
      layers: model.config.layers,
      perplexity: (await evaluate(model, texts.test)).perplexity,
      texts: {
        calibration: describe(texts.calibration),
        selection: describe(texts.selection),
        test: describe(texts.test),
      },
      measurements: [],
    });
  }
  using measuring = new Measuring(model, texts, path);
  const ropeDims = list(options["rope-dims"]);
  const folds = list(options.folds);
  for (const recipe of options.recipes.split(",") as Setting["recipe"][]) {
    for (const cache of list(options.caches)!) {
      await measuring.row(
        recipe,
        cache,
        ({ ropeDim, fold }) =>
          (ropeDim === undefined || (ropeDims?.includes(ropeDim) ?? true)) &&
          (fold === undefined || (folds?.includes(fold) ?? true)),
      );
    }
  }
  if (options.ablation !== undefined) await measuring.ablation(Number(options.ablation));
}

function print(table: Table | undefined): void {
  for (const row of table ? aligned(table) : []) {
    process.stdout.write(`${row.join("  ").trimEnd()}\n`);
  }
  process.stdout.write("\n");
}

/** Prints the tables of all models that have been measured, and writes the page. */
function writePage(): void {
  const files = readdirSync(folder).filter((file) => file.endsWith(".json"));
  const sections = files.toSorted().map((file) => {
    const results = readResults(join(folder, file))!;
    const picture = file.replace(/\.json$/, ".svg");
    writeWhole(join(folder, picture), qualityPicture(results));
    process.stdout.write(`${results.model}\n`);
    print(qualityTable(results));
    print(ablationTable(results));
    return section(results, `quality/${picture}`);
  });
  const introduction = readFileSync(join(root, "scripts/quality/introduction.md"), "utf8").trim();
  writeWhole(join(root, "docs/quality.md"), `${[introduction, ...sections].join("\n\n")}\n`);
}

if (options.help) {
  process.stdout.write(help);
} else {
  if (!options.page) {
    const name = options.name ?? basename(options.model);
    await measure(name, join(folder, `${name.toLowerCase()}.json`));
  }
  if (existsSync(folder)) writePage();
}
