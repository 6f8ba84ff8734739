import { fc } from "@fast-check/vitest";

import { damage } from "./bytes.ts";
import { fuzz } from "./harness.ts";
import { jsonDamage } from "./json.ts";
import { asBytes, damageFile, models } from "./originals.ts";
import { readConfiguration, runModel } from "./readers.ts";

const anyDamage = fc.oneof(
  { weight: 1, arbitrary: damage },
  { weight: 5, arbitrary: asBytes(jsonDamage) },
);
const configs = models.flatMap((files) =>
  ["config.json", "config.legacy.json"].flatMap((name) =>
    Object.hasOwn(files, name) ? [{ "config.json": files[name]! }] : [],
  ),
);

fuzz("config.json", damageFile(configs, "config.json", anyDamage), readConfiguration);
fuzz("config.json with weights", damageFile(models, "config.json", anyDamage), runModel, 0.2);
