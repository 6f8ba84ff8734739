import { conformance } from "@transmla/core/testing";

import { cpuBackend } from "../src/index.ts";

conformance("cpu", () => cpuBackend());
