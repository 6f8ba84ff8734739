// Measures one table: `run.js` starts it.
import { Bench, ownName } from "./bench.js";
import { holds } from "./goals.js";
import { measure, resultOf } from "./harness.js";
import { conditions } from "./report/conditions.js";
import { writeDocument } from "./report/document.js";
import { printCase } from "./report/text.js";

const options = JSON.parse(process.argv[2]);
const table = await import(`./tables/${options.name}.js`);
const bench = new Bench(options);
console.log(`\n${table.title}\n${conditions()}`);

const measured = [];
for await (const work of table.cases(bench)) {
  const contenders = [];
  for (const contender of await Promise.all(work.contenders)) {
    try {
      if (work.check) work.check(await resultOf(contender), contender);
      contenders.push(contender);
    } catch (error) {
      if (contender.who === ownName) throw error;
      bench.remarks.add(`${work.title} without ${contender.who}: ${error.message}`);
    }
  }
  const figures = await measure(contenders, bench.effort);
  const rows = contenders.map(({ who, label = who }) => ({ who, label, figure: figures.get(who) }));
  const goals = work.goals.flatMap((goal) => {
    const ratio = goal.ratio(figures, ownName);
    return ratio === undefined ? [] : { ...goal, value: ratio, holds: holds(goal, ratio) };
  });
  for (const contender of contenders) await contender.dispose?.();
  const result = { title: work.title, rate: work.rate, rows, goals };
  printCase(result);
  measured.push(result);
}
for (const remark of bench.remarks) console.log(remark);
bench.dispose();
if (options.write) {
  const remarks = [...bench.remarks];
  const [name, title] = options.revectorize
    ? [`${options.name}-revectorized`, `${table.title}, vectors joined in pairs`]
    : [options.name, table.title];
  writeDocument({ name, title, node: bench.node, remarks, measured });
}
// Some peers keep the process alive.
process.exit(0);
