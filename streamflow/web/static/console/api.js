// Questions to this worker: with the token, with a limit of time, and with problems as errors.

const ANSWER_MS = 6000; // a worker that says nothing for so long does not answer

/** An answer that is an error: `code` and `detail` are those of problem+json. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `status ${status}`);
    this.status = status;
    this.code = body.code ?? "";
    this.body = body;
  }

  /** The route does not exist: this worker runs an older version. */
  get isAbsent() {
    return this.status === 404 && (this.code === "not-found" || this.code === "") || this.status === 405;
  }
}

export const events = new EventTarget(); // "unauthorized"

export const token = {
  get: () => sessionStorage.getItem("token"),
  set: (text) => sessionStorage.setItem("token", text),
};

export async function ask(path, { method = "GET", body, headers = {}, waitMs = ANSWER_MS } = {}) {
  const sent = { ...headers };
  if (token.get()) sent.Authorization = `Bearer ${token.get()}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const response = await fetch(path, {
    method,
    headers: sent,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-cache",
    signal: AbortSignal.timeout(waitMs),
  });
  if (response.status === 401) events.dispatchEvent(new Event("unauthorized"));
  const isJson = (response.headers.get("Content-Type") ?? "").includes("json");
  const said = isJson ? await response.json() : {};
  if (!response.ok) throw new Problem(response.status, said);
  return said;
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
