import { readFileSync } from "node:fs";

import { ArgumentError, TransmlaError } from "@transmla/core";
import { CommanderError } from "commander";

import { createProgram } from "./program.ts";

/**
 * Runs the command line.
 *
 * @param argv - As `process.argv`: interpreter, script, arguments.
 * @returns The exit code: 0 fine, 1 failed or below the tolerance, 2 wrong usage.
 */
export async function main(argv: readonly string[]): Promise<number> {
  const manifest = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  const { version } = JSON.parse(manifest) as { version: string };
  const abort = new AbortController();
  const interrupt = (): void => abort.abort(new Error("interrupted"));
  process.once("SIGINT", interrupt);
  try {
    let code = 0;
    await createProgram(version, abort.signal, (result) => (code = result)).parseAsync(argv);
    return code;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2; // commander has printed it
    const message = error instanceof Error ? error.message : String(error);
    const expected = error instanceof TransmlaError || abort.signal.aborted;
    const text = expected || !(error instanceof Error) ? message : (error.stack ?? message);
    process.stderr.write(`error: ${text}\n`);
    if (argv.includes("--json")) process.stdout.write(`${JSON.stringify({ error: message })}\n`);
    return error instanceof ArgumentError ? 2 : 1;
  } finally {
    process.off("SIGINT", interrupt);
  }
}
