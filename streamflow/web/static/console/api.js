// Questions to this worker: with the token, with a limit of time, and with problems as errors.

import { Client, StreamflowError } from "/static/streamflow-client.js";

const ANSWER_MS = 6000; // a worker that says nothing for so long does not answer

export const token = {
  get: () => sessionStorage.getItem("token"),
  set: (text) => sessionStorage.setItem("token", text),
};

/** Without patience: pages ask again by themselves, and show at once what does not answer. */
export const client = new Client(location.origin, { token: token.get, patienceMs: 0 });

/** An answer that is an error: `code` and `message` are those of problem+json, `body` is the rest. */
export class Problem extends Error {
  constructor({ status, code, message, details }) {
    super(message);
    this.status = status;
    this.code = code;
    this.body = details;
  }

  /** The route does not exist: this worker runs an older version. */
  get isAbsent() {
    return (this.status === 404 && (this.code === "not-found" || this.code === "http-404")) || this.status === 405;
  }
}

/** Throws a Problem for what the worker refuses, another error where it does not answer. */
export async function ask(path, { method = "GET", body, waitMs = ANSWER_MS } = {}) {
  try {
    return await client.json(path, { method, body, answerMs: waitMs });
  } catch (error) {
    if (error instanceof StreamflowError && error.status !== null) throw new Problem(error);
    throw error;
  }
}

/** `path("/v1/tables", name, "rows")`: each part encoded once. */
export function path(base, ...parts) {
  return [base, ...parts.map(encodeURIComponent)].join("/");
}

/** What is given, as a query string with its question mark; nothing for what is empty. */
export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

/** The same request for a shell. */
export function curl(address, { method = "GET", accept } = {}) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const words = ["curl", "-fsS"];
  if (method !== "GET") words.push("-X", method);
  if (token.get()) words.push("-H", '"Authorization: Bearer $STREAMFLOW_TOKEN"');
  if (accept) words.push("-H", quote(`Accept: ${accept}`));
  return [...words, quote(new URL(address, location.origin).href)].join(" ");
}

/**
 * Asks now and every `everyMs` until it is stopped, never twice at once.
 * `told(answer)` or `failed(error, sinceMs)`: how long there has been no answer.
 */
export class Poll {
  constructor(address, everyMs, told, failed = () => {}) {
    this.address = address; // text, or a function that gives it
    this.everyMs = everyMs;
    this.told = told;
    this.failed = failed;
    this.answeredAt = null; // performance.now() of the last answer
    this.startedAt = performance.now();
    this.isStopped = false;
    this.round();
  }

  async round() {
    clearTimeout(this.timer);
    const asked = (this.asked = {});
    try {
      const address = typeof this.address === "function" ? this.address() : this.address;
      const said = await ask(address);
      if (this.isStopped || this.asked !== asked) return;
      this.answeredAt = performance.now();
      this.told(said);
    } catch (failure) {
      if (this.isStopped || this.asked !== asked) return;
      this.failed(failure, performance.now() - (this.answeredAt ?? this.startedAt));
    }
    this.timer = setTimeout(() => this.round(), this.everyMs);
  }

  stop() {
    this.isStopped = true;
    clearTimeout(this.timer);
  }
}
