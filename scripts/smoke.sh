#!/usr/bin/env bash
# Installs the packed packages in an empty project and uses them as a newcomer would, under the Node that is on the PATH
# outside of npm scripts: the oldest one that the packages promise to run on.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
project=$(mktemp -d)
trap 'rm -rf "$project"' EXIT
(cd "$root" && npm pack --silent --workspaces --pack-destination "$project" >/dev/null)
cd "$project"
node --version
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund ./*.tgz

cat >use.mjs <<'EOT'
import { cpuBackend } from "@transmla/backend-cpu";
import { matmul, tensor } from "@transmla/core";
import { svd } from "@transmla/core/linalg";
import { bundledModel, convert, generate, loadModel } from "transmla";

const backend = await cpuBackend();
const product = matmul(tensor(backend, [1, 2, 3, 4], [2, 2]), tensor(backend, [5, 6, 7, 8], [2, 2]));
console.log("matmul", ...(await product.read()));
console.log("svd", ...svd({ rows: 2, cols: 2, data: Float64Array.of(3, 0, 0, -2) }).s);
const model = await loadModel(bundledModel, { backend });
const merged = await convert(model, { method: "merged" });
const texts = [];
for (const each of [model, merged]) {
  let text = "";
  for await (const piece of generate(each, "JULIET:", { maxTokens: 20 })) text += piece.text;
  texts.push(text);
}
if (texts[0] !== texts[1]) throw new Error(`texts differ: ${JSON.stringify(texts)}`);
console.log("text", JSON.stringify(texts[0]));
EOT
node use.mjs
node -e 'const { matmul } = require("@transmla/core"); if (typeof matmul !== "function") throw new Error("require failed")'

npx transmla --version
npx transmla demo --quiet >/dev/null
npx transmla convert node_modules/transmla/models/tiny-shakespeare out --method merged --quiet
npx transmla verify node_modules/transmla/models/tiny-shakespeare out --quiet
if npx transmla demo --backend webgpu --quiet 2>error.txt; then exit 1; fi
grep -q "npm install webgpu" error.txt
