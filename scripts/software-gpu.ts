import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { brotliDecompressSync } from "node:zlib";

/** A browser and a Vulkan driver that need no GPU and no installation. */
export interface SoftwareGpu {
  /** Path of a headless Chromium whose WebGPU falls back to SwiftShader. */
  readonly chromium: string;
  /** What a process must start with to find the Vulkan loader, and SwiftShader behind the drivers of the machine. */
  readonly env: Readonly<Record<string, string>>;
}

/**
 * Unpacks the Chromium and the SwiftShader of `@sparticuz/chromium`, once, under `node_modules/.cache`. Undefined on
 * other systems than the one that package is built for, Linux on x64.
 */
export function softwareGpu(): SoftwareGpu | undefined {
  if (process.platform !== "linux" || process.arch !== "x64") return undefined;
  const main = createRequire(import.meta.url).resolve("@sparticuz/chromium");
  const home = join(dirname(main), "..");
  const { version } = JSON.parse(readFileSync(join(home, "package.json"), "utf8")) as {
    version: string;
  };
  const folder = join(import.meta.dirname, "../node_modules/.cache/software-gpu", version);
  if (!existsSync(folder)) unpack(join(home, "bin"), folder);
  const libraries = [process.env["LD_LIBRARY_PATH"], folder, join(folder, "lib")];
  return {
    chromium: join(folder, "chromium"),
    env: {
      LD_LIBRARY_PATH: libraries.filter(Boolean).join(delimiter),
      VK_ADD_DRIVER_FILES: join(folder, "vk_swiftshader_icd.json"),
      ...(existsSync("/etc/fonts") ? {} : { FONTCONFIG_FILE: join(folder, "own-fonts.conf") }),
      XDG_RUNTIME_DIR: process.env["XDG_RUNTIME_DIR"] ?? tmpdir(), // the loader complains where it is not set
    },
  };
}

/** Renames at the end: a run that was interrupted, or another one at the same time, leaves no half of it. */
function unpack(archives: string, folder: string): void {
  mkdirSync(dirname(folder), { recursive: true });
  const unfinished = mkdtempSync(`${folder}-`);
  const read = (name: string): Buffer => brotliDecompressSync(readFileSync(join(archives, name)));
  for (const name of ["swiftshader.tar.br", "al2023.tar.br", "fonts.tar.br"])
    execFileSync("tar", ["-x", "-C", unfinished], { input: read(name) });
  writeFileSync(
    join(unfinished, "own-fonts.conf"),
    `<fontconfig><dir>${join(folder, "fonts")}</dir><cachedir>${join(folder, "fonts/cache")}</cachedir></fontconfig>`,
  );
  // Chromium finds SwiftShader only in its own folder.
  writeFileSync(join(unfinished, "chromium"), read("chromium.br"), { mode: 0o755 });
  try {
    renameSync(unfinished, folder);
  } catch (error) {
    if (!existsSync(folder)) throw error;
  }
}
