import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { HubError } from "../../src/hub/errors.ts";
import { Fixture, refusal, weights } from "./fixture.ts";
import { listen, sendFile } from "./server.ts";

const fixture = new Fixture();
describe("access", () => {
  test("sends the token to the hub and to nobody else", async () => {
    const tokens: (string | undefined)[] = [];
    const storage = await listen(async ({ range, token }, response) => {
      tokens.push(token);
      sendFile(response, weights, range);
    });
    fixture.hub.behave = ({ path }, response) => {
      if (!path.endsWith("model.safetensors")) return false;
      response.writeHead(302, { location: `${storage.url}/blob?signature=x` }).end("moved");
      return true;
    };
    try {
      fixture.environment["HF_TOKEN"] = "hf_secret";
      expect(await readFile(join(await fixture.download(), "model.safetensors"))).toEqual(weights);
    } finally {
      await storage.close();
    }
    expect(new Set(fixture.hub.seen.map(({ token }) => token))).toEqual(new Set(["hf_secret"]));
    expect(tokens).toEqual([undefined, undefined, undefined, undefined]);
  });

  test("does not follow redirections for ever or to other protocols", async () => {
    let location = "/api/models/org/name/revision/main";
    fixture.hub.behave = (_seen, response) => {
      response.writeHead(307, { location }).end();
      return true;
    };
    await expect(fixture.download()).rejects.toThrow(refusal("more than 5 redirections"));
    location = "file:///etc/passwd";
    await expect(fixture.download()).rejects.toThrow(
      refusal("the server redirects from http: to file:"),
    );
  });

  test.each([
    [
      401,
      "RepoNotFound",
      "",
      "the hub has no such model, or it is private and needs a token in HF_TOKEN",
    ],
    [
      401,
      "",
      "hf_secret",
      "the hub has no such model, or it is private and the token may not read it",
    ],
    [404, "RevisionNotFound", "", "the model has no such revision"],
    [
      404,
      "RepoNotFound",
      "hf_secret",
      "the hub has no such model, or it is private and the token may not read it",
    ],
    [403, "", "hf_secret", "the hub refuses access; the token may not read this model"],
    [418, "", "", "the hub answered with status 418"],
  ])("explains status %i %s", async (status, code, token, problem) => {
    fixture.environment["HF_TOKEN"] = token;
    fixture.hub.behave = (_seen, response) => {
      response.writeHead(status, { "x-error-code": code }).end();
      return true;
    };
    await expect(fixture.download()).rejects.toThrow(refusal(problem));
    expect(fixture.hub.seen).toHaveLength(1);
  });

  test("explains gated models", async () => {
    fixture.hub.behave = ({ path }, response) => {
      if (!path.endsWith("config.json")) return false;
      response.writeHead(403, { "x-error-code": "GatedRepo" }).end();
      return true;
    };
    await expect(fixture.download()).rejects.toThrow(
      refusal(
        `the model is gated; accept its terms on ${fixture.hub.url}/org/name and set HF_TOKEN to a token of that account`,
        "config.json",
      ),
    );
  });

  test("says when there is no server, and that the cache could serve", async () => {
    await fixture.download();
    await fixture.hub.close();
    const problem = "the connection was refused, after 3 attempts";
    await expect(fixture.download()).rejects.toThrow(
      new HubError(
        `downloadModel: ${problem} (org/name@main); HF_HUB_OFFLINE=1 uses what the cache holds`,
      ),
    );
    await rm(fixture.at(), { recursive: true });
    await expect(fixture.download()).rejects.toThrow(refusal(problem));
  });
});
