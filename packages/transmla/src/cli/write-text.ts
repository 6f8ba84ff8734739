import { rename, rm, writeFile } from "node:fs/promises";

/**
 * Writes a text file that appears complete or not at all.
 *
 * @param path - The file; an older one is replaced.
 * @param text - Its content.
 */
export async function writeText(path: string, text: string): Promise<void> {
  const partial = `${path}.partial`;
  try {
    await writeFile(partial, text);
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}
