import { defineConfig } from "vite";

/** Lets the page share memory between threads. */
const headers = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

export default defineConfig({
  root: import.meta.dirname,
  base: "./",
  // Packages are imported by name and taken from their sources: no build step first.
  resolve: { conditions: ["source", "browser", "module"] },
  server: { headers },
  preview: { headers },
  build: { target: "esnext", outDir: "../../docs-out/demo", emptyOutDir: true },
});
