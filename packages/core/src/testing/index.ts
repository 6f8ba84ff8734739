export { conformance } from "./conformance.ts";
export { consume, evaluate, primitivesOnly, forAll, type Outcome } from "./harness.ts";
export {
  anyDType,
  anyFloat,
  anyFloatOrBlocks,
  blockDTypes,
  cases,
  dtypes,
  floatDTypes,
  samples,
  shapes,
  sizes,
  type Case,
  type SampleOptions,
  type ShapeLimits,
} from "./arbitraries.ts";
export {
  elementsOf,
  place,
  type Elements,
  type Layout,
  type Sample,
  type Values,
} from "./samples.ts";
export {
  expectClose,
  expectIdentical,
  ROUNDED_ROW,
  tolerances,
  type Closeness,
  type Tolerance,
} from "./tolerance.ts";
