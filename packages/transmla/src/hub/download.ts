import type { DownloadOptions } from "./options.ts";

/**
 * Brings a model from the Hugging Face hub into the cache that Python's huggingface_hub uses too; what is there already
 * is not fetched again. Node only.
 *
 * @param spec - `org/name`, `org/name@revision` or `org/name/file.gguf`, with or without `hf:` in front.
 * @param options - Progress, abort and limits.
 * @returns The path of the snapshot: a folder with the files of that commit.
 * @throws ArgumentError when the spec, the token or `HF_ENDPOINT` is malformed.
 * @throws HubError when the hub cannot be reached, refuses, or sends what its listing does not say.
 * @throws FileError when the cache cannot be written.
 */
export async function downloadModel(spec: string, options: DownloadOptions = {}): Promise<string> {
  const { downloadSnapshot } = await import("./snapshot.ts"); // not in browsers
  return downloadSnapshot(spec, options);
}
