// WebGPU in a headless Chromium.
import { join } from "node:path";

import { chromium } from "playwright";
import { createServer } from "vite";

import { softwareGpu } from "../../scripts/software-gpu.ts";

const settings = JSON.parse(process.argv[2]);
const server = await createServer({
  root: import.meta.dirname,
  configFile: false,
  logLevel: "error",
  cacheDir: join(import.meta.dirname, "../node_modules/.vite"),
  resolve: { conditions: ["source", "browser", "module"] },
  optimizeDeps: { entries: ["page.html"] },
  server: { fs: { allow: ["../.."] } },
});
await server.listen(0);
const executablePath = process.env["CHROMIUM_PATH"] ?? softwareGpu()?.chromium;
const browser = await chromium.launch({
  ...(executablePath !== undefined && { executablePath }),
  args: ["--no-sandbox", "--enable-unsafe-webgpu"],
});
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(0);
  page.on("console", (message) => process.stderr.write(`${message.text()}\n`));
  page.on("pageerror", (error) => process.stderr.write(`${error.message}\n`));
  const hash = encodeURIComponent(JSON.stringify(settings));
  await page.goto(`${server.resolvedUrls.local[0]}page.html#${hash}`);
  await page.waitForFunction("globalThis.report !== undefined");
  process.stdout.write(String(await page.evaluate("globalThis.report")));
} finally {
  await browser.close();
  await server.close();
}
