/** Rounds of a case: as many as fit the time. */
const ROUNDS = { least: 3, most: 9, milliseconds: 5000 };
async function timed(operation) {
  const start = performance.now();
  await operation();
  return performance.now() - start;
}
/** Results are checked before anything is timed. */
function requireAgreement(name, values) {
  const [expected, ...others] = values.values();
  if (others.every((value) => Math.abs(value - expected) <= 1e-3 * Math.max(1, Math.abs(expected))))
    return;
  throw new Error(`${name}: the libraries differ: ${JSON.stringify(Object.fromEntries(values))}`);
}

/** Runs a case: the libraries take turns, so that all of them meet the same moments of the machine. */
export async function measure({ name, operations, libraries }) {
  const runs = Object.entries(libraries);
  const first = new Map();
  const times = new Map(runs.map(([library]) => [library, []]));
  const values = new Map();
  for (const [library, run] of runs) {
    first.set(library, await timed(async () => values.set(library, await run(true))));
  }
  requireAgreement(name, values);
  const start = performance.now();
  const isOver = (round) =>
    round >= ROUNDS.least && performance.now() - start > ROUNDS.milliseconds;
  for (let round = 0; round < ROUNDS.most && !isOver(round); round++) {
    for (const [library, run] of runs) times.get(library).push(await timed(run));
  }
  const timings = runs.map(([library]) => {
    const sorted = times.get(library).toSorted((x, y) => x - y);
    const [fastest, median] = [sorted[0], sorted[Math.floor(sorted.length / 2)]];
    return [library, { first: first.get(library), fastest, median }];
  });
  return { name, operations, timings: Object.fromEntries(timings) };
}
