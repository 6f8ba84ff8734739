import { ArgumentError, fail } from "@transmla/core";

import { isFileName } from "../checkpoint/folder.ts";
import { show } from "../checkpoint/json.ts";

/** A model on the hub. */
export interface HubSpec {
  /** `org/name`. */
  readonly repo: string;
  /** A branch, a tag or a commit. */
  readonly revision: string;
  /** The one GGUF file that is wanted, if it is named; otherwise the model is its folder. */
  readonly file: string | undefined;
}

/** The longest part of a repository's name that the hub allows. */
const MAX_PART_LENGTH = 96;

/** Long enough for any branch, short enough for every file system. */
const MAX_REVISION_LENGTH = 200;

/** What may start the name of a model on the hub. */
const HUB_PREFIX = "hf:";

/**
 * Reads `hf:org/name[/file.gguf][@revision]`; the prefix may be absent.
 *
 * @param text - As a user writes it.
 * @returns Its parts; the revision is `main` when none is named.
 * @throws ArgumentError that says which part is wrong.
 */
export function parseSpec(text: string): HubSpec {
  const refuse = (problem: string): never =>
    fail(ArgumentError, "downloadModel", `${problem}; write hf:org/name@revision`, show(text));
  const body = text.startsWith(HUB_PREFIX) ? text.slice(HUB_PREFIX.length) : text;
  const at = body.indexOf("@");
  const parts = (at < 0 ? body : body.slice(0, at)).split("/");
  const revision = at < 0 ? "main" : body.slice(at + 1);
  const [organisation = "", name = "", file] = parts;
  if (parts.length < 2) refuse("a model on the hub has an organisation and a name");
  if (parts.length > 3) refuse("files in folders of a repository are not read");
  for (const part of [organisation, name]) {
    if (!isRepositoryName(part)) refuse(`${show(part)} is not a name that the hub allows`);
  }
  if (!isRevision(revision)) refuse(`${show(revision)} is not a revision`);
  if (file !== undefined && !(isFileName(file) && /\.gguf$/i.test(file))) {
    refuse(`${show(file)} is not the name of a .gguf file`);
  }
  return { repo: `${organisation}/${name}`, revision, file };
}

/**
 * A model as errors name it.
 *
 * @param spec - Which model.
 */
export function showSpec({ repo, revision }: HubSpec): string {
  return `${repo}@${revision}`;
}

/**
 * Whether a text is the hash of a git commit or blob.
 *
 * @param text - Anything.
 */
export function isCommit(text: unknown): text is string {
  return typeof text === "string" && /^[0-9a-f]{40}$/.test(text);
}

/** The rules of `validate_repo_id` of huggingface_hub: `--` is what separates the parts in the cache. */
function isRepositoryName(part: string): boolean {
  return (
    part.length <= MAX_PART_LENGTH && /^\w([\w.-]*\w)?$/.test(part) && !/--|\.\.|\.git$/.test(part)
  );
}

/** The rules of `git check-ref-format`, and none of the characters that a file system refuses: it becomes a path. */
function isRevision(revision: string): boolean {
  if (
    revision.length > MAX_REVISION_LENGTH ||
    /[\s\p{Cc}~^:?*[\]\\"<>|]|\.\.|@\{/u.test(revision)
  ) {
    return false;
  }
  return revision.split("/").every((part) => part !== "" && !/^\.|\.$|\.lock$/.test(part));
}
