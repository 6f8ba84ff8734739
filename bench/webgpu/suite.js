import { decode } from "./decode.js";
import { cases } from "./libraries.js";
import { measure } from "./measure.js";
import { markdown } from "./report.js";
/** Runs the cases in Node or in a page, and describes the results in Markdown. */
export async function suite(where, model, { wanted, tokens }, log) {
  const results = [];
  const isDecode = "decode".includes(wanted);
  const chosen = wanted === "decode" ? [] : await cases();
  for (const each of chosen.filter(({ name }) => name.includes(wanted))) {
    log(each.name);
    results.push(await measure(each));
  }
  if (isDecode) log("decode");
  return markdown(where, results, isDecode ? await decode(model, tokens) : []);
}
