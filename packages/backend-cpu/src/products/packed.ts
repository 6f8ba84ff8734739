import type { Memory } from "../memory.ts";
import { part, transposed, type Matrix } from "./matrix.ts";

/** Rows of the left matrix in one packed block. The blocks of both matrices fit the second-level cache. */
const BLOCK_ROWS = 96;
/** The inner size of one packed block. */
const BLOCK_DEPTH = 256;
/** Columns of the right matrix in one packed block. */
const BLOCK_COLUMNS = 512;
/** The register tile: 4 rows by 4 columns. */
const TILE = 4;

/** Where packed blocks lie, as indices into f32. */
export interface Panels {
  /** A block of the left matrix, in groups of four rows. */
  readonly left: number;
  /** A block of the right matrix, in groups of four columns. */
  readonly right: number;
  /** A tile at the lower or right edge. */
  readonly tile: number;
}

const toTiles = (size: number): number => Math.ceil(size / TILE) * TILE;

/**
 * Takes scratch for {@link addPacked}.
 *
 * @param memory - Where.
 * @param rows - The most rows of a left matrix.
 * @param depth - The largest inner size.
 * @param columns - The most columns of a right matrix.
 */
export function takePanels(memory: Memory, rows: number, depth: number, columns: number): Panels {
  const deep = Math.min(depth, BLOCK_DEPTH);
  return {
    left: memory.scratch(Math.min(toTiles(rows), BLOCK_ROWS) * deep),
    right: memory.scratch(Math.min(toTiles(columns), BLOCK_COLUMNS) * deep),
    tile: memory.scratch(TILE * TILE),
  };
}

/**
 * `c += a · b` by packed panels and a register tile of 4 by 4 (Goto & van de Geijn 2008), the sums in f64.
 *
 * @param f - The memory.
 * @param panels - Scratch for the sizes at hand.
 * @param a - `[m, k]`.
 * @param b - `[k, n]`.
 * @param c - `[m, n]`, apart from `a` and `b`; its columns follow one another.
 */
export function addPacked(f: Float32Array, panels: Panels, a: Matrix, b: Matrix, c: Matrix): void {
  const [m, k, n] = [a.rows, a.columns, b.columns];
  for (let j = 0; j < n; j += BLOCK_COLUMNS) {
    const columns = Math.min(BLOCK_COLUMNS, n - j);
    for (let p = 0; p < k; p += BLOCK_DEPTH) {
      const depth = Math.min(BLOCK_DEPTH, k - p);
      pack(f, transposed(part(b, p, depth, j, columns)), panels.right);
      for (let i = 0; i < m; i += BLOCK_ROWS) {
        const rows = Math.min(BLOCK_ROWS, m - i);
        pack(f, part(a, i, rows, p, depth), panels.left);
        addBlock(f, panels, depth, part(c, i, rows, j, columns));
      }
    }
  }
}

/** Writes rows in groups of four, the four elements of a column together; rows that are missing become zeros. */
function pack(f: Float32Array, x: Matrix, to: number): void {
  const { rows, columns, rowStep, columnStep } = x;
  const whole = rows - (rows % TILE);
  let target = to;
  for (let i = 0; i < whole; i += TILE) {
    let source = x.at + i * rowStep;
    for (let p = 0; p < columns; p++, source += columnStep, target += TILE) {
      f[target] = f[source]!;
      f[target + 1] = f[source + rowStep]!;
      f[target + 2] = f[source + 2 * rowStep]!;
      f[target + 3] = f[source + 3 * rowStep]!;
    }
  }
  if (whole === rows) return;
  f.fill(0, target, target + TILE * columns);
  for (let i = whole; i < rows; i++) {
    const source = x.at + i * rowStep;
    for (let p = 0; p < columns; p++) {
      f[target + p * TILE + (i - whole)] = f[source + p * columnStep]!;
    }
  }
}

/** Multiplies a packed block of rows by a packed block of columns. */
function addBlock(f: Float32Array, { left, right, tile }: Panels, depth: number, c: Matrix): void {
  for (let j = 0; j < c.columns; j += TILE) {
    for (let i = 0; i < c.rows; i += TILE) {
      const to = c.at + i * c.rowStep + j;
      const [height, width] = [Math.min(TILE, c.rows - i), Math.min(TILE, c.columns - j)];
      if (height === TILE && width === TILE) {
        addTile(f, left + i * depth, right + j * depth, depth, to, c.rowStep);
        continue;
      }
      f.fill(0, tile, tile + TILE * TILE);
      addTile(f, left + i * depth, right + j * depth, depth, tile, TILE);
      for (let r = 0; r < height; r++) {
        for (let s = 0; s < width; s++) f[to + r * c.rowStep + s]! += f[tile + r * TILE + s]!;
      }
    }
  }
}

/** The register tile: 16 sums of `depth` products in f64, added to four rows of `c`. */
function addTile(
  f: Float32Array,
  a: number,
  b: number,
  depth: number,
  c: number,
  rowStep: number,
): void {
  let c00 = 0;
  let c01 = 0;
  let c02 = 0;
  let c03 = 0;
  let c10 = 0;
  let c11 = 0;
  let c12 = 0;
  let c13 = 0;
  let c20 = 0;
  let c21 = 0;
  let c22 = 0;
  let c23 = 0;
  let c30 = 0;
  let c31 = 0;
  let c32 = 0;
  let c33 = 0;
  let left = a;
  let right = b;
  for (let p = 0; p < depth; p++) {
    const b0 = f[right]!;
    const b1 = f[right + 1]!;
    const b2 = f[right + 2]!;
    const b3 = f[right + 3]!;
    const a0 = f[left]!;
    c00 += a0 * b0;
    c01 += a0 * b1;
    c02 += a0 * b2;
    c03 += a0 * b3;
    const a1 = f[left + 1]!;
    c10 += a1 * b0;
    c11 += a1 * b1;
    c12 += a1 * b2;
    c13 += a1 * b3;
    const a2 = f[left + 2]!;
    c20 += a2 * b0;
    c21 += a2 * b1;
    c22 += a2 * b2;
    c23 += a2 * b3;
    const a3 = f[left + 3]!;
    c30 += a3 * b0;
    c31 += a3 * b1;
    c32 += a3 * b2;
    c33 += a3 * b3;
    left += TILE;
    right += TILE;
  }
  addFour(f, c, c00, c01, c02, c03);
  addFour(f, c + rowStep, c10, c11, c12, c13);
  addFour(f, c + 2 * rowStep, c20, c21, c22, c23);
  addFour(f, c + 3 * rowStep, c30, c31, c32, c33);
}

function addFour(
  f: Float32Array,
  at: number,
  x0: number,
  x1: number,
  x2: number,
  x3: number,
): void {
  f[at]! += x0;
  f[at + 1]! += x1;
  f[at + 2]! += x2;
  f[at + 3]! += x3;
}
