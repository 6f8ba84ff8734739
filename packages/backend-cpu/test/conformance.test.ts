import { conformance } from "@transmla/core/testing";

import { backendIn, modes } from "./modes.ts";

for (const [name, mode] of Object.entries(modes)) conformance(name, () => backendIn(mode));
