import { fc, test as prop } from "@fast-check/vitest";
import { FormatError } from "@transmla/core";
import { expect, test } from "vitest";

import { parseListing } from "../../src/hub/listing.ts";
import { commit } from "./server.ts";

const blobId = "a".repeat(40);
const parse = (...siblings: unknown[]) =>
  parseListing(JSON.stringify({ sha: commit, siblings }), "org/name@main");
const refusal = (problem: string) =>
  new FormatError(`downloadModel: the hub's listing ${problem} (org/name@main)`);

test("gives sizes and hashes of git and LFS files", () => {
  const sha256 = "b".repeat(64);
  const listing = parse(
    { rfilename: "config.json", size: 5, blobId },
    { rfilename: "model.safetensors", size: 134, blobId, lfs: { size: 7, sha256 } },
    { rfilename: "a:b\\c/d", size: -1 },
  );
  expect(listing.commit).toBe(commit);
  expect([...listing.paths]).toEqual(["config.json", "model.safetensors", "a:b\\c/d"]);
  expect(listing.file("config.json")).toEqual({
    name: "config.json",
    bytes: 5,
    hash: "git sha1",
    digest: blobId,
  });
  expect(listing.file("model.safetensors")).toMatchObject({
    bytes: 7,
    hash: "sha256",
    digest: sha256,
  });
});

test.each(["../a", "/etc/passwd", "a/../../b", "a//b", ".", "", "a\0b", ".git/config"])(
  "refuses the path %j",
  (rfilename) => {
    expect(() => parse({ rfilename, size: 1, blobId })).toThrow(
      refusal(`names the file ${JSON.stringify(rfilename)}, which no repository can hold`),
    );
  },
);

test("refuses other forms", () => {
  expect(() => parseListing("[]", "org/name@main")).toThrow(refusal("has undefined as its commit"));
  expect(() => parseListing(`{"sha":"${commit}"}`, "org/name@main")).toThrow(
    refusal("has undefined instead of files"),
  );
  const entry = { rfilename: "a", size: 1, blobId };
  expect(() => parse(entry, entry)).toThrow(refusal('names the file "a" twice'));
  expect(() => parse(null)).toThrow(
    refusal("names the file undefined, which no repository can hold"),
  );
  expect(() => parse({ ...entry, size: 0.5 }).file("a")).toThrow(
    refusal('says that "a" has 0.5 bytes'),
  );
  expect(() => parse({ ...entry, size: 2 ** 50 }).file("a")).toThrow(
    refusal('says that "a" has 1125899906842624 bytes'),
  );
  expect(() => parse({ ...entry, blobId: "../../../x" }).file("a")).toThrow(
    refusal('has "../../../x" as the hash of "a"'),
  );
  expect(() => parse({ ...entry, lfs: { size: 1, sha256: blobId } }).file("a")).toThrow(
    refusal(`has "${blobId}" as the hash of "a"`),
  );
});

prop.prop([fc.json()])("answers any JSON with a listing or a FormatError", (text) => {
  expect(() => {
    try {
      parseListing(text, "m");
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
    }
  }).not.toThrow();
});
