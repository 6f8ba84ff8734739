// The command that measures quality: what it chooses by, and what it says.
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { bundledModel, parseTokenizer } from "transmla";
import { expect, test } from "vitest";

import { section } from "../scripts/quality/page.ts";
import { best, withMeasurement, type Quality, type Results } from "../scripts/quality/results.ts";
import { bundledTexts } from "../scripts/quality/texts.ts";

const quality = (kl: number): Quality => ({ perplexity: 10 + kl, kl, top: 0.9 });
const results: Results = {
  model: "a model",
  cache: 256,
  layers: 6,
  perplexity: 10,
  texts: { calibration: "one text", selection: "another", test: "a third" },
  measurements: [
    {
      setting: { recipe: "default", cache: 96, ropeDim: 16 },
      selection: quality(0.3),
      test: quality(0.1),
    },
    {
      setting: { recipe: "default", cache: 96, ropeDim: 24 },
      selection: quality(0.2),
      test: quality(0.4),
    },
    {
      setting: { recipe: "transmla", cache: 96, ropeDim: 16, fold: 2 },
      selection: quality(1),
      test: quality(1.1),
    },
    {
      setting: { recipe: "default", cache: 96, ropeDim: 24, without: "a step" },
      test: quality(0.05),
    },
  ],
};

test("settings are chosen on the selection windows, whatever they give on the test windows", () => {
  expect(best(results, "default", 96)!.setting.ropeDim).toBe(24);
  const page = section(results, "picture.svg").replaceAll(/ {2,}/g, " ");
  expect(page).toContain("| 96 (38 %) | default | 24 + 72 | 10.40 | 0.4000 | 90.0 % |");
  expect(page).toContain("| 96 (38 %) | published | 16 + 80, fold 2 | 11.10 | 1.1000 | 90.0 % |");
  expect(page).toContain("| without a step | 10.05 | 0.0500 | 90.0 % |");
  expect(page).not.toContain("16 + 80 |");
});

test("more measurements of a setting join what is known of it", () => {
  const setting = { recipe: "own", cache: 64 } as const;
  const first = withMeasurement(results, { setting, selection: quality(0.5), seconds: 3 });
  const both = withMeasurement(first, { setting, test: quality(0.6) });
  expect(both.measurements).toHaveLength(results.measurements.length + 1);
  expect(best(both, "own", 64)).toEqual({
    setting,
    selection: quality(0.5),
    test: quality(0.6),
    seconds: 3,
  });
});

test("the texts of the bundled model do not overlap", () => {
  const json = readFileSync(join(bundledModel, "tokenizer.json"), "utf8");
  const texts = bundledTexts(parseTokenizer(JSON.parse(json), {}));
  const all = Object.values(texts).flat();
  expect(all).toHaveLength(64 + 16 + 16);
  expect(new Set(all.map((ids) => ids.join(","))).size).toBe(all.length);
});
