import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { HubError } from "../../src/hub/errors.ts";
import type { DownloadOptions } from "../../src/hub/options.ts";
import type { Progress } from "../../src/load.ts";
import { Fixture, files, refusal, weights } from "./fixture.ts";
import { commit, gitHash, noise, sendFile, sha256 } from "./server.ts";

const fixture = new Fixture();
describe("transfers", () => {
  test("come in ranges, with progress", async () => {
    const progress: number[] = [];
    await fixture.download({ onProgress: ({ done }) => progress.push(done) });
    expect(fixture.ranges()).toEqual([
      "bytes=0-2999",
      "bytes=3000-5999",
      "bytes=6000-8999",
      "bytes=9000-9999",
    ]);
    expect(progress).toEqual(progress.toSorted((a, b) => a - b));
  });

  test("take the whole file from a server without ranges", async () => {
    fixture.hub.behave = ({ path }, response) => {
      if (!path.endsWith(".safetensors")) return false;
      sendFile(response, weights, undefined);
      return true;
    };
    expect(await readFile(join(await fixture.download(), "model.safetensors"))).toEqual(weights);
    expect(fixture.hub.requests("model.safetensors")).toHaveLength(1);
  });

  test("are repeated after failures, from where they were", async () => {
    fixture.hub.behave = ({ path, range }, response, count) => {
      if (path.includes("/api/") && count === 0) {
        response.writeHead(503, { "retry-after": "0" }).end();
        return true;
      }
      if (!path.endsWith(".safetensors") || range === undefined) return false;
      if (count === 0) response.writeHead(500).end();
      if (count === 1) {
        response.writeHead(206, { "content-length": 3000, "content-range": "bytes 0-2999/10000" });
        response.write(weights.subarray(0, 1000), () => setTimeout(() => response.destroy(), 20));
      }
      return count < 2;
    };
    expect(await readFile(join(await fixture.download(), "model.safetensors"))).toEqual(weights);
    expect(fixture.hub.requests("model.safetensors").map(({ range }) => range)[2]).toBe(
      "bytes=1000-2999",
    );
  });

  test("give up after some attempts", async () => {
    fixture.hub.behave = ({ path }, response) => {
      if (path.endsWith("model.safetensors")) response.writeHead(502).end();
      return path.endsWith("model.safetensors");
    };
    await expect(fixture.download()).rejects.toThrow(
      refusal("the hub answered with status 502, after 3 attempts", "model.safetensors"),
    );
    expect(await fixture.incomplete()).toEqual([]);
  });

  test("do not wait for ever", async () => {
    fixture.hub.behave = ({ path }, response) => {
      if (!path.endsWith("model.safetensors")) return false;
      response.writeHead(206, { "content-range": "bytes 0-2999/10000" });
      response.write(weights.subarray(0, 500));
      return true;
    };
    await expect(fixture.download({ stallTimeout: 50, retries: 0 })).rejects.toThrow(
      refusal("the server sent nothing for 0.05 s", "model.safetensors"),
    );
  });

  test("end with the reason of the signal, and go on later", async () => {
    fixture.hub.behave = ({ path, range }, response) => {
      const begin = Number(/^bytes=(\d+)/.exec(range ?? "")?.[1]);
      if (!path.endsWith("model.safetensors") || begin === 0) return false;
      response.writeHead(206, { "content-range": `${range!.replace("=", " ")}/10000` });
      response.write(weights.subarray(begin, begin + 900));
      return true;
    };
    const abort = new AbortController();
    const expected = files["config.json"].length + files["tokenizer.json"].length + 3000 + 3 * 900;
    const onProgress = ({ done }: Progress): void => {
      if (done === expected) abort.abort(new Error("enough"));
    };
    await expect(fixture.download({ signal: abort.signal, onProgress })).rejects.toThrow("enough");
    expect(await fixture.incomplete()).toHaveLength(1);
    fixture.hub.behave = undefined;
    fixture.hub.seen.length = 0;
    const progress: number[] = [];
    const path = await fixture.download({ onProgress: ({ done }) => progress.push(done) });
    expect(await readFile(join(path, "model.safetensors"))).toEqual(weights);
    expect(fixture.ranges()).toEqual(["bytes=3900-5999", "bytes=6900-8999", "bytes=9900-9999"]);
    expect(progress).toContain(expected);
    expect(await fixture.incomplete()).toEqual([]);
  });

  test("begin again when what was left is damaged", async () => {
    const bad = Buffer.from(weights);
    bad[10]! ^= 1;
    const abort = new AbortController();
    fixture.hub.behave = ({ path, range }, response) => {
      if (!path.endsWith("model.safetensors")) return false;
      if (range === "bytes=0-2999") sendFile(response, bad, range);
      else abort.abort(new Error("power cut"));
      return true;
    };
    await expect(fixture.download({ signal: abort.signal })).rejects.toThrow("power cut");
    fixture.hub.behave = undefined;
    expect(await readFile(join(await fixture.download(), "model.safetensors"))).toEqual(weights);
  });

  test("leave incomplete files of huggingface_hub alone", async () => {
    await fixture.download({ weights: false });
    const theirs = `${sha256(weights)}.0123abcd.incomplete`;
    await writeFile(fixture.at("blobs", theirs), weights.subarray(0, 5000));
    await fixture.download();
    expect(await fixture.incomplete()).toEqual([theirs]);
  });
});

describe("a server that lies", () => {
  const serveInstead = (bytes: Buffer): void => {
    fixture.hub.behave = ({ path, range }, response) => {
      if (!path.endsWith("model.safetensors")) return false;
      sendFile(response, bytes, range);
      return true;
    };
  };
  const expectRefused = async (problem: string, options?: DownloadOptions): Promise<void> => {
    await expect(fixture.download(options)).rejects.toThrow(refusal(problem, "model.safetensors"));
    expect(await fixture.incomplete()).toEqual([]);
    expect(await readdir(fixture.at("blobs"))).not.toContain(sha256(weights));
  };

  test("about the content", async () => {
    const bytes = Buffer.from(weights);
    bytes[9999]! ^= 1;
    serveInstead(bytes);
    await expectRefused(
      `what the server sent has the sha256 ${sha256(bytes)}, not ${sha256(weights)} as the hub lists; it was not kept`,
    );
  });

  test("about a small file", async () => {
    fixture.hub.lies = { "tokenizer.json": { blobId: "a".repeat(40) } };
    const hash = gitHash(files["tokenizer.json"]);
    await expect(fixture.download()).rejects.toThrow(
      refusal(
        `what the server sent has the git sha1 ${hash}, not ${"a".repeat(40)} as the hub lists; it was not kept`,
        "tokenizer.json",
      ),
    );
  });

  test("about the size", async () => {
    const problem = "the server sends 11000 bytes where the hub lists 10000";
    serveInstead(noise(11_000));
    await expectRefused(problem);
    await expectRefused(problem, { rangeBytes: 20_000 });
  });

  test("and sends without end", async () => {
    fixture.hub.behave = ({ path }, response) => {
      if (!path.endsWith("model.safetensors")) return false;
      response.writeHead(200);
      const more = (): void => {
        if (!response.destroyed) response.write(noise(4000), () => setImmediate(more));
      };
      more();
      return true;
    };
    await expect(fixture.download()).rejects.toThrow(
      refusal(
        "the server sends more than 10000 bytes where the hub lists 10000",
        "model.safetensors",
      ),
    );
  });

  test("about ranges", async () => {
    fixture.hub.behave = ({ path }, response) => {
      if (!path.endsWith("model.safetensors")) return false;
      response.writeHead(206, { "content-range": "bytes 5-2999/10000" }).end();
      return true;
    };
    await expectRefused('the server sends the range "bytes 5-2999/10000" when asked for 0-2999');
  });

  test("about the commit", async () => {
    await expect(fixture.download({}, `hf:org/name@${"e".repeat(40)}`)).rejects.toThrow(
      new HubError(
        `downloadModel: the hub lists the commit ${commit} instead (org/name@${"e".repeat(40)})`,
      ),
    );
  });
});
