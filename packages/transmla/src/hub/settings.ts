import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";

import { ArgumentError, fail } from "@transmla/core";

import { attempt } from "../checkpoint/disk.ts";
import { show } from "../checkpoint/json.ts";

/** Variables of the environment, as `process.env` has them. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** What the environment says about the hub. */
export interface HubSettings {
  /** The address of the hub, without a slash at its end. */
  readonly endpoint: string;
  /** The folder that holds all cached models. */
  readonly cache: string;
  /** Whether nothing may be asked of the hub. */
  readonly offline: boolean;
  /** Whether snapshots may be links to blobs. */
  readonly symlinks: boolean;
}

const DEFAULT_ENDPOINT = "https://huggingface.co";

/**
 * Reads the variables that huggingface_hub reads, with the same precedence.
 *
 * @param environment - The variables.
 * @throws ArgumentError when `HF_ENDPOINT` is not the address of a web server.
 */
export function readSettings(environment: Environment): HubSettings {
  const cache = environment["HF_HUB_CACHE"] || environment["HUGGINGFACE_HUB_CACHE"];
  return {
    endpoint: checkEndpoint(environment["HF_ENDPOINT"] || DEFAULT_ENDPOINT),
    cache: cache ? expandHome(cache) : join(hubHome(environment), "hub"),
    offline: isSet(environment["HF_HUB_OFFLINE"] || environment["TRANSFORMERS_OFFLINE"]),
    symlinks: !isSet(environment["HF_HUB_DISABLE_SYMLINKS"]),
  };
}

/**
 * The access token: from `HF_TOKEN`, from `HUGGING_FACE_HUB_TOKEN`, or from the file that `hf auth login` writes.
 *
 * @param environment - The variables.
 * @returns The token, or `undefined` when there is none.
 * @throws ArgumentError when it cannot be a token; the message does not contain it.
 */
export async function readToken(environment: Environment): Promise<string | undefined> {
  for (const name of ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
    const token = checkToken(environment[name] ?? "", name);
    if (token !== undefined) return token;
  }
  // Stored tokens, unlike those of the environment, were not given for this run.
  if (isSet(environment["HF_HUB_DISABLE_IMPLICIT_TOKEN"])) return undefined;
  const named = environment["HF_TOKEN_PATH"];
  const path = named ? expandHome(named) : join(hubHome(environment), "token");
  const stored = readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return "";
    throw error;
  });
  return checkToken(await attempt("read", path, stored), path);
}

/** A token travels in a header: what is no header must fail here, since the error of `fetch` would quote it. */
function checkToken(text: string, from: string): string | undefined {
  const token = text.trim();
  if (token === "") return undefined;
  if (!/^[\x21-\x7E]{1,1000}$/.test(token)) {
    fail(ArgumentError, "downloadModel", "what is stored there is not an access token", from);
  }
  return token;
}

function checkEndpoint(endpoint: string): string {
  const refuse = (): never => {
    const problem = "is not an http or https address without user, query and fragment";
    // A password in the address must not be repeated.
    const shown = endpoint.includes("@") ? "HF_ENDPOINT" : `HF_ENDPOINT ${show(endpoint)}`;
    fail(ArgumentError, "downloadModel", `${shown} ${problem}`);
  };
  if (!URL.canParse(endpoint)) return refuse();
  const { protocol, username, password, search, hash, href } = new URL(endpoint);
  if (!/^https?:$/.test(protocol) || username + password + search + hash !== "") return refuse();
  return href.replace(/\/+$/, "");
}

/** The folder of everything that Hugging Face tools keep. */
function hubHome(environment: Environment): string {
  const home = environment["HF_HOME"];
  if (home) return expandHome(home);
  return join(expandHome(environment["XDG_CACHE_HOME"] || join("~", ".cache")), "huggingface");
}

function expandHome(path: string): string {
  return /^~([/\\]|$)/.test(path) ? join(homedir(), path.slice(1)) : path;
}

/** What huggingface_hub takes for yes. */
function isSet(value: string | undefined): boolean {
  return ["1", "ON", "YES", "TRUE"].includes(value?.toUpperCase() ?? "");
}
