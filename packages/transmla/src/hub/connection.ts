import { setTimeout as sleep } from "node:timers/promises";

import { fail, TransmlaError } from "@transmla/core";

import { HubError } from "./errors.ts";
import { showSpec, type HubSpec } from "./spec.ts";

/** How one model is asked for. */
export interface Connection {
  /** The address of the hub, without a slash at its end. */
  readonly endpoint: string;
  /** Sent to the hub and to nobody else. */
  readonly token: string | undefined;
  /** Which model. */
  readonly spec: HubSpec;
  /** Ends all requests. */
  readonly signal: AbortSignal | undefined;
  /** How long the server may send nothing, in milliseconds. */
  readonly stallTimeout: number;
  /** How often a request is repeated. */
  readonly retries: number;
  /** The pause before the first repetition, in milliseconds. */
  readonly retryDelay: number;
}

/** What is asked for. */
export interface Resource {
  /** Below the endpoint, with its leading slash. */
  readonly path: string;
  /** What errors call it besides the model. */
  readonly file?: string;
  /** Made anew for each attempt. */
  readonly headers?: () => Readonly<Record<string, string>>;
}

/** The beginning of an answer, and its body. */
export interface Answer {
  /** 200 or 206, or another of success. */
  readonly status: number;
  readonly headers: Headers;
  /** The body as it comes. */
  readonly chunks: AsyncIterable<Uint8Array>;
}

/** A failure that another attempt may not have. */
export class Interruption extends Error {
  /** How long the server asks to wait, in milliseconds. */
  readonly pause: number;

  /**
   * @param message - What happened.
   * @param pause - How long the server asks to wait, in milliseconds.
   */
  constructor(message: string, pause = 0) {
    super(message);
    this.pause = pause;
  }
}

const MAX_REDIRECTS = 5;
const MAX_PAUSE_MS = 30_000;
const redirects = new Set([301, 302, 303, 307, 308]);
/** Statuses that pass: time-outs, too many requests. So do all from 500. */
const passing = new Set([408, 425, 429]);

/** What the common codes of a failed connection mean. */
const reasons: Readonly<Record<string, string>> = {
  ECONNREFUSED: "the connection was refused",
  ECONNRESET: "the connection was cut",
  ENOTFOUND: "the host is not known",
  EAI_AGAIN: "the host could not be looked up",
  UND_ERR_CONNECT_TIMEOUT: "the host does not answer",
  UND_ERR_SOCKET: "the connection was cut",
};

/**
 * Asks for a resource until `use` has read its answer or attempts are used up.
 *
 * @param connection - Whom to ask, and how patiently.
 * @param resource - What to ask for.
 * @param use - Reads the answer. It is called again after an {@link Interruption}, its own or that of the connection.
 * @throws HubError when the hub refuses or all attempts fail; the reason of the signal when it is aborted.
 */
export async function request<T>(
  connection: Connection,
  resource: Resource,
  use: (answer: Answer) => Promise<T>,
): Promise<T> {
  for (let repetition = 0; ; repetition++) {
    connection.signal?.throwIfAborted();
    try {
      return await requestOnce(connection, resource, use);
    } catch (error) {
      if (!(error instanceof Interruption)) throw error;
      if (repetition >= connection.retries) {
        const times = repetition === 0 ? "" : `, after ${repetition + 1} attempts`;
        refuse(connection, resource, `${error.message}${times}`);
      }
      // Half of the pause is random: those who failed together do not come back together.
      const backoff = connection.retryDelay * 2 ** repetition * (0.5 + Math.random() / 2);
      await pause(Math.min(Math.max(backoff, error.pause), MAX_PAUSE_MS), connection.signal);
    }
  }
}

/**
 * Waits.
 *
 * @param milliseconds - How long.
 * @param signal - Ends the wait with its reason.
 */
export async function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await sleep(milliseconds, undefined, signal && { signal });
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  }
}

/**
 * Throws an error about what the hub said or sent.
 *
 * @param connection - Names the model.
 * @param resource - Names the file, if it is about one.
 * @param problem - What is wrong.
 */
export function refuse(
  { spec }: Connection,
  { file }: Pick<Resource, "file">,
  problem: string,
): never {
  const operands = file === undefined ? [showSpec(spec)] : [showSpec(spec), file];
  fail(HubError, "downloadModel", problem, ...operands);
}

async function requestOnce<T>(
  connection: Connection,
  resource: Resource,
  use: (answer: Answer) => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  const given = connection.signal;
  const signal = given ? AbortSignal.any([given, stop.signal]) : stop.signal;
  /** Waits for the network, but not for ever. */
  const waiting: Waiting = async (work) => {
    const timer = setTimeout(() => stop.abort(), connection.stallTimeout);
    try {
      return await work;
    } catch (error) {
      given?.throwIfAborted();
      const stalled = `the server sent nothing for ${connection.stallTimeout / 1000} s`;
      throw new Interruption(stop.signal.aborted ? stalled : reasonOf(error));
    } finally {
      clearTimeout(timer);
    }
  };
  try {
    const response = await follow(connection, resource, signal, waiting);
    const { status, headers, body } = response;
    return await use({ status, headers, chunks: chunksOf(body, waiting) });
  } finally {
    stop.abort(); // closes the connection of a body that was not read to its end
  }
}

type Waiting = <T>(work: Promise<T>) => Promise<T>;

async function* chunksOf(body: Response["body"], waiting: Waiting): AsyncGenerator<Uint8Array> {
  if (!body) return;
  const reader = body.getReader();
  for (;;) {
    const { done, value } = await waiting(reader.read());
    if (done) return;
    yield value as Uint8Array;
  }
}

/** The answer at the end of redirections. `fetch` would follow them too, but not say when the hub's host is left. */
async function follow(
  connection: Connection,
  resource: Resource,
  signal: AbortSignal,
  waiting: Waiting,
): Promise<Response> {
  let url = new URL(connection.endpoint + resource.path);
  const { origin } = url;
  let atHub = true;
  for (let hop = 0; ; hop++) {
    const headers: Record<string, string> = {
      "user-agent": "transmla",
      "accept-encoding": "identity",
      ...resource.headers?.(),
    };
    // Once the hub's host is left no later one sees the token, not even the hub: its address came from a stranger.
    if (atHub && connection.token !== undefined) {
      headers["authorization"] = `Bearer ${connection.token}`;
    }
    const response = await waiting(fetch(url, { headers, redirect: "manual", signal }));
    if (response.ok) return response;
    await response.body?.cancel();
    if (!redirects.has(response.status)) return refuseStatus(connection, resource, response, atHub);
    if (hop === MAX_REDIRECTS) {
      refuse(connection, resource, `more than ${MAX_REDIRECTS} redirections`);
    }
    url = redirected(connection, resource, url, response.headers.get("location"));
    atHub &&= url.origin === origin;
  }
}

function redirected(
  connection: Connection,
  resource: Resource,
  from: URL,
  location: string | null,
): URL {
  if (location === null || !URL.canParse(location, from.href)) {
    refuse(connection, resource, "the server redirects to nowhere");
  }
  const to = new URL(location, from);
  const secure = to.protocol === "https:" || (to.protocol === "http:" && from.protocol === "http:");
  if (!secure || to.username + to.password !== "") {
    // The address itself may hold a signature, which is as good as a token.
    refuse(connection, resource, `the server redirects from ${from.protocol} to ${to.protocol}`);
  }
  return to;
}

function refuseStatus(
  connection: Connection,
  resource: Resource,
  { status, headers }: Response,
  atHub: boolean,
): never {
  // A storage host refuses when its signed address has expired: the next attempt gets another.
  if (status >= 500 || passing.has(status) || !atHub) {
    const seconds = Number(headers.get("retry-after"));
    const server = atHub ? "hub" : "storage host";
    throw new Interruption(
      `the ${server} answered with status ${status}`,
      seconds > 0 ? seconds * 1000 : 0,
    );
  }
  const { endpoint, token, spec } = connection;
  const code = headers.get("x-error-code");
  const page = `${endpoint}/${spec.repo}`;
  if (code === "GatedRepo") {
    const wayOut = `accept its terms on ${page} and set HF_TOKEN to a token of that account`;
    refuse(connection, resource, `the model is gated; ${wayOut}`);
  }
  if (code === "RevisionNotFound") refuse(connection, resource, "the model has no such revision");
  if (code === "EntryNotFound") refuse(connection, resource, "the model has no such file");
  // The hub says 401 of models that are not there, so as not to tell who has which private ones.
  if (status === 401 || status === 404) {
    const wayOut = token === undefined ? "needs a token in HF_TOKEN" : "the token may not read it";
    refuse(connection, resource, `the hub has no such model, or it is private and ${wayOut}`);
  }
  if (status === 403) {
    const who = token === undefined ? "set HF_TOKEN" : "the token may not read this model";
    refuse(connection, resource, `the hub refuses access; ${who}`);
  }
  refuse(connection, resource, `the hub answered with status ${status}`);
}

/** Why a connection failed: `fetch` says only that it did, and keeps the reason as the cause. */
function reasonOf(error: unknown): string {
  if (error instanceof TransmlaError || !(error instanceof Error)) throw error;
  const { code, message } = (error.cause ?? error) as NodeJS.ErrnoException;
  return reasons[code ?? ""] ?? (code === undefined ? message : `${message} (${code})`);
}
