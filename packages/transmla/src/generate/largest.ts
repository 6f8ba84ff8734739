/**
 * The numbers from 0 on.
 *
 * @param length - How many.
 */
export function countUp(length: number): Int32Array {
  return new Int32Array(length).map((_, index) => index);
}

/**
 * Yields the indices of the largest keys in descending order, of equal keys the lower index first. Building the heap
 * takes linear time; only what is taken is sorted.
 *
 * @param keys - The keys; none is NaN.
 * @param count - How many at most.
 */
export function* takeLargest(
  keys: Float32Array,
  count: number,
): Generator<number, void, undefined> {
  const heap = countUp(keys.length);
  const before = (a: number, b: number): boolean => {
    const [x, y] = [keys[a]!, keys[b]!];
    return x > y || (x === y && a < b);
  };
  const sink = (start: number, size: number): void => {
    const index = heap[start]!;
    let parent = start;
    for (let child = 2 * parent + 1; child < size; child = 2 * parent + 1) {
      if (child + 1 < size && before(heap[child + 1]!, heap[child]!)) child++;
      if (!before(heap[child]!, index)) break;
      heap[parent] = heap[child]!;
      parent = child;
    }
    heap[parent] = index;
  };
  // Floyd, Algorithm 245: Treesort (1964).
  for (let i = (heap.length >> 1) - 1; i >= 0; i--) sink(i, heap.length);
  for (let size = heap.length; size > Math.max(0, heap.length - count);) {
    yield heap[0]!;
    heap[0] = heap[--size]!;
    sink(0, size);
  }
}
