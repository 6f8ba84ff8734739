/** Blocks start and end at multiples of this many bytes: a cache line, and the widest vector. */
const ALIGNMENT = 64;

/** A contiguous range of bytes. The blocks of an allocator follow one another without gaps. */
export interface Block {
  /** The first byte. */
  readonly offset: number;
  /** How many bytes. */
  readonly size: number;
}

/** A block in two lists: all blocks by address, and the free ones of a bin. */
interface ListedBlock extends Block {
  size: number;
  free: boolean;
  previous: ListedBlock | null;
  next: ListedBlock | null;
  previousFree: ListedBlock | null;
  nextFree: ListedBlock | null;
}

/** Free blocks of 64 * 2^n bytes up to twice that lie in bin n. */
const binOf = (size: number): number => 31 - Math.clz32(size / ALIGNMENT);

function listed(
  offset: number,
  size: number,
  previous: ListedBlock | null,
  next: ListedBlock | null,
): ListedBlock {
  return { offset, size, free: false, previous, next, previousFree: null, nextFree: null };
}

/**
 * Hands out ranges of a growing address space: best fit over free lists that are segregated by size, with immediate
 * coalescing of neighbours (Wilson et al. 1995, "Dynamic storage allocation: a survey", 3.6 and 3.9). It keeps its own
 * records and never touches the memory that it manages.
 */
export class Allocator {
  /** The first free block of each bin. */
  readonly #bins: (ListedBlock | null)[] = new Array<ListedBlock | null>(32).fill(null);
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
    const block = listed(offset, bytes, last, null);
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
    this.#unlist(block);
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
    if (next?.free) {
      this.#unlist(next);
      this.#absorbNext(block, next);
    }
    if (previous?.free) {
      this.#unlist(previous);
      this.#absorbNext(previous, block);
      this.#list(previous);
    } else this.#list(block);
  }

  /** The free blocks, by address. */
  freeBlocks(): Block[] {
    const all: Block[] = [];
    for (const first of this.#bins) {
      for (let block = first; block; block = block.nextFree) {
        all.push({ offset: block.offset, size: block.size });
      }
    }
    return all.toSorted((a, b) => a.offset - b.offset);
  }

  #bestFit(size: number): ListedBlock | null {
    for (let bin = binOf(size); bin < this.#bins.length; bin++) {
      let best: ListedBlock | null = null;
      for (let block = this.#bins[bin]!; block; block = block.nextFree!) {
        if (block.size === size) return block;
        if (block.size > size && (!best || block.size < best.size)) best = block;
      }
      if (best) return best;
    }
    return null;
  }

  /** Cuts a block that is in use to a size; the rest becomes free. */
  #split(block: ListedBlock, size: number): void {
    const rest = listed(block.offset + size, block.size - size, block, block.next);
    if (rest.next) rest.next.previous = rest;
    else this.#last = rest;
    block.next = rest;
    block.size = size;
    this.#list(rest);
  }

  /** Makes a block free. */
  #list(block: ListedBlock): void {
    const bin = binOf(block.size);
    const first = this.#bins[bin]!;
    block.free = true;
    block.nextFree = first;
    if (first) first.previousFree = block;
    this.#bins[bin] = block;
  }

  /** Takes a block from its bin. */
  #unlist(block: ListedBlock): void {
    const { previousFree, nextFree } = block;
    if (previousFree) previousFree.nextFree = nextFree;
    else this.#bins[binOf(block.size)] = nextFree;
    if (nextFree) nextFree.previousFree = previousFree;
    block.free = false;
    block.previousFree = null;
    block.nextFree = null;
  }

  /** Merges two blocks that are in no bin. */
  #absorbNext(block: ListedBlock, next: ListedBlock): void {
    block.size += next.size;
    block.next = next.next;
    if (next.next) next.next.previous = block;
    else this.#last = block;
    // A block that is gone holds on to none: through a chain of such blocks garbage would outlive many collections.
    next.previous = null;
    next.next = null;
  }
}
