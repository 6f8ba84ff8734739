import { join } from "node:path";

import { fail, UnsupportedError } from "@transmla/core";

import { carriedFiles } from "../assets.ts";
import { diskFolder, lookUp } from "../checkpoint/disk.ts";
import type { Folder } from "../checkpoint/folder.ts";
import { INDEX_FILE, readIndex, SINGLE_FILE } from "../checkpoint/shards.ts";
import { ggufFolder } from "../gguf/folder.ts";
import { HubCache } from "./cache.ts";
import { refuse, type Connection } from "./connection.ts";
import { HubError } from "./errors.ts";
import { listFiles, type HubFile, type Listing } from "./listing.ts";
import type { DownloadOptions } from "./options.ts";
import { readSettings, readToken, type Environment } from "./settings.ts";
import { isCommit, parseSpec, showSpec, type HubSpec } from "./spec.ts";
import { fetchFile, forEachAtOnce, type Transfer } from "./transfer.ts";

const STALL_MS = 30_000;
const RETRIES = 5;
const RETRY_DELAY_MS = 500;

/** Small enough that a slow connection loses little, large enough that the hub is not asked too often. */
const RANGE_BYTES = 64 * 2 ** 20;

/** Files that come at once; each large one comes in several ranges. */
const SMALL_FILES_AT_ONCE = 8;
const WEIGHT_FILES_AT_ONCE = 2;

const CONFIG_FILE = "config.json";

/** What is downloaded besides weights, as far as a model has it. */
const metadataFiles: readonly string[] = [CONFIG_FILE, ...carriedFiles];

/** What a snapshot in the cache lacks. */
interface Cached {
  readonly path: string;
  /** What no model can do without. */
  readonly missing: readonly string[];
  /** What a model may have: whether this one has it is not recorded. */
  readonly unknown: readonly string[];
}

/**
 * Brings a model into the cache.
 *
 * @param spec - As a user writes it.
 * @param options - Progress, abort and limits.
 * @returns The path of the snapshot.
 */
export async function downloadSnapshot(
  spec: string,
  options: DownloadOptions = {},
): Promise<string> {
  const parsed = parseSpec(spec);
  const environment = options.environment ?? process.env;
  const settings = readSettings(environment);
  const cache = new HubCache(settings, parsed.repo);
  options.signal?.throwIfAborted();
  const weights = options.weights ?? true;
  if (settings.offline) return requireCached(parsed, await findCached(cache, parsed, weights));
  if (isCommit(parsed.revision)) {
    // What a commit holds never changes: nothing needs to be asked.
    const cached = await findCached(cache, parsed, weights);
    if (cached && [...cached.missing, ...cached.unknown].length === 0) return cached.path;
  }
  const connection = await connect(parsed, settings.endpoint, environment, options);
  const listing = await listFiles(connection).catch(async (error: unknown) => {
    if (!(error instanceof HubError)) throw error;
    const cached = await findCached(cache, parsed, weights);
    if (cached?.missing.length !== 0) throw error;
    throw new HubError(`${error.message}; HF_HUB_OFFLINE=1 uses what the cache holds`);
  });
  await download(connection, cache, listing, options);
  // A revision without weights must not hide an earlier commit that has them.
  if (weights || (await cache.resolve(parsed.revision)) === undefined) {
    await cache.setCommit(parsed.revision, listing.commit);
  }
  return cache.snapshot(listing.commit);
}

/**
 * A model of the hub as a folder.
 *
 * @param spec - As a user writes it.
 * @param options - Progress, abort and limits.
 */
export async function hubFolder(spec: string, options: DownloadOptions = {}): Promise<Folder> {
  const folder = diskFolder(await downloadSnapshot(spec, options));
  const { file } = parseSpec(spec);
  return file === undefined ? folder : ggufFolder(folder, file);
}

async function connect(
  spec: HubSpec,
  endpoint: string,
  environment: Environment,
  options: DownloadOptions,
): Promise<Connection> {
  return {
    endpoint,
    token: await readToken(environment),
    spec,
    signal: options.signal,
    stallTimeout: options.stallTimeout ?? STALL_MS,
    retries: options.retries ?? RETRIES,
    retryDelay: options.retryDelay ?? RETRY_DELAY_MS,
  };
}

/** Downloads what a model needs: small files first, so that a snapshot with weights has everything. */
async function download(
  connection: Connection,
  cache: HubCache,
  listing: Listing,
  options: DownloadOptions,
): Promise<void> {
  const { spec, signal } = connection;
  const { commit } = listing;
  let done = 0;
  let total = 0;
  let known = false;
  const transfer: Transfer = {
    connection,
    cache,
    commit,
    rangeBytes: options.rangeBytes ?? RANGE_BYTES,
    onBytes: (count) => {
      done += count;
      if (known && count !== 0) options.onProgress?.({ done, total, unit: "bytes" });
    },
  };
  const fetchAll = async (files: readonly HubFile[], atOnce: number): Promise<void> => {
    return forEachAtOnce(files, atOnce, signal, async (file, both) =>
      fetchFile({ ...transfer, connection: { ...connection, signal: both } }, file),
    );
  };
  await cache.prepare();
  const chosen = chooseFiles(connection, listing, options.weights ?? true);
  // Only the index says which shards there are, and with them the total.
  if (chosen.index) await fetchAll([chosen.index], 1);
  const shards = chosen.index ? await listShards(connection, cache, listing) : chosen.weights;
  const small = chosen.metadata.filter(({ name }) => name !== chosen.index?.name);
  total = [...small, ...shards].reduce((sum, { bytes }) => sum + bytes, chosen.index?.bytes ?? 0);
  known = true;
  await fetchAll(small, SMALL_FILES_AT_ONCE);
  await fetchAll(shards, WEIGHT_FILES_AT_ONCE);
  if (spec.file !== undefined) return;
  const absent = metadataFiles.filter((name) => !listing.paths.has(name));
  await cache.setAbsent(commit, absent);
}

interface Choice {
  readonly metadata: readonly HubFile[];
  readonly weights: readonly HubFile[];
  /** Names the weights instead of `weights`. */
  readonly index: HubFile | undefined;
}

/** The files of a listing that a model needs. PyTorch pickles are never among them. */
function chooseFiles(connection: Connection, listing: Listing, weights: boolean): Choice {
  const { spec } = connection;
  const { paths } = listing;
  if (spec.file !== undefined) {
    if (!paths.has(spec.file))
      refuse(connection, { file: spec.file }, "the model has no such file");
    return { metadata: [], weights: [listing.file(spec.file)], index: undefined };
  }
  const metadata = metadataFiles
    .filter((name) => paths.has(name))
    .map((name) => listing.file(name));
  const has = (name: string): boolean => paths.has(name);
  if (has(CONFIG_FILE) && !weights) return { metadata, weights: [], index: undefined };
  if (has(CONFIG_FILE) && has(SINGLE_FILE)) {
    return { metadata, weights: [listing.file(SINGLE_FILE)], index: undefined };
  }
  if (has(CONFIG_FILE) && has(INDEX_FILE)) {
    return { metadata, weights: [], index: listing.file(INDEX_FILE) };
  }
  const gguf = [...paths].find((name) => /^[^/]+\.gguf$/i.test(name));
  if (gguf !== undefined) {
    const wayOut = `name one of its GGUF files: hf:${spec.repo}/${gguf}`;
    fail(UnsupportedError, "downloadModel", `no safetensors; ${wayOut}`, showSpec(spec));
  }
  if (!has(CONFIG_FILE)) refuse(connection, { file: CONFIG_FILE }, "the model has no such file");
  const pickles = [...paths].some((name) => /\.(bin|pth?|ckpt)$/.test(name));
  const instead = pickles
    ? "only PyTorch pickles, which run code when they are read"
    : "no weights";
  const problem = `the model has ${instead}: ${SINGLE_FILE} or ${INDEX_FILE} is needed`;
  return fail(UnsupportedError, "downloadModel", problem, showSpec(spec));
}

/** The shards that the index of a snapshot names. */
async function listShards(
  connection: Connection,
  cache: HubCache,
  listing: Listing,
): Promise<readonly HubFile[]> {
  const index = await readIndex(diskFolder(cache.snapshot(listing.commit)));
  return [...new Set(index.values())].map((name) => {
    if (!listing.paths.has(name)) {
      refuse(
        connection,
        { file: name },
        `the model has no such file, but its ${INDEX_FILE} names it`,
      );
    }
    return listing.file(name);
  });
}

/** What the cache holds of a model; `undefined` when it does not know the revision. */
async function findCached(
  cache: HubCache,
  spec: HubSpec,
  weights: boolean,
): Promise<Cached | undefined> {
  const commit = await cache.resolve(spec.revision);
  if (commit === undefined) return undefined;
  const path = cache.snapshot(commit);
  const has = async (name: string): Promise<boolean> => {
    return (await lookUp("downloadModel", join(path, name)))?.isFile() ?? false;
  };
  const lacking = async (names: Iterable<string>): Promise<string[]> => {
    const found: string[] = [];
    for (const name of names) if (!(await has(name))) found.push(name);
    return found;
  };
  if (spec.file !== undefined) return { path, missing: await lacking([spec.file]), unknown: [] };
  const missing = await lacking([CONFIG_FILE]);
  if (weights && !(await has(SINGLE_FILE))) {
    const indexed = await has(INDEX_FILE);
    const shards = indexed ? new Set((await readIndex(diskFolder(path))).values()) : [SINGLE_FILE];
    missing.push(...(await lacking(shards)));
  }
  const unknown: string[] = [];
  for (const name of await lacking(carriedFiles)) {
    if (!(await cache.isAbsent(commit, name))) unknown.push(name);
  }
  return { path, missing, unknown };
}

function requireCached(spec: HubSpec, cached: Cached | undefined): string {
  if (cached?.missing.length === 0) return cached.path;
  const [first, ...others] = cached?.missing ?? [];
  const more = others.length === 0 ? "" : ` and ${others.length} more`;
  const lacks =
    first === undefined ? "the cache does not hold it" : `the cache lacks ${first}${more}`;
  const problem = `${lacks}, and HF_HUB_OFFLINE forbids downloads`;
  return fail(HubError, "downloadModel", problem, showSpec(spec));
}
