import { blobFolder, type Folder } from "transmla";

const names = [
  "config.json",
  "generation_config.json",
  "model.safetensors",
  "sample.txt",
  "special_tokens_map.json",
  "tokenizer.json",
  "tokenizer_config.json",
];

/** Fetches the model that ships with the package. */
export async function fetchBundledModel(
  onProgress: (done: number, total: number) => void,
): Promise<{ readonly folder: Folder; readonly sample: string }> {
  const files = new Map<string, Blob>();
  for (const [i, name] of names.entries()) {
    onProgress(i, names.length);
    files.set(name, await fetchBlob(name));
  }
  const sample = await files.get("sample.txt")!.text();
  return { folder: blobFolder(files, "tiny-shakespeare"), sample };
}

async function fetchBlob(name: string): Promise<Blob> {
  const url = new URL(`../../packages/transmla/models/tiny-shakespeare/${name}`, import.meta.url);
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${name}: the server answered ${response.status}`);
  return response.blob();
}
