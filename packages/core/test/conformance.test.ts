import { conformance } from "@transmla/core/testing";

import { plainBackend } from "./plain-backend.ts";
import { fusedKernels } from "./plain-fused.ts";

conformance("a backend of primitives", () => Promise.resolve(plainBackend()));
conformance("a backend with fused kernels", () => Promise.resolve(plainBackend(fusedKernels)));
