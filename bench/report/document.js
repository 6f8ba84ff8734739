import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { conditions } from "./conditions.js";
import { cells, heads, verdict } from "./format.js";
import { drawBars } from "./picture.js";

const docs = join(import.meta.dirname, "../../docs");

/** Puts a table into docs/performance.md, in the place of the one that the same Node has left there, and draws it. */
export function writeDocument({ name, title, node, remarks, measured }) {
  const path = join(docs, "performance.md");
  const before = existsSync(path) ? readFileSync(path, "utf8") : "# Performance\n";
  const [start, end] = [`<!-- ${name}, Node ${node} -->`, `<!-- end of ${name}, Node ${node} -->`];
  const picture = `performance/${name}-node${node}.svg`;
  mkdirSync(join(docs, "performance"), { recursive: true });
  writeFileSync(join(docs, picture), drawBars(title, measured));
  const body = [
    start,
    `### ${title}: Node ${node}`,
    `![${title}](${picture})`,
    ...measured.map(section),
    `${[conditions(), ...remarks].join(". ")}.`,
    end,
  ].join("\n\n");
  const from = before.indexOf(start);
  const after =
    from < 0
      ? `${before.trimEnd()}\n\n${body}\n`
      : before.slice(0, from) + body + before.slice(before.indexOf(end) + end.length);
  writeFileSync(path, after);
}

function section(measured) {
  const row = (values) => `| ${values.join(" | ")} |`;
  const align = heads.map((_, column) => (column === 0 ? "---" : "---:"));
  const table = [[measured.title, ...heads.slice(1)], align, ...cells(measured)]
    .map(row)
    .join("\n");
  const goals = measured.goals.map((goal) => `- ${verdict(goal)}`).join("\n");
  return goals ? `${table}\n\n${goals}` : table;
}
