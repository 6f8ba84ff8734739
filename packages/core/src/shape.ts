/** The size of each axis, outermost first. */
export type Shape = readonly number[];

/**
 * How many elements a shape holds.
 *
 * @param shape - Sizes; `[]` is a scalar and holds one element.
 */
export function sizeOf(shape: Shape): number {
  return shape.reduce((product, size) => product * size, 1);
}

/**
 * Row-major strides, in elements.
 *
 * @param shape - Sizes, outermost first.
 */
export function denseStrides(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = step;
    step *= shape[axis]!;
  }
  return strides;
}

/**
 * The shape that two shapes broadcast to by NumPy's rules, or `null` when they do not.
 *
 * @param a - One shape.
 * @param b - The other.
 */
export function broadcast(a: Shape, b: Shape): number[] | null {
  const rank = Math.max(a.length, b.length);
  const out = new Array<number>(rank);
  for (let axis = 0; axis < rank; axis++) {
    const x = a[a.length - rank + axis] ?? 1;
    const y = b[b.length - rank + axis] ?? 1;
    if (x !== y && x !== 1 && y !== 1) return null;
    out[axis] = x === 1 ? y : x;
  }
  return out;
}

/**
 * Whether strides are those of a dense row-major block. Strides of axes of size 1 do not matter, and none do in an empty one.
 *
 * @param shape - Sizes.
 * @param strides - Steps in elements.
 */
export function isDense(shape: Shape, strides: readonly number[]): boolean {
  if (shape.includes(0)) return true;
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== step) return false;
    step *= shape[axis]!;
  }
  return true;
}

/** Axes of equal extent in all operands, merged where every operand steps through them evenly. */
export interface CollapsedAxes {
  /** The merged sizes. */
  readonly shape: number[];
  /** For each operand, the step of each merged axis. */
  readonly strides: number[][];
}

/**
 * Merges neighbouring axes that every operand walks as one and drops axes of size 1, so that kernels see few axes.
 *
 * @param shape - The common shape.
 * @param strides - The strides of each operand, 0 where it is broadcast.
 */
export function collapse(shape: Shape, strides: readonly (readonly number[])[]): CollapsedAxes {
  const out: CollapsedAxes = { shape: [], strides: strides.map(() => []) };
  for (let axis = 0; axis < shape.length; axis++) {
    const size = shape[axis]!;
    if (size === 1) continue;
    const last = out.shape.length - 1;
    const joins = last >= 0 && strides.every((of, i) => out.strides[i]![last] === of[axis]! * size);
    if (joins) {
      out.shape[last] = out.shape[last]! * size;
      strides.forEach((of, i) => (out.strides[i]![last] = of[axis]!));
    } else {
      out.shape.push(size);
      strides.forEach((of, i) => out.strides[i]!.push(of[axis]!));
    }
  }
  return out;
}
