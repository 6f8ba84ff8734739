/** Blocks start and end at multiples of this many bytes: a cache line, and the widest vector. */
const ALIGNMENT = 64;

/** A contiguous range of bytes. The blocks of an allocator follow one another without gaps. */
export interface Block {
  /** The first byte. */
  readonly offset: number;
  /** How many bytes. */
  readonly size: number;
}

interface ListedBlock extends Block {
  size: number;
  free: boolean;
  previous: ListedBlock | null;
  next: ListedBlock | null;
}

/** Free blocks of 64 * 2^n bytes up to twice that lie in bin n. */
const binOf = (size: number): number => Math.floor(Math.log2(size / ALIGNMENT));

/**
 * Hands out ranges of a growing address space: best fit over free lists that are segregated by size, with immediate
 * coalescing of neighbours (Wilson et al. 1995, "Dynamic storage allocation: a survey", 3.6 and 3.9). It keeps its own
 * records and never touches the memory that it manages.
 */
export class Allocator {
  readonly #bins = Array.from({ length: 32 }, () => new Set<ListedBlock>());
  #last: ListedBlock | null = null;

  /** The free bytes at the end of the space, which {@link extend} adds to. */
  get freeAtEnd(): number {
    return this.#last?.free ? this.#last.size : 0;
  }

  /**
   * Adds bytes at the end of the space.
   *
   * @param bytes - A multiple of 64.
   */
  extend(bytes: number): void {
    const last = this.#last;
    const offset = last ? last.offset + last.size : 0;
    const block: ListedBlock = { offset, size: bytes, free: false, previous: last, next: null };
    if (last) last.next = block;
    this.#last = block;
    this.release(block);
  }

  /**
   * Takes the smallest free block that is large enough and gives what it does not need back.
   *
   * @param bytes - At least 1; rounded up to a multiple of 64.
   * @returns `null` when no free block is large enough.
   */
  allocate(bytes: number): Block | null {
    const size = Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
    const block = this.#bestFit(size);
    if (!block) return null;
    this.#bins[binOf(block.size)]!.delete(block);
    block.free = false;
    if (block.size > size) this.#split(block, size);
    return block;
  }

  /**
   * Takes a block back and joins it with free neighbours.
   *
   * @param released - What {@link allocate} returned, once.
   */
  release(released: Block): void {
    const block = released as ListedBlock;
    const { previous, next } = block;
    block.free = true;
    if (next?.free) this.#absorbNext(block, next);
    if (previous?.free) {
      this.#bins[binOf(previous.size)]!.delete(previous);
      this.#absorbNext(previous, block);
      this.#bins[binOf(previous.size)]!.add(previous);
    } else this.#bins[binOf(block.size)]!.add(block);
  }

  /** The free blocks, by address. */
  freeBlocks(): Block[] {
    const all = this.#bins.flatMap((bin) => [...bin]);
    return all
      .map(({ offset, size }) => ({ offset, size }))
      .toSorted((a, b) => a.offset - b.offset);
  }

  #bestFit(size: number): ListedBlock | null {
    for (let bin = binOf(size); bin < this.#bins.length; bin++) {
      let best: ListedBlock | null = null;
      for (const block of this.#bins[bin]!) {
        if (block.size === size) return block;
        if (block.size > size && (!best || block.size < best.size)) best = block;
      }
      if (best) return best;
    }
    return null;
  }

  /** Cuts a block that is in use to a size; the rest becomes free. */
  #split(block: ListedBlock, size: number): void {
    const rest: ListedBlock = {
      offset: block.offset + size,
      size: block.size - size,
      free: true,
      previous: block,
      next: block.next,
    };
    if (rest.next) rest.next.previous = rest;
    else this.#last = rest;
    block.next = rest;
    block.size = size;
    this.#bins[binOf(rest.size)]!.add(rest);
  }

  /** Merges a block with its successor; the caller moves the result to its bin. */
  #absorbNext(block: ListedBlock, next: ListedBlock): void {
    this.#bins[binOf(next.size)]!.delete(next);
    block.size += next.size;
    block.next = next.next;
    if (next.next) next.next.previous = block;
    else this.#last = block;
  }
}
