import { readFileSync } from "node:fs";
import { join } from "node:path";

import { bundledModel, cutWindows, type Tokenizer } from "transmla";

/** Windows of token ids. */
export type Windows = readonly (readonly number[])[];

/** Texts of a model: no window is in two of them. */
export type Texts = Readonly<Record<"calibration" | "selection" | "test", Windows>>;

/** Tokens in a window of a text. */
const WINDOW = 512;

/** Windows of a text, or those of a `.json` file as they are. */
export function readWindows(path: string, tokenizer: Tokenizer): Windows {
  const text = readFileSync(path, "utf8");
  if (path.endsWith(".json")) return (JSON.parse(text) as { readonly windows: Windows }).windows;
  return cutWindows(tokenizer.encode(text, { specialTokens: false }), WINDOW);
}

/** Stretches of the text that the bundled model has sampled: the first for calibration, the last for the report. */
export function bundledTexts(tokenizer: Tokenizer): Texts {
  const windows = readWindows(join(bundledModel, "sample.txt"), tokenizer).filter(
    (ids) => ids.length === WINDOW,
  );
  return {
    calibration: windows.slice(0, 64),
    selection: windows.slice(64, 80),
    test: windows.slice(-16),
  };
}

/** The size of a text in words. */
export function describe(windows: Windows): string {
  const tokens = windows.reduce((sum, ids) => sum + ids.length, 0);
  return `${windows.length} windows, ${tokens} tokens`;
}
