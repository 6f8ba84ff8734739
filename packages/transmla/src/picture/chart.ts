import { linearScale, logScale } from "./scale.ts";

// Line charts as SVG that stands alone: it follows the colour scheme of its reader, names its lines in words at their
// ends, and marks them with shapes besides colours.

/** A line of a chart. */
export interface Series {
  /** What it shows; written beside it. */
  readonly name: string;
  /** From left to right. */
  readonly points: readonly (readonly [x: number, y: number])[];
  /** Whether only the line is drawn, without a mark at each point, as of many points. */
  readonly plain?: boolean;
}

/** A chart of lines over one pair of axes. */
export interface Chart {
  /** Written above it. */
  readonly title: string;
  /** What the horizontal axis measures. */
  readonly x: string;
  /** What the vertical axis measures. */
  readonly y: string;
  /** Whether the vertical axis is logarithmic. */
  readonly logarithmic?: boolean;
  /** The lines. */
  readonly series: readonly Series[];
}

const WIDTH = 460;
const HEIGHT = 340;
const LEFT = 58;
const RIGHT = WIDTH - 16;
const BOTTOM = HEIGHT - 46;
/** Height of a row of the legend, below the title. */
const LEGEND_ROW = 18;

/** Where numbers lie in a chart. */
interface Frame {
  x(value: number): number;
  y(value: number): number;
}

/** Colours on white and on black that differ in lightness too; a seventh series starts again. */
const colours = [
  ["#1f6feb", "#6cb0ff"],
  ["#bc4c00", "#ffa657"],
  ["#1a7f37", "#56d364"],
  ["#8250df", "#d2a8ff"],
  ["#57606a", "#b1bac4"],
  ["#bf3989", "#ff9bce"],
] as const;

const style = `
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 14px }
.grid { stroke: #d0d7de; stroke-width: 1 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }
.page { fill: #ffffff }
${colours.map(([light], i) => `.s${i} { stroke: ${light} } .f${i} { fill: ${light} }`).join("\n")}
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .grid { stroke: #3d444d }
  .page { fill: #0d1117 }
${colours.map(([, dark], i) => `  .s${i} { stroke: ${dark} } .f${i} { fill: ${dark} }`).join("\n")}
}`;

/**
 * Draws charts beside each other, two in a row.
 *
 * @param charts - At least one.
 * @returns The text of an `.svg` file.
 *
 * @example
 * ```ts
 * import { drawCharts } from "transmla";
 * const series = [{ name: "default", points: [[96, 0.06], [128, 0.01]] as const }];
 * const svg = drawCharts([{ title: "Quality", x: "cached numbers", y: "KL", series }]);
 * console.log(svg.startsWith("<svg")); // => true
 * ```
 */
export function drawCharts(charts: readonly Chart[]): string {
  const columns = Math.min(charts.length, 2);
  const [width, height] = [columns * WIDTH, Math.ceil(charts.length / columns) * HEIGHT];
  const drawn = charts.map((chart, i) => {
    const at = `translate(${(i % columns) * WIDTH} ${Math.floor(i / columns) * HEIGHT})`;
    return `<g transform="${at}">\n${drawChart(chart)}\n</g>`;
  });
  const title = charts.map((chart) => chart.title).join("; ");
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escape(title)}">`,
    `<style>${style}\n</style>`,
    `<rect class="page" width="${width}" height="${height}"/>`,
    ...drawn,
    "</svg>\n",
  ].join("\n");
}

function drawChart({ title, x, y, logarithmic, series }: Chart): string {
  const points = series.flatMap((line) => line.points);
  const xs = linearScale(points.map(([at]) => at));
  const ys = (logarithmic ? logScale : linearScale)(points.map(([, value]) => value));
  const { names, rows } = legend(series);
  const top = 44 + LEGEND_ROW * rows;
  const frame: Frame = {
    x: (value) => round(LEFT + xs.place(value) * (RIGHT - LEFT)),
    y: (value) => round(BOTTOM - ys.place(value) * (BOTTOM - top)),
  };
  return [
    text(LEFT, 20, title, 'class="title"'),
    ...names,
    text(LEFT, top - 8, y),
    text((LEFT + RIGHT) / 2, HEIGHT - 8, x, 'text-anchor="middle"'),
    ...xs.ticks.map((tick) =>
      text(frame.x(tick), BOTTOM + 18, label(tick), 'text-anchor="middle"'),
    ),
    ...ys.ticks.flatMap((tick) => [
      `<line class="grid" x1="${LEFT}" x2="${RIGHT}" y1="${frame.y(tick)}" y2="${frame.y(tick)}"/>`,
      text(LEFT - 6, frame.y(tick) + 4, label(tick), 'text-anchor="end"'),
    ]),
    ...series.map((line, i) => drawSeries(line, i % colours.length, frame)),
  ].join("\n");
}

function drawSeries({ points, plain }: Series, index: number, frame: Frame): string {
  const places = points
    .map(([at, value]) => [frame.x(at), frame.y(value)] as const)
    .filter(([, y]) => Number.isFinite(y));
  const path = places.map(([x, y], i) => `${i === 0 ? "M" : "L"}${x} ${y}`).join(" ");
  const marks = plain ? [] : places.map(([x, y]) => mark(index, x, y));
  return [`<path class="line s${index}" d="${path}"/>`, ...marks].join("\n");
}

/** A mark whose shape says which series it belongs to. */
function mark(index: number, x: number, y: number): string {
  const shapes = [
    `<circle cx="${x}" cy="${y}" r="4.5"`,
    `<rect x="${x - 4}" y="${y - 4}" width="8" height="8"`,
    `<path d="M${x} ${y - 5.5} l5.5 9.5 h-11 z"`,
    `<path d="M${x} ${y - 6} l6 6 l-6 6 l-6 -6 z"`,
  ];
  return `${shapes[index % shapes.length]!} class="f${index}"/>`;
}

/** Names of the series in rows under the title. */
function legend(series: readonly Series[]): { readonly names: string[]; readonly rows: number } {
  let [x, rows] = [LEFT, 1];
  const names = series.map(({ name }, i) => {
    const width = 28 + 7 * name.length; // about that of the text and its mark
    if (x > LEFT && x + width > RIGHT) [x, rows] = [LEFT, rows + 1];
    const y = 20 + LEGEND_ROW * rows;
    const drawn = `${mark(i % colours.length, x + 5, y - 4)}${text(x + 15, y, name)}`;
    x += width;
    return drawn;
  });
  return { names, rows };
}

const round = (x: number): number => Math.round(x * 100) / 100;

/** A number of an axis: as short as it can be said. */
const label = (value: number): string => {
  const plain = Number(value.toPrecision(3));
  return plain !== 0 && (Math.abs(plain) < 1e-3 || Math.abs(plain) >= 1e5)
    ? plain.toExponential(0)
    : String(plain);
};

function text(x: number, y: number, content: string, attributes = ""): string {
  return `<text x="${round(x)}" y="${round(y)}"${attributes && ` ${attributes}`}>${escape(content)}</text>`;
}

const escape = (content: string): string =>
  content
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
