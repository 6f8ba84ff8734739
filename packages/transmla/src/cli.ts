#!/usr/bin/env node
import { main } from "./cli/main.ts";

// A reader that has seen enough, such as `head`, closes the pipe: no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  process.exit(error.code === "EPIPE" ? 0 : 1);
});
process.exitCode = await main(process.argv);
