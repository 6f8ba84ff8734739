import { fc, test as prop } from "@fast-check/vitest";
import { describe, expect, test } from "vitest";

import { createStopMatcher } from "../../src/generate/stop.ts";

/** What comes out of pieces, with the text that each push gave. */
function run(stops: readonly string[], pieces: readonly string[]) {
  const matcher = createStopMatcher(stops);
  const given: string[] = [];
  for (const piece of pieces) {
    const { text, stopped } = matcher.push(piece);
    given.push(text);
    if (stopped) return { given, text: given.join(""), stopped };
  }
  given.push(matcher.end());
  return { given, text: given.join(""), stopped: false };
}

/** Few letters, so that texts and stop texts overlap in many ways. */
const letters = (minLength: number, maxLength: number): fc.Arbitrary<string> =>
  fc.string({ unit: fc.constantFrom("a", "b", "🙂"), minLength, maxLength });

prop.prop([fc.array(letters(1, 5), { maxLength: 4 }), fc.array(letters(0, 4), { maxLength: 20 })], {
  numRuns: 2000,
})("equals indexOf on the whole text, for any split", (stops, pieces) => {
  const whole = pieces.join("");
  const found = stops.map((stop) => whole.indexOf(stop)).filter((i) => i >= 0);
  const expected = found.length > 0 ? whole.slice(0, Math.min(...found)) : whole;
  expect(run(stops, pieces).text).toBe(expected);
});

prop.prop([fc.array(letters(1, 5), { maxLength: 3 }), letters(0, 30)], { numRuns: 500 })(
  "holds back just the longest end that may become a stop text",
  (stops, whole) => {
    const matcher = createStopMatcher(stops);
    const mayBecome = (end: string): boolean =>
      stops.some((stop) => stop.length > end.length && stop.startsWith(end));
    let given = 0;
    for (let n = 1; n <= whole.length; n++) {
      const { text, stopped } = matcher.push(whole.slice(n - 1, n));
      if (stopped) return;
      given += text.length;
      let held = 0;
      while (held < n && !mayBecome(whole.slice(held, n))) held++;
      expect(given).toBe(held);
    }
  },
);

describe("examples", () => {
  test("text before, inside and after a stop text", () => {
    expect(run(["\n\n", "User:"], ["Hello\n", "User", ": more"])).toEqual({
      given: ["Hello", "\n", ""],
      text: "Hello\n",
      stopped: true,
    });
  });

  test("an end that does not become a stop text comes out", () => {
    expect(run(["aab"], ["a", "a", "a", "c"]).given).toEqual(["", "", "a", "aac", ""]);
    expect(run(["aab"], ["xa"]).given).toEqual(["x", "a"]);
  });

  test("a stop text waits for one that began before it", () => {
    expect(run(["c", "abcd"], ["abc", "d"])).toMatchObject({ text: "", stopped: true });
    expect(run(["c", "abcd"], ["abc", "x"])).toMatchObject({ text: "ab", stopped: true });
    expect(run(["c", "abcd"], ["abc"])).toMatchObject({ text: "ab", stopped: false });
  });

  test("nothing comes after a stop text", () => {
    const matcher = createStopMatcher(["b"]);
    expect(matcher.push("abc")).toEqual({ text: "a", stopped: true });
    expect(matcher.push("d")).toEqual({ text: "", stopped: true });
    expect(matcher.end()).toBe("");
  });

  test("without stop texts everything passes at once", () => {
    expect(run([], ["a", "", "b"]).given).toEqual(["a", "", "b", ""]);
  });

  test("an empty stop text is refused", () => {
    expect(() => createStopMatcher(["a", ""])).toThrow("generate: stop text 1 is empty");
  });
});
