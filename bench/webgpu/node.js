// WebGPU in Node. The peers look for the globals of a browser.
import { bundledModel } from "transmla";
import { create, globals } from "webgpu";

const settings = JSON.parse(process.argv[2]);

Object.assign(globalThis, globals);
Object.defineProperty(globalThis.navigator, "gpu", { value: create([]) });
Object.defineProperty(globalThis, "self", { value: globalThis });
const { suite } = await import("./suite.js");
const log = (line) => void process.stderr.write(`${line}\n`);
process.stdout.write(await suite("Node", bundledModel, settings, log));
process.exit(0); // the peers hold the process
