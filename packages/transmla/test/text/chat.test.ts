import { describe, expect, test } from "vitest";

import { parseChatTemplate, selectChatTemplate } from "../../src/text/chat.ts";
import { parseTokenizer } from "../../src/text/tokenizer.ts";
import { goldenTokenizers, hasGolden } from "./golden.ts";

const render = (source: string, variables: Record<string, unknown> = {}): string =>
  parseChatTemplate(source).render([], { variables });

describe.skipIf(!hasGolden)("golden chats of Transformers (needs ../shared)", () => {
  test.each(goldenTokenizers)(
    "$kind",
    ({ tokenizerJson, tokenizerConfig, chatTemplateJinja, golden }) => {
      const tokenizer = parseTokenizer(tokenizerJson, tokenizerConfig);
      const source = selectChatTemplate(tokenizerConfig, chatTemplateJinja)!;
      const template = parseChatTemplate(source, tokenizer.specialTokens);
      expect(golden.chats.length).toBeGreaterThan(5);
      for (const chat of golden.chats) {
        const options = { tools: chat.tools, addGenerationPrompt: chat.add_generation_prompt };
        let outcome: { rendered?: string; ids?: number[]; error?: string };
        try {
          const rendered = template.render(chat.messages, options);
          outcome = { rendered, ids: tokenizer.encode(rendered, { specialTokens: false }) };
        } catch (error) {
          outcome = { error: (error as Error).message.replace(/^chat template: /, "") };
        }
        expect(chat).toMatchObject(outcome);
      }
    },
  );
});

describe("which template", () => {
  const named = [
    { name: "default", template: "D" },
    { name: "rag", template: "R" },
  ];

  test("the file of its own comes first, then the configuration", () => {
    expect(selectChatTemplate({ chat_template: "C" }, "F")).toBe("F");
    expect(selectChatTemplate({ chat_template: "C" })).toBe("C");
    expect(selectChatTemplate({ chat_template: named })).toBe("D");
    expect(selectChatTemplate({ chat_template: null })).toBeUndefined();
    expect(selectChatTemplate({})).toBeUndefined();
    expect(selectChatTemplate(null)).toBeUndefined();
  });

  test.each([
    [
      named.slice(1),
      'UnsupportedError: c.json: chat_template has no template named "default"; there are ["rag"]',
    ],
    [["x"], 'FormatError: c.json: chat_template[0] must be {name, template}, found "x"'],
    [
      { default: "D" },
      'FormatError: c.json: chat_template must be a text or a list, found {"default":"D"}',
    ],
  ])("refused: %j", (value, message) => {
    expect(() => selectChatTemplate({ chat_template: value }, undefined, "c.json")).toThrow(
      expect.objectContaining({
        name: message.split(":")[0],
        message: message.replace(/^\w+: /, ""),
      }),
    );
  });
});

describe("variables", () => {
  test("special tokens are undefined where the model has none; tools and documents are none", () => {
    const source =
      "{{ bos_token is defined }} {{ eos_token }} {{ tools is none }} {{ documents is none }}";
    expect(parseChatTemplate(source, { eosToken: "</s>" }).render([])).toBe("false </s> true true");
  });

  test("more variables reach the template, messages stay", () => {
    const template = parseChatTemplate("{{ enable_thinking }} {{ messages[0].content }}");
    const variables = { enable_thinking: false, messages: [] };
    expect(template.render([{ role: "user", content: "hi" }], { variables })).toBe("false hi");
  });

  test("strftime_now writes the given time in English", () => {
    const now = (): Date => new Date(2024, 6, 5, 15, 4, 9); // Friday
    const source = "{{ strftime_now('%d %b %Y|%A %a %B|%y-%m-%d|%H:%M:%S|%I %p|%% %Q') }}";
    const rendered = parseChatTemplate(source, { now }).render([]);
    expect(rendered).toBe("05 Jul 2024|Friday Fri July|24-07-05|15:04:09|03 PM|% %Q");
  });

  test("range is that of Python", () => {
    expect(render("{% for i in range(3) %}{{ i }},{% endfor %}")).toBe("0,1,2,");
    expect(render("{% for i in range(1, 8, 3) %}{{ i }},{% endfor %}")).toBe("1,4,7,");
    expect(render("{% for i in range(5, 0, -2) %}{{ i }},{% endfor %}")).toBe("5,3,1,");
    expect(render("{% for i in range(5, 0) %}{{ i }},{% endfor %}")).toBe("");
  });

  test("blocks take the white space around them away", () => {
    expect(render("a\n  {% if true %}\nb\n  {% endif %}\nc")).toBe("a\nb\nc");
  });
});

describe("templates that go wrong", () => {
  test.each([
    ["{{ raise_exception('no system role') }}", "ArgumentError", "chat template: no system role"],
    ["{{ 'a' | format }}", "UnsupportedError", "chat template: Unknown StringValue filter: format"],
    [
      "{{ range(1.5) }}",
      "UnsupportedError",
      "chat template: range(1.5) needs integers and a step other than 0",
    ],
    [
      "{{ range(0, 1, 0) }}",
      "UnsupportedError",
      "chat template: range(0, 1, 0) needs integers and a step other than 0",
    ],
    [
      "{{ range(1000000000) }}",
      "UnsupportedError",
      "chat template: the template makes a list of more than 100000 items",
    ],
    [
      "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
      "UnsupportedError",
      "chat template: the template makes a list of more than 100000 items",
    ],
    [
      "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
      "UnsupportedError",
      "chat template: the template makes a text of more than 16777216 characters",
    ],
  ])("%s", (source, name, message) => {
    expect(() => render(source)).toThrow(expect.objectContaining({ name, message }));
  });

  test("loops in loops end", () => {
    const body = "{% set x = a %}".repeat(100);
    const source = `{% for a in range(99999) %}{% for b in range(99999) %}${body}{% endfor %}{% endfor %}`;
    expect(() => render(source)).toThrow(
      "chat template: the template takes more than 1000000 steps",
    );
  });

  test.each([
    ["{% if %}", "chat template: Unexpected token: CloseStatement"],
    ["{{ 'a }}", "chat template: Unexpected end of input"],
    [
      " ".repeat(2 ** 20 + 1),
      "chat template: the template has 1048577 characters; the most is 1048576",
    ],
  ])("does not parse: %.10s", (source, message) => {
    expect(() => parseChatTemplate(source)).toThrow(
      expect.objectContaining({ name: "FormatError", message }),
    );
  });
});
