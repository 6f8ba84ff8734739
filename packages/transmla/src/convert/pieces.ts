/** Values that are held as a whole anyway. */
export async function* onePiece(values: Float64Array): AsyncGenerator<Float64Array> {
  yield values;
}

/**
 * The same values times a number.
 *
 * @param pieces - Changed in place.
 * @param by - The factor.
 */
export async function* scaledPieces(
  pieces: AsyncIterable<Float64Array>,
  by: number,
): AsyncGenerator<Float64Array> {
  for await (const piece of pieces) {
    if (by !== 1) piece.forEach((x, i) => (piece[i] = x * by));
    yield piece;
  }
}
