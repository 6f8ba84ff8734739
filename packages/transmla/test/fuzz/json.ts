// Damage to JSON that stays JSON: values, keys and structure change, the syntax seldom.
import { fc } from "@fast-check/vitest";

/** JSON as text, or as a tree that may hold what `JSON.stringify` never writes, such as a key twice. */
type Tree = string | Tree[] | Map<number, Entry>;

/** A key and its value; the keys of the map only keep the order. */
type Entry = [key: string, value: Tree];

/** A change of a JSON text; the other one is there to take parts from. */
export type JsonDamage = (text: string, other: string) => string;

function parse(value: unknown): Tree {
  if (Array.isArray(value)) return value.map(parse);
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  return new Map(Object.entries(value).map(([key, inner], i) => [i, [key, parse(inner)]]));
}

function write(tree: Tree): string {
  if (typeof tree === "string") return tree;
  if (Array.isArray(tree)) return `[${tree.map(write).join(",")}]`;
  const entries = [...tree.values()].map(
    ([key, value]) => `${JSON.stringify(key)}:${write(value)}`,
  );
  return `{${entries.join(",")}}`;
}

/** A place in a tree: what holds it and its number there. */
interface Place {
  readonly holder: Exclude<Tree, string>;
  readonly index: number;
}

function children(tree: Tree): Tree[] {
  if (typeof tree === "string") return [];
  return Array.isArray(tree) ? tree : [...tree.values()].map(([, value]) => value);
}

/** Follows choices downwards from the root; every child of a node is as likely as its siblings. */
function follow(root: Tree, choices: readonly number[]): Place {
  let place: Place = { holder: [root], index: 0 };
  for (const choice of choices) {
    const inner = get(place);
    if (typeof inner === "string" || children(inner).length === 0) break;
    place = { holder: inner, index: [...inner.keys()][choice % children(inner).length]! };
  }
  return place;
}

function get({ holder, index }: Place): Tree {
  return Array.isArray(holder) ? holder[index]! : holder.get(index)![1];
}

function set({ holder, index }: Place, value: Tree): void {
  if (Array.isArray(holder)) holder[index] = value;
  else holder.get(index)![1] = value;
}

const odd = fc.constantFrom(
  ..."0 -1 1 2 3 0.5 -0 1e-320 65536 2147483647 2147483648 9007199254740993 1e308 1e999 -1e999".split(
    " ",
  ),
  ...'true false null [] {} [[]] [null] [{}] {"a":1} [1,2] "" "a" " " "0" "ab" "▁" "\\ud800" "\\u0000"'.split(
    " ",
  ),
  '"../../outside.safetensors"',
  '"/outside.safetensors"',
  String.raw`"C:\\outside.safetensors"`,
  "NaN",
);
const replacement = fc.oneof(
  { weight: 3, arbitrary: odd },
  fc.jsonValue({ maxDepth: 3 }).map((value) => JSON.stringify(value)),
);
const choices = fc.array(fc.nat(2 ** 16), { maxLength: 6 });

/** A change at a place of the tree. */
type Change = (place: Place, other: Tree) => void;

const replace = replacement.map(
  (text): Change =>
    (place) =>
      set(place, text),
);

const isNumber = (tree: Tree): boolean => typeof tree === "string" && /^[-\d]/.test(tree);

/** The first number at or below the place. */
const blowUp = odd.map((text): Change => (place) => {
  let at = place;
  for (let inner = get(at); typeof inner !== "string"; inner = get(at)) {
    const [first] = inner.keys();
    if (first === undefined) return;
    const number = [...inner.keys()].find((index) => isNumber(get({ holder: inner, index })));
    at = { holder: inner, index: number ?? first };
  }
  set(at, text);
});

const remove = fc.constant<Change>(({ holder, index }) => {
  if (Array.isArray(holder)) holder.splice(index, 1);
  else holder.delete(index);
});

const repeat = fc.constantFrom(1, 2, 20).map((times): Change => ({ holder, index }) => {
  for (let i = 0; i < times; i++) {
    if (Array.isArray(holder)) holder.push(holder[index]!);
    else holder.set(-1 - i, holder.get(index)!);
  }
});

const rename = fc
  .oneof(fc.constantFrom("", "__proto__", "constructor", "toString", "type", "0"), fc.string())
  .map((name): Change => ({ holder, index }) => {
    if (!Array.isArray(holder)) holder.set(index, [name, holder.get(index)![1]]);
  });

const exchangeKeys = fc.nat().map((which): Change => ({ holder, index }) => {
  if (Array.isArray(holder)) return;
  const other = [...holder.values()][which % holder.size]!;
  holder.set(index, [other[0], holder.get(index)![1]]);
});

const nest = fc
  .tuple(fc.constantFrom(1, 3, 17, 63, 64, 65, 5000), fc.constantFrom("[]", "{}"))
  .map(([depth, brackets]): Change => (place) => {
    const [open, close] = brackets === "[]" ? ["[", "]"] : ['{"a":', "}"];
    set(place, open.repeat(depth) + write(get(place)) + close.repeat(depth));
  });

const transplant = choices.map((from): Change => (place, other) => {
  set(place, structuredClone(get(follow(other, from)))); // no tree may come to hold itself
});

/** One to three changes of the structure. */
export const jsonDamage: fc.Arbitrary<JsonDamage> = fc
  .array(
    fc.tuple(
      choices,
      fc.oneof(
        { weight: 4, arbitrary: replace },
        { weight: 3, arbitrary: blowUp },
        { weight: 2, arbitrary: remove },
        repeat,
        rename,
        exchangeKeys,
        nest,
        transplant,
      ),
    ),
    { minLength: 1, maxLength: 3 },
  )
  .map((changes): JsonDamage => (text, other) => {
    const root = [parse(JSON.parse(text))];
    const donor = parse(JSON.parse(other));
    for (const [path, change] of changes) {
      // A removal may have emptied the place.
      if (root.length > 0) change(follow(root, [0, ...path]), donor);
    }
    return root.map(write).join("");
  });
