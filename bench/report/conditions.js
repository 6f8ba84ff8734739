import { cpus, release, type } from "node:os";

/** The machine and the engine. */
export function conditions() {
  const { node, v8 } = process.versions;
  return `Node ${node} (V8 ${v8}), ${cpus()[0].model}, ${cpus().length} cores, ${type()} ${release()}`;
}
