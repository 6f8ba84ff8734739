import { existsSync } from "node:fs";

import { playwright } from "@vitest/browser-playwright";
import { chromium } from "playwright";
import { defineConfig, type TestProjectInlineConfiguration } from "vitest/config";

import { softwareGpu } from "./scripts/software-gpu.ts";

const gpu = softwareGpu();
// The dynamic linker reads its variables when a process starts: the workers that run the tests start after this.
Object.assign(process.env, gpu?.env);

/** In CI, a missing browser or WebGPU adapter is a failure; elsewhere the tests that need it are skipped. */
const required = (process.env["CI"] ?? "") !== "";

const executablePath = process.env["CHROMIUM_PATH"] ?? gpu?.chromium ?? chromium.executablePath();

/** The tests that also run in a browser. */
function browserProject(): TestProjectInlineConfiguration[] {
  if (!existsSync(executablePath)) {
    const problem = `no browser at ${executablePath}: set CHROMIUM_PATH, or run npx playwright install chromium`;
    if (required) throw new Error(problem);
    process.stderr.write(`Browser tests are SKIPPED: ${problem}\n`);
    return [];
  }
  return [
    {
      extends: true,
      optimizeDeps: { include: ["fast-check"], exclude: ["webgpu"] },
      // For SharedArrayBuffer.
      server: {
        headers: {
          "Cross-Origin-Opener-Policy": "same-origin",
          "Cross-Origin-Embedder-Policy": "require-corp",
        },
      },
      test: {
        name: "browser",
        include: [
          "packages/backend-*/test/conformance.test.ts",
          "packages/*/test/**/*.browser.test.ts",
          "test/adapter.test.ts",
        ],
        testTimeout: 60_000,
        browser: {
          enabled: true,
          headless: true,
          ui: false,
          screenshotFailures: false,
          provider: playwright({
            launchOptions: {
              executablePath,
              args: [
                "--no-sandbox", // Chromium as root refuses to start otherwise
                "--enable-unsafe-webgpu", // allows SwiftShader
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
              ],
            },
          }),
          instances: [{ browser: "chromium" }],
        },
      },
    },
  ];
}

export default defineConfig({
  // Tests import packages by name and run on their sources: no build step first.
  resolve: { conditions: ["source"] },
  ssr: { resolve: { conditions: ["source"] } },
  test: {
    provide: { adapterRequired: required, chromium: executablePath },
    projects: [
      {
        extends: true,
        test: {
          name: "node",
          include: ["packages/*/test/**/*.test.ts", "test/**/*.test.ts"],
          exclude: ["**/*.browser.test.ts"],
          environment: "node",
          testTimeout: 60_000,
        },
      },
      ...browserProject(),
    ],
  },
});
