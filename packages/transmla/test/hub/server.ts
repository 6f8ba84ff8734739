import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** A request as the server saw it. */
export interface Seen {
  readonly path: string;
  readonly range: string | undefined;
  readonly token: string | undefined;
}

/** Answers a request itself, or leaves it to the usual answer with `false`. */
type Behaviour = (
  seen: Seen,
  response: ServerResponse,
  count: number,
) => boolean | Promise<boolean>;

/** A hub with one repository, `org/name`, on a port of this machine. */
export interface TestHub {
  readonly url: string;
  readonly seen: Seen[];
  /** Bytes of files that were sent. */
  sent: number;
  /** What the hub does otherwise; `count` is how often the path was asked for before. */
  behave: Behaviour | undefined;
  /** Entries of the listing that replace the true ones, or are added. */
  lies: Record<string, object>;
  /** The commit of every revision. */
  commit: string;
  /** Requests for files that came. */
  requests(name: string): Seen[];
  readonly close: () => Promise<void>;
}

export const commit = "0123456789abcdef0123456789abcdef01234567";

export const sha256 = (bytes: Uint8Array): string =>
  createHash("sha256").update(bytes).digest("hex");

export const gitHash = (bytes: Uint8Array): string =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

/** Bytes that look random and are the same every time. */
export function noise(length: number, seed = 1): Buffer {
  const parts: Buffer[] = [];
  for (let i = 0; parts.length * 32 < length; i++) {
    parts.push(createHash("sha256").update(`${seed} ${i}`).digest());
  }
  return Buffer.concat(parts).subarray(0, length);
}

/** Sends a file, or a range of it, as the storage of the hub does. */
export function sendFile(response: ServerResponse, bytes: Buffer, range: string | undefined): void {
  const [, begin, end] = /^bytes=(\d+)-(\d+)$/.exec(range ?? "") ?? [];
  if (begin === undefined) {
    response.writeHead(200, { "content-length": bytes.length }).end(bytes);
    return;
  }
  const part = bytes.subarray(Number(begin), Number(end) + 1);
  response
    .writeHead(206, {
      "content-length": part.length,
      "content-range": `bytes ${begin}-${end}/${bytes.length}`,
    })
    .end(part);
}

/** Listens on a free port. */
export async function listen(
  answer: (seen: Seen, response: ServerResponse) => Promise<void>,
): Promise<{ readonly url: string; readonly close: () => Promise<void> }> {
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const { authorization, range } = request.headers;
    const path = decodeURIComponent(request.url ?? "");
    void answer({ path, range, token: authorization?.replace("Bearer ", "") }, response);
  });
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => {
        server.close(resolve);
      });
    },
  };
}

/** Starts a hub; `.safetensors` and `.gguf` files are listed as LFS files. */
export async function startHub(files: Readonly<Record<string, Buffer>>): Promise<TestHub> {
  const counts = new Map<string, number>();
  const { url, close } = await listen(async (seen, response) => {
    hub.seen.push(seen);
    const count = counts.get(seen.path) ?? 0;
    counts.set(seen.path, count + 1);
    if (await hub.behave?.(seen, response, count)) return;
    const name = /^\/org\/name\/resolve\/[0-9a-f]{40}\/(.+)$/.exec(seen.path)?.[1];
    if (name !== undefined && files[name]) {
      hub.sent += files[name].length;
      sendFile(response, files[name], seen.range);
    } else if (seen.path.startsWith("/api/models/org/name/revision/")) {
      response.end(JSON.stringify(listing(files, hub)));
    } else {
      response.writeHead(404, { "x-error-code": "RepoNotFound" }).end();
    }
  });
  const hub: TestHub = {
    url,
    close,
    seen: [],
    sent: 0,
    behave: undefined,
    lies: {},
    commit,
    requests: (name) => hub.seen.filter(({ path }) => path.endsWith(`/${name}`)),
  };
  return hub;
}

function listing(files: Readonly<Record<string, Buffer>>, hub: TestHub): object {
  const entries = new Map<string, object>();
  for (const [rfilename, bytes] of Object.entries(files)) {
    const lfs = { sha256: sha256(bytes), size: bytes.length, pointerSize: 134 };
    const large = /\.(safetensors|gguf)$/.test(rfilename);
    entries.set(rfilename, {
      rfilename,
      size: bytes.length,
      blobId: gitHash(bytes),
      ...(large && { lfs }),
    });
  }
  for (const [name, lie] of Object.entries(hub.lies)) {
    entries.set(name, { ...entries.get(name), rfilename: name, ...lie });
  }
  return { id: "org/name", sha: hub.commit, siblings: [...entries.values()] };
}
