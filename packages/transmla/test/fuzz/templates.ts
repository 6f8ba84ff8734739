// Jinja programs of right form, which may mean anything.
import { fc } from "@fast-check/vitest";

const names = fc.constantFrom(
  ..."messages messages[0] messages[9] messages[0].content m.role tools bos_token undefined none".split(
    " ",
  ),
  ..."true loop.index namespace() {} [] [1,2,3] 'a' range(5) range(99999) range(-3,3,2) x y y.a f".split(
    " ",
  ),
  ..."0 -1 3 2.5 9007199254740993 joiner()".split(" "),
  String.raw`'ab\nc'`,
);
const operators = fc.constantFrom(..."+ - * / // % ~ == != < >= in and or | [".split(" "));
const filters = fc.constantFrom(
  ..."length list upper trim tojson tojson(indent=4) indent(4) indent(500000000) join(',')".split(
    " ",
  ),
  ..."first last reverse sort unique items dictsort int float string default('d') safe".split(" "),
  ..."replace('a','bb') map(attribute='role') selectattr('role','equalto','user') abs".split(" "),
  ..."round sum batch(2)".split(" "),
);
const members = fc.constantFrom(
  ..."strip() split('a') startswith('a') items() get('a') replace('a','b') format(1)".split(" "),
  ..."title() [1:] [::-1] ['constructor'] ['__proto__'] [0]".split(" "),
);
const kinds = fc.constantFrom(..."defined none string mapping iterable number odd".split(" "));

const small = { depthSize: "small", withCrossShrink: true } as const;

/** Any of the statements of chat templates. */
export const jinjaProgram: fc.Arbitrary<string> = fc.letrec<{ program: string; value: string }>(
  (tie) => {
    const value = tie("value");
    const body = tie("program");
    return {
      value: fc.oneof(
        small,
        names,
        fc
          .tuple(value, operators, value)
          .map(([a, sign, b]) => (sign === "[" ? `(${a})[${b}]` : `(${a} ${sign} ${b})`)),
        fc.tuple(value, filters).map(([a, filter]) => `(${a}) | ${filter}`),
        fc
          .tuple(value, members)
          .map(([a, member]) => `(${a})${member.startsWith("[") ? "" : "."}${member}`),
        fc.tuple(value, kinds).map(([a, kind]) => `(${a}) is ${kind}`),
      ),
      program: fc.oneof(
        small,
        value.map((a) => `{{ ${a} }}`),
        value.map((a) => `{% set x = ${a} %}`),
        value.map((a) => `{% set y = namespace(a=0) %}{% set y.a = ${a} %}`),
        fc
          .tuple(value, body, body)
          .map(([a, yes, no]) => `{% if ${a} %}${yes}{% else %}${no}{% endif %}`),
        fc.tuple(value, body).map(([a, inner]) => `{% for m in ${a} %}${inner}{% endfor %}`),
        fc
          .tuple(body, value)
          .map(([inner, a]) => `{% macro f(x) %}${inner}{% endmacro %}{{ f(${a}) }}`),
        value.map((a) => `{{ raise_exception(${a}) }}`),
        value.map((a) => `{{ strftime_now(${a}) }}`),
        fc.tuple(body, body).map((programs) => programs.join("\n")),
      ),
    };
  },
).program;
