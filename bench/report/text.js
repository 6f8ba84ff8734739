import { cells, heads, verdict } from "./format.js";

/** Prints a case as a table in columns. */
export function printCase(measured) {
  const lines = [[measured.title, ...heads.slice(1)], ...cells(measured)];
  const widths = heads.map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  const show = (line) =>
    line
      .map((cell, column) =>
        column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column]),
      )
      .join("  ");
  console.log(`\n${lines.map(show).join("\n")}`);
  for (const goal of measured.goals) console.log(`  ${verdict(goal)}`);
}
