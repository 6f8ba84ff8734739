import type { GpuOperand } from "../gpu.ts";
import { factorPanel, PANEL, type Factored } from "./shaders/panel.ts";
import { applyReflectors } from "./shaders/reflect.ts";
import type { Workspace } from "./workspace.ts";

/**
 * QR by Householder reflections, in place, a panel of columns at a time.
 *
 * @param workspace - Where.
 * @param columns - `[columns, rows]`: a multiple of {@link PANEL} columns, each of a multiple of 4 entries.
 */
export function factor(workspace: Workspace, columns: GpuOperand): Factored {
  const [count, length] = columns.shape as [number, number];
  const reflectors = workspace.take(count, length);
  const factored = { columns, reflectors, triangles: workspace.take(count, PANEL) };
  for (let first = 0; first < Math.min(count, length); first += PANEL) {
    factorPanel(workspace, factored, first);
    const reflection = { columns, from: first + PANEL, inverse: true };
    applyReflectors(workspace, factored, first, reflection);
  }
  return factored;
}

/**
 * Multiplies columns by Q, in place.
 *
 * @param workspace - Where.
 * @param factored - From {@link factor}.
 * @param columns - Of the shape that was factored.
 */
export function multiplyByQ(workspace: Workspace, factored: Factored, columns: GpuOperand): void {
  const panels = Math.ceil(Math.min(...columns.shape) / PANEL);
  for (let panel = panels - 1; panel >= 0; panel--) {
    const reflection = { columns, from: 0, inverse: false };
    applyReflectors(workspace, factored, panel * PANEL, reflection);
  }
}
