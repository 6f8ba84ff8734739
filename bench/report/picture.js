import { ownName } from "../bench.js";
import { advantage, digits, duration, speed } from "./format.js";

// Horizontal bars, the longer the faster; this library's in colour. The picture follows the reader's colour scheme.

const WIDTH = 760;
const LEFT = 190;
const BAR = 300;
const ROW = 20;
const HEAD = 34;

const style = `
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 14px }
.case { font-weight: 600 }
.page { fill: #ffffff }
.own { fill: #1f6feb }
.peer { fill: #afb8c1 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .page { fill: #0d1117 }
  .own { fill: #6cb0ff }
  .peer { fill: #57606a }
}`;

const escaped = (text) =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** The text of an SVG file with a group of bars for each case. */
export function drawBars(title, cases) {
  let y = 28;
  const parts = [text(16, y, title, "title")];
  for (const { title: name, rows, rate } of cases) {
    y += HEAD;
    parts.push(text(16, y, name, "case"));
    const fastest = Math.min(...rows.map(({ figure }) => figure.median));
    for (const row of rows.toSorted((a, b) => a.figure.median - b.figure.median)) {
      y += ROW;
      const { median } = row.figure;
      const isOwn = row.who === ownName;
      const width = Math.max(1, (BAR * fastest) / median).toFixed(1);
      parts.push(
        text(LEFT - 8, y, row.label, "", "end"),
        `<rect class="${isOwn ? "own" : "peer"}" x="${LEFT}" y="${y - 12}" width="${width}" height="14" rx="2"/>`,
      );
      const ratio = advantage(rows, row);
      const relation = isOwn || ratio === undefined ? "" : ` (${digits(ratio)} times our time)`;
      const value = speed(rate, median) || duration(median);
      parts.push(text(LEFT + Number(width) + 8, y, `${value}${relation}`));
    }
  }
  const height = y + 20;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escaped(title)}">
<style>${style}
</style>
<rect class="page" width="${WIDTH}" height="${height}"/>
${parts.join("\n")}
</svg>
`;
}

function text(x, y, content, kind = "", anchor = "start") {
  const named = kind && ` class="${kind}"`;
  return `<text x="${x}" y="${y}" text-anchor="${anchor}"${named}>${escaped(content)}</text>`;
}
