import { vi } from "vitest";

import { main } from "../../src/cli/main.ts";

/** What a run of the command line left behind. */
export interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command line in this process. */
export async function run(...args: readonly string[]): Promise<Run> {
  const captured = { stdout: "", stderr: "" };
  const capture = (stream: "stdout" | "stderr") =>
    vi.spyOn(process[stream], "write").mockImplementation((chunk) => {
      captured[stream] += String(chunk);
      return true;
    });
  const spies = [capture("stdout"), capture("stderr")];
  try {
    const code = await main(["node", "transmla", ...args]);
    return { code, ...captured };
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}
