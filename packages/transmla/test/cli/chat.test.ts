// The chat reads standard input, so it runs as a process of its own, from the sources.
import { spawnSync } from "node:child_process";
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { bundledModel } from "../../src/bundled.ts";

const template = `{% for m in messages %}{{ m.role | upper }}:
{{ m.content }}

{% endfor %}{% if add_generation_prompt %}ASSISTANT:
{% endif %}`;

/** Node runs TypeScript from 22.18 on. */
const runsTypeScript = Boolean((process.features as { readonly typescript?: unknown }).typescript);

describe.skipIf(!runsTypeScript)("chat", () => {
  let model = "";
  beforeEach(async () => {
    model = await mkdtemp(join(tmpdir(), "transmla-"));
    await cp(bundledModel, model, { recursive: true });
  });
  afterEach(() => rm(model, { recursive: true }));

  const chat = (input: string, ...flags: readonly string[]): ReturnType<typeof spawnSync> => {
    const cli = join(import.meta.dirname, "../../src/cli.ts");
    const args = ["--conditions=source", cli, "chat", model, "--max-tokens", "6", ...flags];
    return spawnSync(process.execPath, args, { input, encoding: "utf8" });
  };

  test("answers every line and keeps the conversation", async () => {
    await writeFile(join(model, "chat_template.jinja"), template);
    const { status, stdout } = chat("Good morrow\nWhat news?\n", "--json", "--system", "A play.");
    expect(status).toBe(0);
    const { messages } = JSON.parse(String(stdout)) as {
      messages: { role: string; content: string }[];
    };
    expect(messages.map(({ role }) => role)).toEqual([
      "system",
      "user",
      "assistant",
      "user",
      "assistant",
    ]);
    expect(messages[3]!.content).toBe("What news?");
    expect(messages[4]!.content.length).toBeGreaterThan(0);
  });

  test("the cache of earlier turns changes nothing", async () => {
    await writeFile(join(model, "chat_template.jinja"), template);
    const [first, second] = [
      chat("Good morrow\nWhat news?\n", "--quiet"),
      chat("Good morrow\n", "--quiet"),
    ];
    expect(String(first.stdout).startsWith(String(second.stdout))).toBe(true);
  });

  test("needs a chat template", () => {
    const { status, stderr } = chat("Good morrow\n");
    expect(status).toBe(1);
    expect(stderr).toBe(
      `error: chat: the model has no chat template; use transmla generate (${model})\n`,
    );
  });
});
