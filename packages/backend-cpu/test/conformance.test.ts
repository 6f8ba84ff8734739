import { conformance } from "@transmla/core/testing";

import { cpuBackend } from "../src/index.ts";
import { modes } from "./modes.ts";

for (const [name, options] of Object.entries(modes)) conformance(name, () => cpuBackend(options));
