/**
 * A rectangular window onto an array, with a stride for each direction, so that a transpose is a
 * window too. It does not own its data.
 */
export interface Block {
  /** What the block is a part of. */
  readonly data: Float64Array;
  /** Index of entry (0, 0). */
  readonly offset: number;
  /** The number of rows. */
  readonly rows: number;
  /** The number of columns. */
  readonly cols: number;
  /** Distance from entry (i, j) to entry (i + 1, j). */
  readonly rowStride: number;
  /** Distance from entry (i, j) to entry (i, j + 1). */
  readonly colStride: number;
}

/**
 * The kernels that the factorisations spend their time in. A backend may supply its own; every
 * factorisation takes one in its options and falls back to {@link plainBlas}.
 */
export interface Blas {
  /**
   * Runs a function that may call {@link allocate}; what it was given is taken back when it returns or
   * throws. A backend sets memory aside here that its kernels reach without a copy. Inside of another
   * call this is a part of that one.
   *
   * @param length - About how many entries the body allocates.
   * @param body - Synchronous; no allocated entry is in its result.
   */
  withStorage<T>(length: number, body: () => T): T;

  /**
   * Makes working storage, zero-filled, inside of {@link withStorage}.
   *
   * @param length - Number of f64 entries.
   */
  allocate(length: number): Float64Array;

  /**
   * Computes `c <- alpha a b + beta c`. With `beta` 0 the old value of `c` is not read, not even NaN.
   * `c` shares no entry with `a` or `b`. Sizes may be 0. Products with one column matter as much as
   * large ones: they are half of the work of a reduction to tridiagonal or bidiagonal form.
   *
   * @param alpha - Factor of the product.
   * @param a - Left factor, `[m, k]`.
   * @param b - Right factor, `[k, n]`.
   * @param beta - Factor of the old value of `c`.
   * @param c - Result, `[m, n]`.
   */
  gemm(alpha: number, a: Block, b: Block, beta: number, c: Block): void;

  /**
   * Computes `y <- y + a x` and `v <- v + aᵀ u` in one pass over `a`: half of what a product with a
   * symmetric matrix reads otherwise. All rows of `a` and all vectors, which are columns, are contiguous;
   * `y` and `v` share no entry with another operand.
   *
   * @param a - Matrix, `[m, n]`.
   * @param x - Vector, `[n, 1]`.
   * @param y - Result, `[m, 1]`.
   * @param u - Vector, `[m, 1]`.
   * @param v - Result, `[n, 1]`.
   */
  multiplyBoth(a: Block, x: Block, y: Block, u: Block, v: Block): void;
}

/** What every factorisation accepts. */
export interface LinalgOptions {
  /** Kernels to compute with; {@link plainBlas} when absent. */
  readonly blas?: Blas | undefined;
}

/** A window onto rows of `stride` entries that lie one after another. */
export function block(
  data: Float64Array,
  rows: number,
  cols: number,
  offset = 0,
  stride: number = cols,
): Block {
  return { data, offset, rows, cols, rowStride: stride, colStride: 1 };
}

/** The transpose of a window: the same entries, strides exchanged. */
export function transposed(a: Block): Block {
  const { data, offset, rows, cols, rowStride, colStride } = a;
  return { data, offset, rows: cols, cols: rows, rowStride: colStride, colStride: rowStride };
}

/** The part of a window that starts at (`row`, `col`). */
export function part(a: Block, row: number, col: number, rows: number, cols: number): Block {
  const { data, rowStride, colStride } = a;
  const offset = a.offset + row * rowStride + col * colStride;
  return { data, offset, rows, cols, rowStride, colStride };
}

/** Row `i` of a window as a column vector, from column `from` on. */
export function rowVector(a: Block, i: number, from = 0): Block {
  return transposed(part(a, i, from, 1, a.cols - from));
}

// Panels as in Goto & van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008): a
// depth x 4 sliver of each factor stays in the first-level cache, a panel in the second.
const TILE = 4;
const PANEL_ROWS = 64;
const PANEL_DEPTH = 256;
const PANEL_COLS = 512;

const panelA = new Float64Array(PANEL_ROWS * PANEL_DEPTH);
const panelB = new Float64Array(PANEL_COLS * PANEL_DEPTH);
const tile = new Float64Array(TILE * TILE);

/** Copies slivers of four rows, depth by depth; missing rows of the last sliver are zero. */
function pack(a: Block, panel: Float64Array): void {
  const { data, rows, cols, rowStride, colStride } = a;
  let to = 0;
  for (let i = 0; i < rows; i += TILE) {
    let from = a.offset + i * rowStride;
    if (i + TILE <= rows) {
      for (let p = 0; p < cols; p++, from += colStride) {
        panel[to++] = data[from]!;
        panel[to++] = data[from + rowStride]!;
        panel[to++] = data[from + 2 * rowStride]!;
        panel[to++] = data[from + 3 * rowStride]!;
      }
    } else {
      for (let p = 0; p < cols; p++, from += colStride) {
        for (let r = 0; r < TILE; r++) panel[to++] = i + r < rows ? data[from + r * rowStride]! : 0;
      }
    }
  }
}

/** One 4 x 4 tile of the product of two packed slivers, held in registers, then left in `tile`. */
function multiplySlivers(a: number, b: number, depth: number): void {
  let [c00, c01, c02, c03] = [0, 0, 0, 0];
  let [c10, c11, c12, c13] = [0, 0, 0, 0];
  let [c20, c21, c22, c23] = [0, 0, 0, 0];
  let [c30, c31, c32, c33] = [0, 0, 0, 0];
  for (const end = a + TILE * depth; a < end; a += TILE, b += TILE) {
    const b0 = panelB[b]!;
    const b1 = panelB[b + 1]!;
    const b2 = panelB[b + 2]!;
    const b3 = panelB[b + 3]!;
    const a0 = panelA[a]!;
    c00 += a0 * b0;
    c01 += a0 * b1;
    c02 += a0 * b2;
    c03 += a0 * b3;
    const a1 = panelA[a + 1]!;
    c10 += a1 * b0;
    c11 += a1 * b1;
    c12 += a1 * b2;
    c13 += a1 * b3;
    const a2 = panelA[a + 2]!;
    c20 += a2 * b0;
    c21 += a2 * b1;
    c22 += a2 * b2;
    c23 += a2 * b3;
    const a3 = panelA[a + 3]!;
    c30 += a3 * b0;
    c31 += a3 * b1;
    c32 += a3 * b2;
    c33 += a3 * b3;
  }
  tile[0] = c00;
  tile[1] = c01;
  tile[2] = c02;
  tile[3] = c03;
  tile[4] = c10;
  tile[5] = c11;
  tile[6] = c12;
  tile[7] = c13;
  tile[8] = c20;
  tile[9] = c21;
  tile[10] = c22;
  tile[11] = c23;
  tile[12] = c30;
  tile[13] = c31;
  tile[14] = c32;
  tile[15] = c33;
}

function addTile(alpha: number, c: Block, row: number, col: number): void {
  const { data, rowStride, colStride } = c;
  const rows = Math.min(TILE, c.rows - row);
  const cols = Math.min(TILE, c.cols - col);
  for (let i = 0; i < rows; i++) {
    let to = c.offset + (row + i) * rowStride + col * colStride;
    for (let j = 0; j < cols; j++, to += colStride) data[to]! += alpha * tile[TILE * i + j]!;
  }
}

/** Adds the product of the two packed panels to `c`. */
function addPanelProduct(alpha: number, depth: number, c: Block): void {
  for (let j = 0; j < c.cols; j += TILE) {
    for (let i = 0; i < c.rows; i += TILE) {
      multiplySlivers(i * depth, j * depth, depth);
      addTile(alpha, c, i, j);
    }
  }
}

/** `c <- c + alpha a b` by packed panels. */
function addProduct(alpha: number, a: Block, b: Block, c: Block): void {
  const bt = transposed(b);
  for (let j = 0; j < c.cols; j += PANEL_COLS) {
    const cols = Math.min(PANEL_COLS, c.cols - j);
    for (let p = 0; p < a.cols; p += PANEL_DEPTH) {
      const depth = Math.min(PANEL_DEPTH, a.cols - p);
      pack(part(bt, j, p, cols, depth), panelB);
      for (let i = 0; i < c.rows; i += PANEL_ROWS) {
        const rows = Math.min(PANEL_ROWS, c.rows - i);
        pack(part(a, i, p, rows, depth), panelA);
        addPanelProduct(alpha, depth, part(c, i, j, rows, cols));
      }
    }
  }
}

/** `y <- y + alpha a x` where the rows of `a` are contiguous: four inner products a pass. */
function addRowProducts(alpha: number, a: Block, x: Block, y: Block): void {
  const { data, rows, cols, rowStride } = a;
  const xs = x.data;
  const ys = y.data;
  const step = x.rowStride;
  let i = 0;
  let to = y.offset;
  for (; i + 3 < rows; i += 4) {
    let [s0, s1, s2, s3] = [0, 0, 0, 0];
    let r0 = a.offset + i * rowStride;
    let r1 = r0 + rowStride;
    let r2 = r1 + rowStride;
    let r3 = r2 + rowStride;
    for (let j = 0, from = x.offset; j < cols; j++, from += step) {
      const xj = xs[from]!;
      s0 += data[r0++]! * xj;
      s1 += data[r1++]! * xj;
      s2 += data[r2++]! * xj;
      s3 += data[r3++]! * xj;
    }
    for (const s of [s0, s1, s2, s3]) {
      ys[to]! += alpha * s;
      to += y.rowStride;
    }
  }
  for (; i < rows; i++, to += y.rowStride) {
    let s = 0;
    let r = a.offset + i * rowStride;
    for (let j = 0, from = x.offset; j < cols; j++, from += step) s += data[r++]! * xs[from]!;
    ys[to]! += alpha * s;
  }
}

/** `y <- y + alpha a x` where the columns of `a` are contiguous: four columns a pass. */
function addColumns(alpha: number, a: Block, x: Block, y: Block): void {
  const { data, rows, cols, colStride } = a;
  const ys = y.data;
  const step = y.rowStride;
  const factor = (j: number): number => alpha * x.data[x.offset + j * x.rowStride]!;
  let j = 0;
  for (; j + 3 < cols; j += 4) {
    const [x0, x1, x2, x3] = [factor(j), factor(j + 1), factor(j + 2), factor(j + 3)];
    let c0 = a.offset + j * colStride;
    let c1 = c0 + colStride;
    let c2 = c1 + colStride;
    let c3 = c2 + colStride;
    for (let i = 0, to = y.offset; i < rows; i++, to += step) {
      ys[to]! += data[c0++]! * x0 + data[c1++]! * x1 + data[c2++]! * x2 + data[c3++]! * x3;
    }
  }
  for (; j < cols; j++) {
    const xj = factor(j);
    let c = a.offset + j * colStride;
    for (let i = 0, to = y.offset; i < rows; i++, to += step) ys[to]! += data[c++]! * xj;
  }
}

/** `y <- y + alpha a x` for one column. */
function addVectorProduct(alpha: number, a: Block, x: Block, y: Block): void {
  if (a.colStride === 1) addRowProducts(alpha, a, x, y);
  else if (a.rowStride === 1) addColumns(alpha, a, x, y);
  else addProduct(alpha, a, x, y);
}

/** `c <- beta c`; with `beta` 0 the old value, even NaN, does not count. */
function scale(beta: number, c: Block): void {
  if (beta === 1) return;
  const { data, rows, cols, rowStride, colStride } = c;
  for (let i = 0; i < rows; i++) {
    const start = c.offset + i * rowStride;
    for (let j = 0, to = start; j < cols; j++, to += colStride) {
      data[to] = beta === 0 ? 0 : beta * data[to]!;
    }
  }
}

/** The kernels in plain TypeScript: packed panels and a 4 x 4 register tile. */
export const plainBlas: Blas = {
  withStorage: (_, body) => body(),
  allocate: (length) => new Float64Array(length),
  gemm(alpha, a, b, beta, c) {
    scale(beta, c);
    if (c.cols === 1) addVectorProduct(alpha, a, b, c);
    else if (c.rows === 1) {
      addVectorProduct(alpha, transposed(b), transposed(a), transposed(c));
    } else addProduct(alpha, a, b, c);
  },
  multiplyBoth(a, x, y, u, v) {
    addRowProducts(1, a, x, y);
    addColumns(1, transposed(a), u, v);
  },
};
