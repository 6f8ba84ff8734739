import { repeat, until, when } from "../wasm/control.ts";
import type { Statement } from "../wasm/expression.ts";
import { increase, smaller, type Call, type ModuleBuilder } from "../wasm/module.ts";
import { i32 } from "../wasm/scalar.ts";
import { v128 } from "../wasm/vector.ts";
import type { Lanes } from "./lanes.ts";

/** The register tile: how much of a product is in registers at a time. */
export interface Tile {
  /** Rows: 4 or 6. */
  readonly rows: number;
  /** Columns, in vectors. */
  readonly vectors: number;
}

/**
 * The tile that fills the registers, of which V8 has 15: the sums, a row of `b`, one element of `a`, and the product
 * where it is not added by the same instruction. With one register too many the sums pass through memory, which takes
 * twice as long. Where vectors are joined in pairs, a pair takes one register.
 *
 * @param relaxed - Whether products are added by the same instruction.
 * @param revectorized - Whether vectors are joined in pairs.
 */
export function tileFor(relaxed: boolean, revectorized: boolean): Tile {
  return { rows: relaxed ? 6 : 4, vectors: revectorized ? 4 : 2 };
}

const tileParameters = {
  a: "i32",
  b: "i32",
  c: "i32",
  rowBytes: "i32",
  depth: "i32",
  accumulate: "i32",
} as const;

/**
 * A tile of the product of packed panels, its sums in registers (the micro-kernel of Goto & van de Geijn 2008, "Anatomy of
 * high-performance matrix multiplication").
 *
 * Parameters: the panels `a` (an element of each row for each of `depth` steps) and `b` (the vectors for each), the tile `c` with
 * the bytes from one of its rows to the next, and whether to add to it. `depth` is at least 1.
 */
function defineTile(
  module: ModuleBuilder,
  lanes: Lanes,
  { rows: panelRows, vectors }: Tile,
  rows: number,
): Call<typeof tileParameters> {
  return module.define(`tile${rows}`, {
    parameters: tileParameters,
    exported: false,
    body: (scope, { a, b, c, rowBytes, depth, accumulate }) => {
      const sums = Array.from({ length: rows }, () => scope.locals("v128", vectors));
      const right = scope.locals("v128", vectors);
      const left = scope.local("v128");
      const [row, end] = scope.locals("i32", 2) as [typeof a, typeof a];
      const bytesOfB = vectors * 16;
      const overRows = (statement: (row: number, vector: number) => Statement): Statement[] => [
        row.set(c),
        ...sums.flatMap((vectors, i) => [
          ...vectors.map((_, v) => statement(i, v)),
          increase(row, rowBytes),
        ]),
      ];
      return [
        when(
          accumulate,
          overRows((i, v) => sums[i]![v]!.set(v128.load(row, 16 * v))),
        ),
        end.set(i32.add(b, i32.mul(depth, bytesOfB))),
        repeat(
          i32.ne(b, end),
          ...right.map((vector, v) => vector.set(v128.load(b, 16 * v))),
          ...sums.flatMap((vectors, i) => [
            left.set(lanes.splat(a, i * lanes.bytes)),
            ...vectors.map((sum, v) => sum.set(lanes.multiplyAdd(left, right[v]!, sum))),
          ]),
          increase(a, panelRows * lanes.bytes),
          increase(b, bytesOfB),
        ),
        ...overRows((i, v) => v128.store(row, sums[i]![v]!, 16 * v)),
      ];
    },
  });
}

/** A tile of `height` rows, from 1 to those of the whole tile. */
function defineAnyTile(module: ModuleBuilder, lanes: Lanes, tile: Tile): Call<AnyTileParameters> {
  const tiles = Array.from({ length: tile.rows }, (_, i) => defineTile(module, lanes, tile, i + 1));
  return module.define("tile", {
    parameters: { height: "i32", ...tileParameters },
    exported: false,
    body: (_, { height, ...rest }) => {
      // The largest first: most tiles have it.
      const [first, ...others] = tiles;
      return [
        others.reduce(
          (otherwise, tile, i) => when(i32.eq(height, i + 2), [tile(rest)], [otherwise]),
          first!(rest),
        ),
      ];
    },
  });
}

type AnyTileParameters = { readonly height: "i32" } & typeof tileParameters;

/**
 * Adds the function `run` to a module: the product of a packed block of rows and a packed block of columns.
 *
 * Parameters: the blocks `a` and `b`, the product `c` with the bytes from one of its rows to the next, its size, the inner
 * size, whether to add to it, and room for one tile. Sizes are at least 1.
 *
 * @param module - Where it goes.
 * @param lanes - What it computes in.
 * @param tile - The register tile.
 */
export function definePanelProduct(
  module: ModuleBuilder,
  lanes: Lanes,
  { rows: tileRows, vectors }: Tile,
): void {
  const tile = defineAnyTile(module, lanes, { rows: tileRows, vectors });
  const tileColumns = vectors * lanes.count;
  const tileBytes = tileColumns * lanes.bytes;
  const copyEdge = module.define("copyEdge", {
    parameters: { from: "i32", to: "i32", fromRow: "i32", toRow: "i32", rows: "i32", bytes: "i32" },
    exported: false,
    body: (scope, { from, to, fromRow, toRow, rows, bytes }) => {
      const at = scope.local("i32");
      return [
        repeat(
          rows,
          at.set(i32.const(0)),
          repeat(
            i32.ne(at, bytes),
            lanes.storeFirst(i32.add(to, at), lanes.loadFirst(i32.add(from, at))),
            increase(at, lanes.bytes),
          ),
          increase(from, fromRow),
          increase(to, toRow),
          increase(rows, -1),
        ),
      ];
    },
  });
  module.define("run", {
    parameters: {
      a: "i32",
      b: "i32",
      c: "i32",
      rowBytes: "i32",
      rows: "i32",
      columns: "i32",
      depth: "i32",
      accumulate: "i32",
      edge: "i32",
    },
    body: (scope, { a, b, c, rowBytes, rows, columns, depth, accumulate, edge }) => {
      const [height, left, to, right] = scope.locals("i32", 4) as [
        typeof a,
        typeof a,
        typeof a,
        typeof a,
      ];
      const bytes = i32.mul(left, lanes.bytes);
      const product = { height, a, b: right, depth, accumulate };
      const toEdge = { from: to, to: edge, fromRow: rowBytes, toRow: i32.const(tileBytes) };
      const fromEdge = { from: edge, to, fromRow: i32.const(tileBytes), toRow: rowBytes };
      const atEdge = [
        when(accumulate, [copyEdge({ ...toEdge, rows: height, bytes })]),
        tile({ ...product, c: edge, rowBytes: i32.const(tileBytes) }),
        copyEdge({ ...fromEdge, rows: height, bytes }),
        left.set(i32.const(0)),
      ];
      const inside = [
        tile({ ...product, c: to, rowBytes }),
        increase(left, -tileColumns),
        increase(to, tileBytes),
        increase(right, i32.mul(depth, tileBytes)),
      ];
      return [
        until(
          rows,
          i32.const(0),
          height.set(smaller(rows, tileRows)),
          left.set(columns),
          to.set(c),
          right.set(b),
          repeat(left, when(i32.geU(left, tileColumns), inside, atEdge)),
          increase(a, i32.mul(depth, tileRows * lanes.bytes)),
          increase(c, i32.mul(rowBytes, tileRows)),
          rows.set(i32.sub(rows, height)),
        ),
      ];
    },
  });
}
