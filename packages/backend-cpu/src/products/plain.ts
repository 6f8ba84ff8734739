import { isHalf } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import { asFloatMatrix, clear, transposed, type Matrix, type Unplaced } from "./matrix.ts";
import { addPacked, takePanels, type Panels } from "./packed.ts";
import type { Product } from "./product.ts";

/** Up to this many rows, packing costs more than it gains. */
const FEW = 6;

/**
 * Takes scratch for products in plain TypeScript with a right matrix of f32.
 *
 * @param memory - Where everything lies.
 * @param a - The largest left matrix.
 * @param b - The largest right matrix.
 */
export function takePlainProduct(memory: Memory, a: Unplaced, b: Unplaced): Product {
  const panels = takePanels(memory, a.rows, a.columns, b.columns);
  const wide = memory.scratch(isHalf(a.dtype) ? a.rows * a.columns : 0);
  return (left, right, out, accumulate) => {
    if (!accumulate) clear(memory, out);
    addProduct(memory.f32, panels, asFloatMatrix(memory, left, wide), right, out);
  };
}

/**
 * `c += a · b`. Sums of eight products and more are in f64 before they are added to `c`. With few rows (or columns) the
 * other matrix is read once, where it lies; larger products are packed.
 */
function addProduct(f: Float32Array, panels: Panels, a: Matrix, b: Matrix, c: Matrix): void {
  if (a.rows <= FEW && a.columnStep === 1 && b.rowStep === 1) addDots(f, a, b, c);
  else if (a.rows <= FEW && b.columnStep === 1) addCombinations(f, a, b, c);
  else if (b.columns <= FEW && a.columnStep === 1 && b.rowStep === 1) {
    addDots(f, transposed(b), transposed(a), transposed(c));
  } else addPacked(f, panels, a, b, c);
}

/** For few rows of `a` and contiguous columns of `b`: dot products with four columns at a time. */
function addDots(f: Float32Array, a: Matrix, b: Matrix, c: Matrix): void {
  const depth = a.columns;
  const whole = b.columns - (b.columns % 4);
  const step = b.columnStep;
  for (let j = 0; j < whole; j += 4) {
    const b0 = b.at + j * step;
    const b1 = b0 + step;
    const b2 = b1 + step;
    const b3 = b2 + step;
    for (let i = 0; i < a.rows; i++) {
      const x = a.at + i * a.rowStep;
      let s0 = 0;
      let s1 = 0;
      let s2 = 0;
      let s3 = 0;
      for (let p = 0; p < depth; p++) {
        const value = f[x + p]!;
        s0 += value * f[b0 + p]!;
        s1 += value * f[b1 + p]!;
        s2 += value * f[b2 + p]!;
        s3 += value * f[b3 + p]!;
      }
      const to = c.at + i * c.rowStep + j * c.columnStep;
      f[to]! += s0;
      f[to + c.columnStep]! += s1;
      f[to + 2 * c.columnStep]! += s2;
      f[to + 3 * c.columnStep]! += s3;
    }
  }
  for (let j = whole; j < b.columns; j++) {
    const column = b.at + j * step;
    for (let i = 0; i < a.rows; i++) {
      const x = a.at + i * a.rowStep;
      let sum = 0;
      for (let p = 0; p < depth; p++) sum += f[x + p]! * f[column + p]!;
      f[c.at + i * c.rowStep + j * c.columnStep]! += sum;
    }
  }
}

/** For few rows of `a` and contiguous rows of `b`: adds multiples of eight rows of `b` at a time to a row of `c`. */
function addCombinations(f: Float32Array, a: Matrix, b: Matrix, c: Matrix): void {
  const n = b.columns;
  const whole = b.rows - (b.rows % 8);
  const step = b.rowStep;
  for (let p = 0; p < whole; p += 8) {
    const b0 = b.at + p * step;
    const b1 = b0 + step;
    const b2 = b1 + step;
    const b3 = b2 + step;
    const b4 = b3 + step;
    const b5 = b4 + step;
    const b6 = b5 + step;
    const b7 = b6 + step;
    for (let i = 0; i < a.rows; i++) {
      const x = a.at + i * a.rowStep + p * a.columnStep;
      const s = a.columnStep;
      const x0 = f[x]!;
      const x1 = f[x + s]!;
      const x2 = f[x + 2 * s]!;
      const x3 = f[x + 3 * s]!;
      const x4 = f[x + 4 * s]!;
      const x5 = f[x + 5 * s]!;
      const x6 = f[x + 6 * s]!;
      const x7 = f[x + 7 * s]!;
      const to = c.at + i * c.rowStep;
      for (let j = 0; j < n; j++) {
        f[to + j] =
          f[to + j]! +
          (x0 * f[b0 + j]! + x1 * f[b1 + j]! + x2 * f[b2 + j]! + x3 * f[b3 + j]!) +
          (x4 * f[b4 + j]! + x5 * f[b5 + j]! + x6 * f[b6 + j]! + x7 * f[b7 + j]!);
      }
    }
  }
  for (let p = whole; p < b.rows; p++) {
    const row = b.at + p * step;
    for (let i = 0; i < a.rows; i++) {
      const x = f[a.at + i * a.rowStep + p * a.columnStep]!;
      const to = c.at + i * c.rowStep;
      for (let j = 0; j < n; j++) f[to + j]! += x * f[row + j]!;
    }
  }
}
