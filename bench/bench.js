// What a table gets to work with: this library, its peers where they are present, and how much effort to make.
import { own } from "./peers/own.js";

const OWN = "transmla";

export class Bench {
  /** @param {{ quick: boolean, revectorize: boolean, model?: string }} options */
  constructor(options) {
    this.quick = options.quick;
    this.revectorize = options.revectorize;
    this.model = options.model;
    this.node = Number(process.versions.node.split(".")[0]);
    this.effort = options.quick ? { seconds: 1, samples: 5 } : { seconds: 4, samples: 15 };
    /** Which peers are missing and why, and what others say about themselves. */
    this.remarks = new Set();
    if (options.revectorize) {
      this.remarks.add("V8 joins vectors in pairs for every library of the process");
    }
    this.loaded = [];
  }

  /** This library on a backend of its own. */
  async own(options = { threads: 1 }, who = OWN) {
    const library = await own(options, who);
    this.loaded.push(library);
    return library;
  }

  /** Those of the named peers that are present. */
  async peers(names, options = { threads: 1 }) {
    const found = [];
    for (const file of names) {
      try {
        const peer = await import(`./peers/${file}.js`);
        const library = await peer.load(options);
        if (library.description) this.remarks.add(library.description);
        found.push(library);
        this.loaded.push(library);
      } catch (error) {
        this.remarks.add(`without ${file}: ${String(error.message).split("\n")[0]}`);
      }
    }
    return found;
  }

  dispose() {
    for (const library of this.loaded) library.dispose?.();
  }
}

/** What the ratios of a case are of. */
export const ownName = OWN;
