import type { Comparison } from "transmla";

/** A model as the table shows it. */
export interface Form {
  readonly name: string;
  readonly parameters: number;
  readonly numbersPerToken: number;
  readonly cacheBytes: number;
  /** Against the original; absent for the original. */
  readonly comparison?: Comparison;
}

/** The element of an id, of the class that the caller knows it has. */
export function element<E extends HTMLElement>(id: string, kind: new () => E): E {
  const found = document.getElementById(id);
  if (found instanceof kind) return found;
  throw new Error(`no ${kind.name} ${id}`);
}

/** Lets the page draw what changed. */
export function drawn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** Shows how far a step is, from 0 to 1. */
export function showProgress(step: string, share: number): void {
  element("step", HTMLLabelElement).textContent = step;
  element("bar", HTMLProgressElement).value = share;
}

/** Adds a row to the table; bars of caches are relative to the largest. */
export function showForm(form: Form, largestCache: number): void {
  const { name, parameters, numbersPerToken, cacheBytes, comparison } = form;
  const row = element("forms", HTMLTableSectionElement).insertRow();
  row.insertCell().textContent = name;
  row.insertCell().textContent = parameters.toLocaleString("en");
  const bar = document.createElement("i");
  bar.style.width = `${(5 * cacheBytes) / largestCache}rem`;
  const cache = document.createElement("span");
  cache.className = "cache";
  cache.append(bar, `${(cacheBytes / 2 ** 20).toFixed(2)} MiB`);
  const cell = row.insertCell();
  cell.className = "wide";
  cell.append(cache);
  row.insertCell().textContent = String(numbersPerToken);
  row.insertCell().textContent = comparison ? small(comparison.maxLogitDifference) : "";
  row.insertCell().textContent = comparison ? small(comparison.meanKl) : "";
  row.insertCell().textContent = comparison
    ? `${(100 * comparison.topAgreement).toFixed(1)} %`
    : "";
}

/** `0.0123` or `1.2e-13`. */
function small(value: number): string {
  return value === 0 || value >= 0.001 ? value.toPrecision(3) : value.toExponential(1);
}

/** A card that text streams into. */
export function addText(name: string): { append(text: string): void; note(text: string): void } {
  const card = document.createElement("article");
  const heading = document.createElement("h3");
  const note = document.createElement("span");
  const text = document.createElement("pre");
  heading.append(name, note);
  card.append(heading, text);
  element("texts", HTMLDivElement).append(card);
  return {
    append: (more) => text.append(more),
    note: (words) => (note.textContent = words),
  };
}
