import { fetchBundledModel } from "../../docs/demo/bundled.ts";
import { suite } from "./suite.js";
const settings = JSON.parse(decodeURIComponent(location.hash.slice(1)));
const { folder } = await fetchBundledModel(() => undefined);
// The script that opened the page listens.
const log = (line) => console.log(line);
Object.assign(globalThis, { report: suite("Chromium", folder, settings, log) });
