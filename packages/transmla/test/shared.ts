import { existsSync } from "node:fs";
import { join } from "node:path";

/** Golden data beside the repository. Tests that need it are skipped where it is absent, and say so. */
export const shared: string = join(import.meta.dirname, "../../../../shared");

/** Whether a folder of golden data is there. */
export const hasShared = (path: string): boolean => existsSync(join(shared, path));
