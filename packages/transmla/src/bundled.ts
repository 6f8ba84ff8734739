const { pathname } = new URL("../models/tiny-shakespeare", import.meta.url);

/**
 * The path of the model that ships with this package: 2.85 million weights, LLaMA architecture with grouped-query
 * attention (8 query and 4 kv heads of 32), which writes in the manner of Shakespeare's plays. `sample.txt` beside it is
 * text that no calibration saw. Node only: a page fetches the files and passes them as a {@link blobFolder}.
 */
// Without `node:url`, which pages cannot import; Windows has a drive after the first slash.
export const bundledModel: string = decodeURIComponent(pathname).replace(/^\/(?=[A-Z]:)/i, "");
