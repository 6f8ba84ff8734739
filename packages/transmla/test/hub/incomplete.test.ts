import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { fc, test as prop } from "@fast-check/vitest";
import { afterAll, beforeAll, expect, test } from "vitest";

import { openIncomplete } from "../../src/hub/incomplete.ts";
import type { HubFile } from "../../src/hub/listing.ts";
import { gitHash, noise, sha256 } from "./server.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "hub-"));
});
afterAll(() => rm(folder, { recursive: true }));

const describeFile = (bytes: Buffer): HubFile => ({
  name: "file",
  bytes: bytes.length,
  hash: "sha256",
  digest: sha256(bytes),
});

prop.prop(
  [
    fc.integer({ min: 0, max: 200 }),
    fc.integer({ min: 1, max: 70 }),
    fc.array(fc.tuple(fc.nat(200), fc.nat(100), fc.boolean()), { maxLength: 12 }),
  ],
  { numRuns: 50 },
)("bytes in any order, with interruptions, make the file", async (size, rangeBytes, pieces) => {
  const bytes = noise(size, size);
  const file = describeFile(bytes);
  let incomplete = await openIncomplete(folder, file, rangeBytes, false);
  const take = async (begin: number, end: number): Promise<void> => {
    const before = incomplete.present;
    const added = await incomplete.take(begin, bytes.subarray(begin, end));
    expect(incomplete.present).toBe(before + added);
  };
  for (const [begin, length, interrupted] of pieces) {
    if (begin < size) await take(begin, begin + length);
    if (!interrupted) continue;
    const { present } = incomplete;
    await incomplete.close();
    incomplete = await openIncomplete(folder, file, rangeBytes, false);
    expect(incomplete.present).toBe(present);
  }
  for (const index of incomplete.missing()) await take(...incomplete.gap(index));
  expect(incomplete.missing()).toEqual([]);
  expect(await incomplete.digest(undefined)).toBe(file.digest);
  const blob = join(folder, file.digest);
  await incomplete.commit(blob);
  expect(await readFile(blob)).toEqual(bytes);
  await rm(blob);
  expect(await readdir(folder)).toEqual([]);
});

test("hashes as git does", async () => {
  const bytes = noise(3_000_000);
  const file: HubFile = { ...describeFile(bytes), hash: "git sha1" };
  const incomplete = await openIncomplete(folder, file, 1e6, false);
  await incomplete.take(0, bytes);
  expect(await incomplete.digest(undefined)).toBe(gitHash(bytes));
  await incomplete.discard();
  expect(await readdir(folder)).toEqual([]);
});

test("a process that wakes up cannot write to what another took over", async () => {
  const bytes = noise(100);
  const file = describeFile(bytes);
  const asleep = await openIncomplete(folder, file, 50, false);
  await asleep.take(0, bytes.subarray(0, 30));
  await asleep.take(50, bytes.subarray(50, 100));
  const successor = await openIncomplete(folder, file, 50, true);
  expect(successor.present).toBe(80);
  await asleep.take(30, Buffer.alloc(20));
  for (const index of successor.missing()) {
    await successor.take(
      ...([successor.gap(index)[0], bytes.subarray(...successor.gap(index))] as const),
    );
  }
  expect(await successor.digest(undefined)).toBe(file.digest);
  const blob = join(folder, file.digest);
  await successor.commit(blob);
  await asleep.commit(blob); // was overtaken: no error
  expect(await readFile(blob)).toEqual(bytes);
  await rm(blob);
});

test("does not believe a note that does not fit", async () => {
  const file = describeFile(noise(100));
  for (const note of [
    [50, 51, 0],
    [50, 0, -1],
    [50, 0.5, 0],
    [0, 0, 0],
    [NaN, 0, 0],
    [30, 1, 1],
  ]) {
    const left = join(folder, `${file.digest}.0123abcd.incomplete`);
    const bytes = new Uint8Array(Float64Array.from(note).buffer);
    await writeFile(left, Buffer.concat([Buffer.alloc(100), bytes]));
    const incomplete = await openIncomplete(folder, file, 50, false);
    expect([note, incomplete.resumed]).toEqual([note, false]);
    await incomplete.close();
    await rm(left);
  }
});
