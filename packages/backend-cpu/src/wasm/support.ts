import { webAssembly } from "../webassembly.ts";
import type { V128 } from "./expression.ts";
import { ModuleBuilder } from "./module.ts";
import { f32x4, v128 } from "./vector.ts";

/** A module whose one function uses one vector instruction. */
function probe(instruction: (x: V128) => V128): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder();
  module.define("probe", {
    parameters: { address: "i32" },
    body: (_, { address }) => [v128.store(address, instruction(v128.load(address)))],
  });
  return module.bytes();
}

/** Whether vector instructions exist and may be compiled: a Content-Security-Policy can forbid it. */
export function canCompile(): boolean {
  try {
    return Boolean(new webAssembly.Module(probe((x) => f32x4.add(x, x))));
  } catch {
    return false; // a CompileError
  }
}

/** Whether relaxed vector instructions exist (WebAssembly 3.0). */
export function hasRelaxedSimd(): boolean {
  return webAssembly.validate(probe((x) => f32x4.relaxedMadd(x, x, x)));
}
