import type { Profiler } from "node:inspector";

/** The steps of a conversion by the files that hold them, in their order. */
const steps: readonly (readonly [file: string, step: string])[] = [
  ["random-weights", "weights"],
  ["moments", "attention and moments"],
  ["slots", "slots"],
  ["mean-phase", "mean phase"],
  ["joint-latent", "latent"],
  ["logit-gradient", "refit of logits"],
  ["logit-refit", "refit of logits"],
  ["output-refit", "refit of o_proj"],
  ["latent-layer", "refit of o_proj"],
  ["calibration-stream", "feed-forward"],
];

/**
 * The share of each step in a profile: of the samples with a caller in one of its files, the nearest where there are
 * several.
 */
export function sharesOfSteps({
  nodes,
  samples = [],
}: Profiler.Profile): [step: string, share: number][] {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const stepOf = new Map<number, string>();
  const visit = (node: Profiler.ProfileNode, outer: string): void => {
    const own = steps.find(([file]) => node.callFrame.url.endsWith(`/${file}.ts`));
    const step = own?.[1] ?? outer;
    stepOf.set(node.id, step);
    for (const child of node.children ?? []) visit(byId.get(child)!, step);
  };
  visit(nodes[0]!, "other");
  const counts = new Map([...new Set(steps.map(([, step]) => step)), "other"].map((s) => [s, 0]));
  for (const sample of samples) {
    const step = stepOf.get(sample)!;
    counts.set(step, counts.get(step)! + 1);
  }
  return [...counts]
    .map(([step, count]): [string, number] => [step, count / samples.length])
    .filter(([, share]) => share >= 0.005);
}
