import { ArgumentError, fail } from "@transmla/core";

/** What a piece of text has made certain. */
export interface StopMatch {
  /** The text that does not belong to a stop text. */
  readonly text: string;
  /** Whether a stop text was found; nothing comes after that. */
  readonly stopped: boolean;
}

/** Finds the first stop text in a text that comes in pieces. */
export interface StopMatcher {
  /**
   * Takes the next piece.
   *
   * @param text - Any text, also none.
   * @returns The text that is certain not to belong to a stop text, and whether one was found.
   */
  push(text: string): StopMatch;
  /**
   * Ends the text.
   *
   * @returns What was held back.
   */
  end(): string;
}

/**
 * Makes a matcher of stop texts, wherever the borders of the tokens are. It gives out the text before the stop text that
 * begins first and holds back no more than an end that may become one: whatever the pieces, the result is what
 * `indexOf` finds in the whole text.
 *
 * @param stops - The stop texts; with none all text passes.
 * @throws ArgumentError for an empty stop text.
 *
 * @example
 * ```ts
 * import { createStopMatcher } from "transmla";
 * const matcher = createStopMatcher(["\n\n", "User:"]);
 * console.log(matcher.push("Hello\n")); // => { text: "Hello", stopped: false }
 * console.log(matcher.push("User: hi")); // => { text: "\n", stopped: true }
 * ```
 */
export function createStopMatcher(stops: readonly string[]): StopMatcher {
  stops.forEach((stop, i) => {
    if (stop === "") fail(ArgumentError, "generate", `stop text ${i} is empty`);
  });
  const longest = Math.max(0, ...stops.map((stop) => stop.length));
  let held = "";
  let stopped = false;

  /** Where the longest end of the held text begins that is the beginning of a stop text. */
  function partial(): number {
    for (let i = Math.max(0, held.length - longest + 1); i < held.length; i++) {
      const end = held.slice(i);
      if (stops.some((stop) => stop.startsWith(end))) return i;
    }
    return held.length;
  }

  function first(): number {
    const found = stops.map((stop) => held.indexOf(stop)).filter((i) => i >= 0);
    return found.length > 0 ? Math.min(...found) : Number.POSITIVE_INFINITY;
  }

  function take(end: number): string {
    const text = held.slice(0, end);
    held = held.slice(end);
    return text;
  }

  return {
    push(text) {
      if (stopped) return { text: "", stopped };
      held += text;
      const found = first();
      const undecided = partial();
      if (found > undecided) return { text: take(undecided), stopped };
      const before = take(found);
      held = "";
      stopped = true;
      return { text: before, stopped };
    },
    end() {
      const text = take(first());
      held = "";
      return text;
    },
  };
}
