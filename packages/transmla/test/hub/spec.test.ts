import { fc, test as prop } from "@fast-check/vitest";
import { ArgumentError } from "@transmla/core";
import { expect, test } from "vitest";

import { parseSpec } from "../../src/hub/spec.ts";

test.each([
  ["hf:org/name", { repo: "org/name", revision: "main", file: undefined }],
  ["org/name@v1.0", { repo: "org/name", revision: "v1.0", file: undefined }],
  [
    "hf:Org-1/na_me.v2@refs/pr/7",
    { repo: "Org-1/na_me.v2", revision: "refs/pr/7", file: undefined },
  ],
  ["hf:org/name/a.Q8_0.gguf@main", { repo: "org/name", revision: "main", file: "a.Q8_0.gguf" }],
])("reads %s", (text, spec) => {
  expect(parseSpec(text)).toEqual(spec);
});

test.each([
  ["hf:", "a model on the hub has an organisation and a name"],
  ["hf:name", "a model on the hub has an organisation and a name"],
  ["hf:org/", '"" is not a name that the hub allows'],
  ["hf:../name", '".." is not a name that the hub allows'],
  ["hf:org/a--b", '"a--b" is not a name that the hub allows'],
  ["hf:org/name.git", '"name.git" is not a name that the hub allows'],
  ["hf:org/name@", '"" is not a revision'],
  ["hf:org/name@../../x", '"../../x" is not a revision'],
  ["hf:org/name@a b", '"a b" is not a revision'],
  ["hf:org/name@/a", '"/a" is not a revision'],
  ["hf:org/name/model.bin", '"model.bin" is not the name of a .gguf file'],
  ["hf:org/name/a/b.gguf", "files in folders of a repository are not read"],
])("refuses %s", (text, problem) => {
  const shown = JSON.stringify(text);
  expect(() => parseSpec(text)).toThrow(
    new ArgumentError(`downloadModel: ${problem}; write hf:org/name@revision (${shown})`),
  );
});

prop.prop([fc.string({ unit: fc.constantFrom(...Array.from("ab./\\-_@:~ \0hf")) })])(
  "what it accepts stays inside the cache",
  (text) => {
    try {
      const { repo, revision, file } = parseSpec(text);
      expect(repo.split("/")).toHaveLength(2);
      for (const part of [...repo.split("/"), ...revision.split("/"), file ?? "file"]) {
        expect(part).toMatch(/^[^/\\:\0 ]+$/);
        expect(part).not.toMatch(/^\.{1,2}$/);
      }
    } catch (error) {
      if (!(error instanceof ArgumentError)) throw error;
    }
  },
);
