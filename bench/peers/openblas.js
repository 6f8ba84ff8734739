// NumPy and SciPy with OpenBLAS, in a child process that measures on request. `BENCH_PYTHON` names another Python.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export const name = "OpenBLAS";
export const isNative = true;

export async function load({ threads }) {
  // What the environment says about kernels and cache sizes would not be what users have.
  const { OPENBLAS_CORETYPE: _, OPENBLAS_L2_SIZE: __, ...environment } = process.env;
  const child = spawn(
    process.env.BENCH_PYTHON ?? "python3",
    [join(import.meta.dirname, "measure.py")],
    {
      env: {
        ...environment,
        OPENBLAS_NUM_THREADS: String(threads),
        OMP_NUM_THREADS: String(threads),
      },
      stdio: ["pipe", "pipe", "pipe"],
    },
  );
  let complaint = "";
  child.stderr.on("data", (text) => (complaint += text));
  child.stdin.on("error", () => {});
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  child.on("error", (error) => (complaint += error.message));
  const ask = async (request) => {
    child.stdin.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await lines.next();
    if (done) throw new Error(complaint.trim().split("\n").at(-1) || "python3 ended");
    return JSON.parse(value);
  };
  const folder = mkdtempSync(join(tmpdir(), "bench-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  let count = 0;

  async function contender(operation, ...inputs) {
    const id = count++;
    const files = inputs.map(([data, shape], i) => {
      const path = join(folder, `${id}-${i}`);
      writeFileSync(path, data);
      return { path, shape, dtype: data instanceof Float64Array ? "f8" : "f4" };
    });
    await ask({ do: "prepare", id, operation, inputs: files });
    return {
      who: threads === 1 ? name : `${name}, ${threads} threads`,
      time: async (repeats) => (await ask({ do: "time", id, repeats })).ms,
      result: async () => {
        const path = join(folder, `${id}-result`);
        await ask({ do: "result", id, path });
        const bytes = readFileSync(path);
        return new Float64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8);
      },
      dispose: () => void ask({ do: "forget", id }),
    };
  }
  const { numpy, scipy, core } = await ask({ do: "describe" });
  return {
    description: `NumPy ${numpy}, SciPy ${scipy}, OpenBLAS kernels ${core}`,
    matmul: (a, b, [m, k, n]) => contender("matmul", [a, [m, k]], [b, [k, n]]),
    softmax: (a, shape) => contender("softmax", [a, shape]),
    eigh: (data, n) => contender("eigh", [data, [n, n]]),
    svd: (data, shape) => contender("svd", [data, shape]),
    dispose: () => child.kill(),
  };
}
