import { repeat, until, when } from "../wasm/control.ts";
import type { I32, Statement, V128 } from "../wasm/expression.ts";
import { increase, type FunctionScope, type Local, type ModuleBuilder } from "../wasm/module.ts";
import { i32 } from "../wasm/scalar.ts";
import { v128 } from "../wasm/vector.ts";
import type { Format, Loaded } from "./formats.ts";
import type { Lanes } from "./lanes.ts";

/**
 * Adds the function `run` to a module. It writes lines of a matrix (rows of the left one, columns of the right one) in
 * panels of `width` lines, the elements of one depth together, widened to the lanes of the product. Lines that the last
 * panel lacks are zeros.
 *
 * Parameters: the first element, the bytes from one line to the next and from one element of a line to the next, how many
 * lines and elements of each, and where the panels go. Sizes are at least 1.
 *
 * @param module - Where it goes.
 * @param lanes - What the product is computed in.
 * @param format - What the matrix is stored in.
 * @param width - Lines of a panel: a multiple of 2.
 */
export function definePack(
  module: ModuleBuilder,
  lanes: Lanes,
  format: Format,
  width: number,
): void {
  module.define("run", {
    parameters: {
      from: "i32",
      lineBytes: "i32",
      depthBytes: "i32",
      lines: "i32",
      depth: "i32",
      to: "i32",
    },
    body: (scope, { from, lineBytes, depthBytes, lines, depth, to }) => {
      const [at, left] = scope.locals("i32", 2) as [I32Local, I32Local];
      const panel: Panel = { scope, lanes, format, width, at, to, left, depthBytes, lineBytes };
      const linesAreAdjacent = i32.eq(lineBytes, format.bytes);
      const depthIsAdjacent = i32.eq(depthBytes, format.bytes);
      const isWhole = i32.geU(lines, width);
      const twoPanels = [
        ...copyTwoPanels(panel, depth),
        increase(lines, -2 * width),
        increase(from, i32.mul(lineBytes, 2 * width)),
      ];
      const onePanel = [
        when(i32.and(isWhole, linesAreAdjacent), [until(left, i32.const(0), ...copyDepth(panel))]),
        when(i32.and(isWhole, depthIsAdjacent), transposeDepths(panel)),
        // What is left: a panel that lacks lines, the last depths of a transposed one, or steps in both directions.
        until(left, i32.const(0), ...gatherDepth(panel, lines)),
        lines.set(i32.select(isWhole, i32.sub(lines, width), 0)),
        increase(from, i32.mul(lineBytes, width)),
      ];
      return [
        repeat(
          lines,
          at.set(from),
          left.set(depth),
          when(i32.and(linesAreAdjacent, i32.geU(lines, 2 * width)), twoPanels, onePanel),
        ),
      ];
    },
  });
}

type I32Local = Local<"i32">;

/** A panel that is being written, and where it is read. */
interface Panel {
  readonly scope: FunctionScope;
  readonly lanes: Lanes;
  readonly format: Format;
  readonly width: number;
  /** The element of the first line. */
  readonly at: I32Local;
  /** Where the elements of one depth go. */
  readonly to: I32Local;
  /** Depths that are still to be written. */
  readonly left: I32Local;
  readonly depthBytes: I32;
  readonly lineBytes: I32;
}

const use = (loaded: Loaded, statement: (value: V128) => Statement): Statement[] => [
  ...loaded.before,
  statement(loaded.value),
];

/** Copies adjacent elements of one depth: whole vectors, then half a vector of f32 where the width is 6. */
function copyLines(
  { scope, lanes, format, width }: Panel,
  at: I32,
  to: I32,
  skip = 0,
): Statement[] {
  const statements: Statement[] = [];
  for (let line = 0; line < width; line += lanes.count) {
    const bytes = (skip + line) * format.bytes;
    if (line + lanes.count <= width) {
      const loaded = format.load(scope, at, bytes);
      statements.push(...use(loaded, (value) => v128.store(to, value, line * lanes.bytes)));
      continue;
    }
    for (let rest = line; rest < width; rest++) {
      const loaded = format.loadFirst(scope, at, (skip + rest) * format.bytes);
      statements.push(...use(loaded, (value) => lanes.storeFirst(to, value, rest * lanes.bytes)));
    }
  }
  return statements;
}

/** Goes on by a number of depths. */
function advance({ at, to, left, depthBytes, lanes, width }: Panel, depths: number): Statement[] {
  return [
    increase(at, i32.mul(depthBytes, depths)),
    increase(to, depths * width * lanes.bytes),
    increase(left, -depths),
  ];
}

function copyDepth(panel: Panel): Statement[] {
  return [...copyLines(panel, panel.at, panel.to), ...advance(panel, 1)];
}

/** Two panels at once, so that whole cache lines are read. */
function copyTwoPanels(panel: Panel, depth: I32): Statement[] {
  const { scope, at, to, left, lanes, width } = panel;
  const second = scope.local("i32");
  const depthBytes = width * lanes.bytes;
  return [
    second.set(i32.add(to, i32.mul(depth, depthBytes))),
    repeat(
      left,
      ...copyLines(panel, at, to),
      ...copyLines(panel, at, second, width),
      ...advance(panel, 1),
      increase(second, depthBytes),
    ),
    to.set(second),
  ];
}

/** Takes vectors along the lines and exchanges lines and depths in registers. Leaves fewer depths than a vector has lanes. */
function transposeDepths(panel: Panel): Statement[] {
  const { scope, at, to, lineBytes, lanes, format, width } = panel;
  const vectorBytes = lanes.count * format.bytes;
  // Pointers to the lines but the first, which `at` is.
  const pointers = scope.locals("i32", width - 1);
  const lines = [at, ...pointers];
  const vectors = scope.locals("v128", lanes.count);
  const depthOf = (depth: number): number => depth * width * lanes.bytes;
  const square = (first: number): Statement[] => [
    ...vectors.flatMap((vector, i) => {
      return use(format.load(scope, lines[first + i]!), (value) => vector.set(value));
    }),
    ...transposeSquare(scope, vectors, (depth, value) => {
      return v128.store(to, value, depthOf(depth) + first * lanes.bytes);
    }),
  ];
  const pair = (first: number): Statement[] => {
    const [x, y] = vectors as [V128Local, V128Local];
    const offset = first * lanes.bytes;
    return [
      ...use(format.load(scope, lines[first]!), (value) => x.set(value)),
      ...use(format.load(scope, lines[first + 1]!), (value) => y.set(value)),
      v128.store64Lane(to, v128.shuffle32(x, y, [0, 4, 0, 4]), 0, offset + depthOf(0)),
      v128.store64Lane(to, v128.shuffle32(x, y, [1, 5, 1, 5]), 0, offset + depthOf(1)),
      v128.store64Lane(to, v128.shuffle32(x, y, [2, 6, 2, 6]), 0, offset + depthOf(2)),
      v128.store64Lane(to, v128.shuffle32(x, y, [3, 7, 3, 7]), 0, offset + depthOf(3)),
    ];
  };
  const remains = i32.geU(panel.left, lanes.count);
  const groups = Array.from({ length: Math.ceil(width / lanes.count) }, (_, i) => i * lanes.count);
  return [
    ...pointers.map((pointer, i) => pointer.set(i32.add(lines[i]!, lineBytes))),
    when(remains, [
      repeat(
        remains,
        ...groups.flatMap((first) => (first + lanes.count <= width ? square(first) : pair(first))),
        ...pointers.map((pointer) => increase(pointer, vectorBytes)),
        ...advance(panel, lanes.count),
      ),
    ]),
  ];
}

type V128Local = Local<"v128">;

/** Stores the columns of the square whose rows are the lanes of 4 or 2 vectors. */
function transposeSquare(
  scope: FunctionScope,
  rows: readonly V128Local[],
  store: (column: number, value: V128) => Statement,
): Statement[] {
  if (rows.length === 2) {
    const [x, y] = rows as [V128Local, V128Local];
    return [
      store(0, v128.shuffle32(x, y, [0, 1, 4, 5])),
      store(1, v128.shuffle32(x, y, [2, 3, 6, 7])),
    ];
  }
  const [x0, x1, x2, x3] = rows as [V128Local, V128Local, V128Local, V128Local];
  const [low01, low23, high01, high23] = scope.locals("v128", 4) as [
    V128Local,
    V128Local,
    V128Local,
    V128Local,
  ];
  return [
    low01.set(v128.shuffle32(x0, x1, [0, 4, 1, 5])),
    low23.set(v128.shuffle32(x2, x3, [0, 4, 1, 5])),
    high01.set(v128.shuffle32(x0, x1, [2, 6, 3, 7])),
    high23.set(v128.shuffle32(x2, x3, [2, 6, 3, 7])),
    store(0, v128.shuffle32(low01, low23, [0, 1, 4, 5])),
    store(1, v128.shuffle32(low01, low23, [2, 3, 6, 7])),
    store(2, v128.shuffle32(high01, high23, [0, 1, 4, 5])),
    store(3, v128.shuffle32(high01, high23, [2, 3, 6, 7])),
  ];
}

/** Element by element, with zeros for lines that do not exist. */
function gatherDepth(panel: Panel, lines: I32): Statement[] {
  const { scope, at, to, lineBytes, lanes, format, width } = panel;
  const line = scope.local("i32");
  const elements = Array.from({ length: width }, (_, i) => {
    const offset = i * lanes.bytes;
    const copied = use(format.loadFirst(scope, line), (value) => {
      return lanes.storeFirst(to, value, offset);
    });
    const next = increase(line, lineBytes);
    const nothing = lanes.storeFirst(to, lanes.zero(), offset);
    return when(i32.ltU(i32.const(i), lines), [...copied, next], [nothing]);
  });
  return [line.set(at), ...elements, ...advance(panel, 1)];
}
