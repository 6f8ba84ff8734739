import { fail, FormatError } from "@transmla/core";

import { decodeUtf8, isObject, parseJson, show } from "../checkpoint/json.ts";
import { refuse, request, type Answer, type Connection } from "./connection.ts";
import { isCommit, showSpec } from "./spec.ts";

/** A file of a repository as the hub lists it. */
export interface HubFile {
  /** A plain file name: it is in no folder of the repository. */
  readonly name: string;
  /** Its size. */
  readonly bytes: number;
  /** What kind of hash the digest is: of the content, or of the git blob of it. */
  readonly hash: "sha256" | "git sha1";
  /** The hash in hexadecimal digits. */
  readonly digest: string;
}

/** What is in a repository at one commit. */
export interface Listing {
  /** 40 hexadecimal digits. */
  readonly commit: string;
  /** All paths, with `/` between folders. */
  readonly paths: ReadonlySet<string>;
  /** Size and hash of a file. An entry that is not asked for is not checked beyond its path. */
  file(name: string): HubFile;
}

/** Some 300 bytes an entry; models have tens of files, seldom thousands. */
const MAX_LISTING_BYTES = 50_000_000;
const MAX_ENTRIES = 100_000;

/** Eight times what the hub accepts as one file. */
const MAX_FILE_BYTES = 2 ** 42;

/** The longest path of Linux; deeper folders than this cannot be in it. */
const MAX_PATH_LENGTH = 4096;

/**
 * Asks the hub which commit a revision is and what is in it.
 *
 * @param connection - Which model.
 * @throws HubError when the hub refuses or cannot be reached.
 * @throws FormatError when the listing is malformed or holds a path that no git tree can have.
 */
export async function listFiles(connection: Connection): Promise<Listing> {
  const { spec } = connection;
  const path = `/api/models/${spec.repo}/revision/${encodeURIComponent(spec.revision)}?blobs=true`;
  const text = await request(connection, { path }, (answer) => readAnswer(connection, answer));
  const listing = parseListing(text, showSpec(spec));
  if (isCommit(spec.revision) && listing.commit !== spec.revision) {
    refuse(connection, {}, `the hub lists the commit ${listing.commit} instead`);
  }
  return listing;
}

async function readAnswer(connection: Connection, { chunks }: Answer): Promise<string> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of chunks) {
    bytes += chunk.length;
    if (bytes > MAX_LISTING_BYTES) {
      refuse(connection, {}, `the listing is above the limit of ${MAX_LISTING_BYTES} bytes`);
    }
    parts.push(chunk);
  }
  return decodeUtf8(Buffer.concat(parts), "downloadModel", showSpec(connection.spec));
}

/**
 * Reads the answer of the hub's API about a revision.
 *
 * @param text - JSON with `sha` and `siblings`.
 * @param model - What errors call the model.
 * @throws FormatError when the form is another.
 */
export function parseListing(text: string, model: string): Listing {
  const malformed = (problem: string): never =>
    fail(FormatError, "downloadModel", `the hub's listing ${problem}`, model);
  const json = parseJson(text, "downloadModel", model);
  const { sha, siblings } = isObject(json) ? json : {};
  if (!isCommit(sha)) return malformed(`has ${show(sha)} as its commit`);
  if (!Array.isArray(siblings)) return malformed(`has ${show(siblings)} instead of files`);
  if (siblings.length > MAX_ENTRIES) {
    return malformed(`has ${siblings.length} files, above the limit of ${MAX_ENTRIES}`);
  }
  const entries = new Map<string, Readonly<Record<string, unknown>>>();
  for (const entry of siblings as unknown[]) {
    const path = isObject(entry) ? entry["rfilename"] : undefined;
    if (typeof path !== "string" || !isTreePath(path)) {
      return malformed(`names the file ${show(path)}, which no repository can hold`);
    }
    if (entries.has(path)) return malformed(`names the file ${show(path)} twice`);
    entries.set(path, entry as Readonly<Record<string, unknown>>);
  }
  const file = (name: string): HubFile => {
    const entry = entries.get(name) ?? malformed(`does not name the file ${show(name)}`);
    const { lfs } = entry;
    const large = isObject(lfs);
    const bytes = large ? lfs["size"] : entry["size"];
    const digest = large ? lfs["sha256"] : entry["blobId"];
    if (!Number.isInteger(bytes) || (bytes as number) < 0 || (bytes as number) > MAX_FILE_BYTES) {
      return malformed(`says that ${show(name)} has ${show(bytes)} bytes`);
    }
    // The digest becomes the name of a file.
    const valid = typeof digest === "string" && /^[0-9a-f]+$/.test(digest);
    if (!valid || digest.length !== (large ? 64 : 40)) {
      return malformed(`has ${show(digest)} as the hash of ${show(name)}`);
    }
    return { name, bytes: bytes as number, hash: large ? "sha256" : "git sha1", digest };
  };
  return { commit: sha, paths: new Set(entries.keys()), file };
}

/** Whether a git tree can hold a path: it is relative, and no part of it is empty, `.`, `..` or `.git`. */
function isTreePath(path: string): boolean {
  return (
    path.length <= MAX_PATH_LENGTH &&
    !path.includes("\0") &&
    path.split("/").every((part) => !["", ".", "..", ".git"].includes(part))
  );
}
