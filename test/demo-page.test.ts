// Builds the page of docs/demo and uses it in a headless Chromium as a reader would. Screenshots go to test/.screenshots.
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium, type Browser, type Page } from "playwright";
import { build, preview, type PreviewServer } from "vite";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";

const root = join(import.meta.dirname, "..");
const configFile = join(root, "docs/demo/vite.config.ts");
const executablePath = inject("chromium");
const hasBrowser = existsSync(executablePath);
const outDir = mkdtempSync(join(tmpdir(), "transmla-demo-"));
const minutes = 60_000;

describe.skipIf(!hasBrowser)("the demo page", () => {
  let server: PreviewServer;
  let address = "";
  const browsers: Browser[] = [];

  beforeAll(async () => {
    await build({ configFile, logLevel: "error", build: { outDir } });
    server = await preview({
      configFile,
      logLevel: "error",
      build: { outDir },
      preview: { port: 0 },
    });
    address = server.resolvedUrls!.local[0]!;
  }, 2 * minutes);
  afterAll(async () => {
    for (const browser of browsers) await browser.close();
    await server.close();
    rmSync(outDir, { recursive: true });
  });

  /** Opens the page and waits until both texts are written. */
  async function open(flags: readonly string[], colorScheme: "light" | "dark"): Promise<Page> {
    const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", ...flags] });
    browsers.push(browser);
    const page = await browser.newPage({ viewport: { width: 1100, height: 1000 }, colorScheme });
    await page.goto(address);
    await page.locator("#tokens").fill("12");
    await expectVerdict(page);
    return page;
  }

  async function expectVerdict(page: Page): Promise<void> {
    const verdict = page.locator("#verdict:not(:empty)");
    await verdict.waitFor({ timeout: 3 * minutes });
    expect(await verdict.textContent()).toBe(
      "The original and the merged model wrote the same text.",
    );
    expect(await page.locator("#step").textContent()).toMatch(/^Converted/);
  }

  async function rows(page: Page): Promise<string[][]> {
    const found = await page.locator("#forms tr").all();
    return Promise.all(found.map((row) => row.locator("td").allInnerTexts()));
  }

  test("converts and generates on WebGPU", { timeout: 5 * minutes }, async () => {
    const page = await open(["--enable-unsafe-webgpu"], "light");
    expect(await page.locator("#backend").textContent()).toMatch(/^Runs on WebGPU: /);
    const [original, merged] = await rows(page);
    expect(original!.slice(0, 4)).toEqual(["original", "2,853,312", "3.00 MiB", "256"]);
    expect(merged!.slice(0, 4)).toEqual(["merged", "4,623,552", "3.00 MiB", "256"]);
    expect(Number(merged![4])).toBeLessThan(1e-4);
    expect(merged![6]).toBe("100.0 %");
    await page.screenshot({
      path: join(root, "test/.screenshots/webgpu-light.png"),
      fullPage: true,
    });
  });

  test(
    "falls back to the CPU, says so, and halves the cache",
    { timeout: 5 * minutes },
    async () => {
      const page = await open(["--disable-features=WebGPU"], "dark");
      expect(await page.locator("#backend").textContent()).toBe(
        "Runs on the CPU: this browser gives no WebGPU device",
      );
      await page.locator("#shrink").click();
      await page.locator("#forms tr:nth-child(3)").waitFor({ timeout: 3 * minutes });
      await expectVerdict(page);
      const latent = (await rows(page))[2]!;
      expect(latent.slice(2, 4)).toEqual(["1.50 MiB", "128"]);
      expect(Number(latent[5])).toBeLessThan(1);
      expect(await page.locator("#texts article").count()).toBe(3);
      await page.screenshot({ path: join(root, "test/.screenshots/cpu-dark.png"), fullPage: true });
    },
  );
});
