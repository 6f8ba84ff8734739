import { describe, expect, test } from "vitest";

import { drawCharts } from "../../src/picture/chart.ts";
import { drawLayers } from "../../src/picture/layers.ts";
import { linearScale, logScale } from "../../src/picture/scale.ts";

describe("axes", () => {
  test.each([
    [[0.3], [0, 0.1, 0.2, 0.3]],
    [
      [96, 288],
      [0, 100, 200, 300],
    ],
    [[0], [0]],
  ])("linear, %j", (values, ticks) => {
    const scale = linearScale(values);
    ticks.forEach((tick, i) => expect(scale.ticks[i]).toBeCloseTo(tick));
    expect(scale.place(0)).toBe(0);
    for (const value of values) expect(scale.place(value)).toBeLessThanOrEqual(1);
  });

  test.each([[[0.04, 0.9]], [[1e-8, 1]], [[3, 3]], [[20, 70]], [[0.5, 0, -1]]])(
    "logarithmic, %j",
    (values) => {
      const scale = logScale(values);
      expect(scale.ticks.length).toBeGreaterThan(1);
      expect(scale.ticks.length).toBeLessThanOrEqual(8);
      for (const value of values.filter((x) => x > 0)) {
        expect(scale.place(value)).toBeGreaterThanOrEqual(0);
        expect(scale.place(value)).toBeLessThanOrEqual(1 + 1e-12);
      }
    },
  );

  test("a number that is not positive has no place on a logarithmic axis", () => {
    expect(logScale([1, 10]).place(0)).toBe(Number.NEGATIVE_INFINITY);
  });
});

describe("a picture", () => {
  const chart = {
    title: "A < B & C",
    x: "x",
    y: "y",
    series: [
      { name: "first", points: [[1, 2] as const, [2, 1] as const] },
      { name: "second", points: [[1, 1] as const], plain: true },
    ],
  };

  test("holds names, marks, colours of both schemes, and nothing that is not a number", () => {
    const svg = drawCharts([chart, { ...chart, logarithmic: true }]);
    expect(svg).toContain("A &lt; B &amp; C");
    expect(svg).toContain("prefers-color-scheme: dark");
    expect(svg.match(/>first</g)).toHaveLength(2);
    expect(svg.match(/<circle/g)).toHaveLength(2 * 3); // two points and one in the legend
    expect(svg).not.toMatch(/NaN|Infinity|undefined/);
  });

  test("a legend that is too wide goes on below", () => {
    const names = Array.from({ length: 6 }, (_, i) => `a model of a long name ${i}`);
    const series = names.map((name) => ({ name, points: [[1, 1] as const] }));
    const places = [
      ...drawCharts([{ ...chart, series }]).matchAll(/<text x="73" y="(\d+)">a model/g),
    ];
    expect(places.length).toBeGreaterThan(1);
    expect(new Set(places.map(([, y]) => y)).size).toBe(places.length);
  });

  test("of layers: errors and the spectra of five of them", () => {
    const eigenvalues = Float64Array.of(4, 2, 1, 1e-12);
    const layers = Array.from({ length: 12 }, (_, layer) => {
      return { layer, errorBefore: 0.2, error: 0.1, eigenvalues };
    });
    const svg = drawLayers(layers);
    expect(svg.match(/>layer \d+</g)).toEqual([
      ">layer 0<",
      ">layer 3<",
      ">layer 6<",
      ">layer 8<",
      ">layer 11<",
    ]);
    expect(svg).not.toMatch(/NaN|Infinity|undefined/);
  });
});
