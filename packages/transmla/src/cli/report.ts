import { styleText } from "node:util";

import { formatBytes } from "../format-bytes.ts";
import type { Progress } from "../load.ts";

/** Nothing is shown of what takes less than this. */
const SHOW_AFTER_MS = 1000;
/** How often a bar is drawn, and how often a line is printed where there is no terminal. */
const REDRAW_MS = 100;
const LINE_EVERY_MS = 10_000;

/** How a command speaks: text and tables on stdout, progress and warnings on stderr, or one JSON object on stdout. */
export class Report {
  readonly #json: boolean;
  readonly #quiet: boolean;
  #bar: { readonly label: string; readonly start: number; drawn: number } | undefined;

  /** @param options - `json`: only the result, as one object; `quiet`: no progress and no remarks. */
  constructor(options: { readonly json?: boolean; readonly quiet?: boolean } = {}) {
    this.#json = options.json ?? false;
    this.#quiet = options.quiet ?? false;
  }

  /** Whether only the JSON result is wanted. */
  get isJson(): boolean {
    return this.#json;
  }

  /** Writes a part of a text as it comes. */
  write(text: string): void {
    this.#clear();
    if (!this.#json) process.stdout.write(text);
  }

  /** Prints a line. */
  line(text = ""): void {
    this.write(`${text}\n`);
  }

  /** Prints a line that `--quiet` leaves out. */
  remark(text = ""): void {
    if (!this.#quiet) this.line(text);
  }

  /** Prints a heading. */
  heading(text: string): void {
    this.line(styleText("bold", text));
  }

  /** Prints rows in columns; the first row is the header. Columns of numbers are aligned to the right. */
  table(rows: readonly (readonly string[])[]): void {
    for (const line of formatTable(rows)) this.line(line);
  }

  /** Prints the result of a command as JSON, where that was asked for. */
  result(value: unknown): void {
    this.#clear();
    if (this.#json) process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
  }

  /** Prints a warning on stderr. */
  warn(text: string): void {
    this.#clear();
    process.stderr.write(
      `${styleText("yellow", "warning:", { stream: process.stderr })} ${text}\n`,
    );
  }

  /** A progress callback under a label; it shows nothing during the first second. */
  progress(label: string): (progress: Progress) => void {
    return (progress) => this.#progress(label, progress);
  }

  #progress(label: string, { done, total, unit }: Progress): void {
    if (this.#quiet) return;
    const now = performance.now();
    if (this.#bar?.label !== label) this.#bar = { label, start: now, drawn: now };
    if (done >= total) {
      this.#clear();
      this.#bar = undefined;
      return;
    }
    const { isTTY } = process.stderr;
    const due = now - this.#bar.drawn >= (isTTY ? REDRAW_MS : LINE_EVERY_MS);
    if (!due || now - this.#bar.start < SHOW_AFTER_MS) return;
    this.#bar.drawn = now;
    const amount =
      unit === "bytes"
        ? `${formatBytes(done)} of ${formatBytes(total)}`
        : `${done} of ${total} ${unit}`;
    if (isTTY) {
      const filled = Math.round((20 * done) / total);
      process.stderr.write(
        `\r\u001B[K${label} ${"#".repeat(filled)}${"-".repeat(20 - filled)} ${amount}`,
      );
    } else {
      process.stderr.write(`${label}: ${amount}\n`);
    }
  }

  /** Takes a bar off the terminal before something else is printed. */
  #clear(): void {
    if (this.#bar && process.stderr.isTTY) process.stderr.write("\r\u001B[K");
  }
}

/** Lines of a table with aligned columns and a rule under the header. */
function formatTable(rows: readonly (readonly string[])[]): string[] {
  const columns = Math.max(...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, i) =>
    Math.max(...rows.map((row) => row[i]?.length ?? 0)),
  );
  const numeric = widths.map((_, i) =>
    rows.slice(1).every((row) => /^[\d.,+-]|^$/.test(row[i] ?? "")),
  );
  const lines = rows.map((row) => {
    const cells = row.map((cell, i) =>
      numeric[i] ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!),
    );
    return cells.join("  ").trimEnd();
  });
  lines.splice(1, 0, widths.map((width) => "-".repeat(width)).join("  "));
  return lines;
}

/** A count with thousands separated by commas. */
export function formatCount(count: number): string {
  return count.toLocaleString("en-US");
}

/** A small number with three digits: 1.23e-5. */
export function formatSmall(x: number): string {
  return x === 0
    ? "0"
    : Math.abs(x) >= 0.01 && Math.abs(x) < 1000
      ? x.toPrecision(3)
      : x.toExponential(2);
}
