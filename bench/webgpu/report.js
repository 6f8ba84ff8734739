const milliseconds = (ms) => (ms < 10 ? ms.toFixed(3) : ms.toFixed(1));
/** Tables in Markdown: a line for each case and library; ratios are times relative to this library's. */
export function markdown(where, results, decode) {
  const lines = [
    `## WebGPU, ${where}`,
    "",
    "| case | library | first call, ms | fastest, ms | median, ms | GFLOP/s | fastest relative to transmla |",
    "| --- | --- | --- | --- | --- | --- | --- |",
  ];
  for (const { name, operations, timings } of results) {
    for (const [library, { first, fastest, median }] of Object.entries(timings)) {
      const rate = operations === undefined ? "" : (operations / fastest / 1e6).toFixed(2);
      const ratio = (fastest / timings["transmla"].fastest).toFixed(2);
      const times = [first, fastest, median].map(milliseconds);
      lines.push(`| ${[name, library, ...times, rate, ratio].join(" | ")} |`);
    }
  }
  lines.push(
    "",
    "| decoding | tokens/s | submits per token | dispatches per token | bytes read per token | bytes written per token | live bytes before, after | device bytes after 1/5, all |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
  );
  for (const result of decode) {
    const [before, after, early, late] = result.memory;
    const counts = [
      result.tokensPerSecond.toFixed(1),
      result.submitsPerToken.toFixed(2),
      result.dispatchesPerToken.toFixed(1),
      result.bytesReadPerToken.toFixed(0),
      result.bytesWrittenPerToken.toFixed(0),
    ];
    lines.push(
      `| ${[result.form, ...counts, `${before}, ${after}`, `${early}, ${late}`].join(" | ")} |`,
    );
  }
  return `${lines.join("\n")}\n`;
}
