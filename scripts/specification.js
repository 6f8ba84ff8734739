// Writes docs/specification.md from the calls of property, counterexample and backendProperty in the tests.
// With --check it writes nothing, and fails when the file is out of date.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import ts from "typescript";

const root = join(import.meta.dirname, "..");
const folder = "packages/transmla/test/spec";
const output = "docs/specification.md";

/** What the functions that register a test add to a statement. */
const kinds = { property: "", backendProperty: "", counterexample: "_Counterexample:_ " };

/** All claims of a test file: `{ id, statement, tolerance, kind, line }`. */
function claimsOf(source) {
  const claims = [];
  const visit = (node) => {
    if (ts.isCallExpression(node) && ts.isIdentifier(node.expression)) {
      const kind = node.expression.text;
      const [claim] = node.arguments;
      if (Object.hasOwn(kinds, kind))
        claims.push({ ...fieldsOf(claim, source), kind, line: lineOf(node, source) });
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return claims.toSorted((a, b) => number(a.id) - number(b.id)); // stable: the order of the file within a number
}

const number = (id) => Number(id.slice(1));

const lineOf = (node, source) =>
  source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1;

/** The texts of an object literal. */
function fieldsOf(node, source) {
  const fields = {};
  for (const { name, initializer } of node && ts.isObjectLiteralExpression(node)
    ? node.properties
    : []) {
    if (initializer && ts.isStringLiteralLike(initializer)) fields[name.text] = initializer.text;
  }
  for (const name of ["id", "statement", "tolerance"]) {
    if (fields[name] === undefined) {
      const where = `${source.fileName}:${node ? lineOf(node, source) : "?"}`;
      throw new Error(
        `${where}: the first argument must be an object literal with a string for ${name}`,
      );
    }
  }
  return fields;
}

/** The comment at the head of a file, as one paragraph. */
function headComment(text) {
  const lines = text.split("\n");
  const end = lines.findIndex((line) => !line.startsWith("//"));
  return lines
    .slice(0, end)
    .map((line) => line.replace(/^\/\/ ?/, ""))
    .join("\n");
}

/** `rope-symmetry.test.ts` as `Rope symmetry`. */
function title(file) {
  const words = file.replace(/\.test\.ts$/, "").replaceAll("-", " ");
  return words[0].toUpperCase() + words.slice(1);
}

/** Text in a table cell. Underscores stand inside of words, where they are not markup. */
const cell = (text) => text.replaceAll(/[\\|*`]/g, String.raw`\$&`);

/** A table whose columns are aligned, as the formatter leaves it. */
function table(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const line = (row) => `| ${row.map((text, column) => text.padEnd(widths[column])).join(" | ")} |`;
  const rule = `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`;
  return [line(rows[0]), rule, ...rows.slice(1).map(line)].join("\n");
}

function section(file) {
  const text = readFileSync(join(root, folder, file), "utf8");
  const claims = claimsOf(
    ts.createSourceFile(`${folder}/${file}`, text, ts.ScriptTarget.Latest, true),
  );
  if (claims.length === 0) return undefined;
  const rows = claims.map(({ id, statement, tolerance, kind, line }) => {
    const link = `[${file.replace(/\.test\.ts$/, "")}:${line}](../${folder}/${file}#L${line})`;
    return [id, kinds[kind] + cell(statement), cell(tolerance), link];
  });
  const heading = `## ${title(file)}\n\n${headComment(text)}`;
  const body = table([["number", "statement", "tolerance", "test"], ...rows]);
  return { first: number(claims[0].id), text: `${heading}\n\n${body}` };
}

const introduction = `# Specification

What the conversions and the runtime promise, one statement to a row. Each is a test that runs on random inputs, or on the
published sizes it names; the last column links to it. A number may have several tests. A counterexample shows that a premise
is needed: without it, every input that the test draws breaks the statement.

H query heads, g key and value heads, d head width, D hidden size, rep = H / g. Latent attention has a latent of width r, a
rope key of width d_r, and heads of d_n numbers without RoPE and d_v values. S is the 0/1 matrix that repeats each kv head rep
times. The f64 statements hold against an [independent implementation](../${folder}/reference/attention.ts) in plain loops; those
about models run on every backend that is present, on the CPU with relaxed instructions, without them, with two threads, and
without WebAssembly.

This file is generated: \`npm run specification\`.
`;

const sections = readdirSync(join(root, folder))
  .filter((file) => file.endsWith(".test.ts"))
  .map(section)
  .filter((found) => found !== undefined)
  .toSorted((a, b) => a.first - b.first);
const text = [introduction, ...sections.map((found) => `${found.text}\n`)].join("\n");

if (process.argv.includes("--check")) {
  let current = "";
  try {
    current = readFileSync(join(root, output), "utf8");
  } catch {
    // a missing file is out of date
  }
  if (current !== text) {
    console.error(`${output} is out of date; run: npm run specification`);
    process.exitCode = 1;
  }
} else {
  writeFileSync(join(root, output), text);
}
