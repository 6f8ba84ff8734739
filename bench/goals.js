// What a case must reach. Ratios of medians of one run.

/** How many times faster than the fastest of some peers. */
export function faster(than, peers, required, heading) {
  return {
    text: `speed against ${than}`,
    ratio: (figures, own) => {
      const times = peers.flatMap((who) => figures.get(who)?.median ?? []);
      return times.length > 0 ? Math.min(...times) / figures.get(own).median : undefined;
    },
    required,
    heading,
    atMost: false,
  };
}

/** How many times the time of a peer. */
export function slower(than, peer, required, heading) {
  return {
    text: `time against ${than}`,
    ratio: (figures, own) => {
      const other = figures.get(peer);
      return other && figures.get(own).median / other.median;
    },
    required,
    heading,
    atMost: true,
  };
}

/** Whether a ratio holds; `undefined` where nothing is required. */
export function holds({ atMost, required }, ratio) {
  if (required === undefined) return undefined;
  return atMost ? ratio <= required : ratio >= required;
}

/** The JavaScript libraries that multiply. */
export const javascriptPeers = ["tfjs-wasm", "jax-js", "onnxruntime-web", "numpy-ts"];
