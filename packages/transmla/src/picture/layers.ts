import type { LayerReport } from "../convert/latent/method.ts";
import { drawCharts, type Series } from "./chart.ts";

/** Spectra in one chart, of layers that are spread evenly. */
const SPECTRA = 5;

/** Smaller parts of the largest eigenvalue are rounding. */
const LEAST_EIGENVALUE = 1e-8;

/**
 * Draws the errors of all layers, and eigenvalue spectra of some.
 *
 * @param layers - In order, at least one.
 */
export function drawLayers(layers: readonly LayerReport[]): string {
  const errors = (name: string, of: (layer: LayerReport) => number | undefined): Series => ({
    name,
    points: layers.flatMap((layer) => {
      const error = of(layer);
      return error === undefined ? [] : [[layer.layer, error] as const];
    }),
  });
  const before = errors("with the old o_proj", ({ errorBefore }) => errorBefore);
  const count = Math.min(SPECTRA, layers.length);
  const shown = Array.from(
    { length: count },
    (_, i) => layers[Math.round((i * (layers.length - 1)) / Math.max(count - 1, 1))]!,
  );
  return drawCharts([
    {
      title: "Error of the attention output",
      x: "layer",
      y: "relative squared error",
      logarithmic: true,
      series: [
        errors("of the result", ({ error }) => error),
        ...(before.points.length > 0 ? [before] : []),
      ],
    },
    {
      title: "Eigenvalues of keys and values",
      x: "component",
      y: "share of the largest",
      logarithmic: true,
      series: shown.map(({ layer, eigenvalues }) => ({
        name: `layer ${layer}`,
        plain: true,
        points: [...eigenvalues]
          .map((value, i) => [i + 1, value / eigenvalues[0]!] as const)
          .filter(([, share]) => share > LEAST_EIGENVALUE),
      })),
    },
  ]);
}
