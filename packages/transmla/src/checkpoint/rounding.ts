/** Accumulates how far stored values are from the exact ones. */
export class RoundingError {
  #error = 0;
  #norm = 0;

  /**
   * Adds values.
   *
   * @param exact - As they were given.
   * @param stored - As they are read back.
   */
  add(exact: ArrayLike<number>, stored: ArrayLike<number>): void {
    for (let i = 0; i < exact.length; i++) {
      this.#error += (stored[i]! - exact[i]!) ** 2;
      this.#norm += exact[i]! ** 2;
    }
  }

  /** ‖stored - exact‖ / ‖exact‖. */
  get relative(): number {
    return this.#error === 0 ? 0 : Math.sqrt(this.#error / this.#norm);
  }
}
