// The client of a streamflow app, for browsers and Node (22; 20 with --experimental-websocket): one ES module
// without dependencies, typed by streamflow-client.d.ts. The pages of the worker use it, too.
//
//   import { Client } from "/static/streamflow-client.js";
//   const client = new Client();                      // new Client(["http://a:6066", "http://b:6066"], { token })
//   const row = await client.get("orders_by_user", "ann");            // its newest window's row, or null
//   for await (const row of client.rows("orders_by_user", { state: "closed" })) …
//   const table = client.live("orders_by_user");      // keeps itself up to date, whatever happens to workers
//   table.addEventListener("change", ({ detail }) => detail.changes); // [{ op, key, window, value, partition }]
//   table.get("ann"); table.size; [...table.rows()]; table.state;     // "connecting", "live", "stale", "closed"
//
// Exports: Client (get, rows, windows, tables, table, json, live, topic, publish, send, connect, close; events
// "state", "unauthorized", "error"), LiveTable (events "change", "reset", "progress", "synced", "state"), LiveTopic (events
// "events", "reset", "state"), StreamflowError (code, status, retry, details), rowId(row).
//
// What is kept: the rows of a LiveTable equal the table at `table.position`, but for `table.missing` partitions. Rows
// that were voided stay in view, as stale ones, until those in their place are complete; then all change in one step.
// Whole numbers beyond 2^53 come as BigInt and may be given so.

const PROTOCOL = "streamflow.v1+json";
const FIRST_WAIT_MS = 500;
const NEXT_WORKER_MS = 100; // to another worker, before all of them have been tried
const WAIT_MAX_MS = 8_000;
const AGAIN_MS = 1_000; // a subscription that was refused for now
const OPEN_MS = 10_000; // from connecting to `ack`
const SILENT_MS = 5_000; // a connection that says nothing for so long is asked whether it lives,
const PONG_MS = 5_000; // and has so long to answer
const LOOK_MS = 500;
const ANSWER_MS = 10_000; // of one HTTP request
const PATIENCE_MS = 15_000; // of a question with all its repetitions
const ID_MAX = 100;
// Behind these even what must not happen twice may be asked again; a broker that has gone may have written some of it.
const NOTHING_DONE = new Set(["not-ready", "another-app", "too-many-requests", "http-429"]);

const UNAUTHORIZED = 4401;
const HOPELESS = new Map([
  [1008, "policy"],
  [1009, "too-large"],
  [4400, "bad-message"],
  [4403, "forbidden"],
  [4406, "subprotocol"],
]);
const PASSING = new Set([421, 429, 502, 503, 504]); // statuses that another worker, or this one later, may not answer

/**
 * Why something can't be had: `code` is a word, `retry` says whether the same may be had later; `isUnknown`: what was
 * sent may be there, or not.
 */
export class StreamflowError extends Error {
  constructor(code, message, { status = null, retry = false, isUnknown = false, details = {}, cause } = {}) {
    super(message, { cause });
    this.name = "StreamflowError";
    this.code = code;
    this.status = status;
    this.retry = retry;
    this.isUnknown = isUnknown;
    this.details = details;
  }
}

// -- JSON with whole numbers of any size -----------------------------------------------------------------------

const LONG_DIGITS = /\d{16}/;
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const WHOLE = /^-?\d+$/;
const BIG = `big ${randomText()} `; // what nobody can have written into a text
const BIG_TEXT = new RegExp(`"${BIG}(-?\\d+)"`, "g");

export function decode(text) {
  if (!LONG_DIGITS.test(text)) return JSON.parse(text);
  const marked = text.replace(TOKENS, (token) =>
    WHOLE.test(token) && !Number.isSafeInteger(Number(token)) ? `"${BIG}${token}"` : token);
  return JSON.parse(marked, (_, value) => (typeof value === "string" && value.startsWith(BIG) ? BigInt(value.slice(BIG.length)) : value));
}

export function encode(value) {
  let hasBig = false;
  const text = JSON.stringify(value, (_, each) => {
    if (typeof each !== "bigint") return each;
    hasBig = true;
    return `${BIG}${each}`;
  });
  return hasBig ? text.replaceAll(BIG_TEXT, "$1") : text;
}

/** One text for each key, whatever the order of an object's members. */
function canonical(key) {
  if (typeof key === "string") return JSON.stringify(key);
  if (Array.isArray(key)) return `[${key.map(canonical).join()}]`;
  if (key !== null && typeof key === "object") {
    const members = Object.keys(key).sort().map((name) => `${JSON.stringify(name)}:${canonical(key[name])}`);
    return `{${members.join()}}`;
  }
  return encode(key) ?? "null";
}

/** What makes two rows the same one: partition, key and window. */
export function rowId(row) {
  return `${row.partition}|${row.window?.start ?? ""}|${row.window?.end ?? ""}|${canonical(row.key)}`;
}

const now = () => performance.now();
const jittered = (ms) => ms * (0.75 + Math.random() / 2);
const sleep = (ms, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
});

class Teller extends EventTarget {
  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

// -- the connection ------------------------------------------------------------------------------------------------

/** One WebSocket for everything that is live; comes back by itself, to the next worker where there are several. */
class Connection extends Teller {
  constructor(urls, token, WebSocketClass) {
    super();
    this.urls = urls;
    this.token = token;
    this.WebSocketClass = WebSocketClass;
    this.subscriptions = new Map(); // id -> Subscription
    this.refused = new Set(); // to be asked for again a little later
    this.publishing = new Map(); // id -> {frame, isSent, resolve, reject}
    this.features = new Set();
    this.limits = {};
    this.state = "connecting";
    this.reason = null; // {code, message}
    this.isOpen = false;
    this.heardAt = null;
    this.at = 0; // index of the worker
    this.tries = 0; // since the last `ack`
    this.drainMs = null; // how long the worker that goes asks to stay away
    this.pingedAt = null;
    this.socket = null;
    this.timer = null;
    this.uses = new Map(); // table or topic -> how many ids were made of it
    this.count = 0;
    this.online = () => this.#retryNow();
  }

  /** An id that is the same for most clients, so that a worker encodes once for all of them; never used twice. */
  nextId(name) {
    const uses = (this.uses.get(name) ?? 0) + 1;
    this.uses.set(name, uses);
    return uses === 1 ? name.slice(0, ID_MAX) : `${name.slice(0, ID_MAX)}#${uses}`;
  }

  add(subscription) {
    this.subscriptions.set(subscription.id, subscription);
    if (this.state === "closed") subscription.end(this.reason);
    else if (this.isOpen) this.ask(subscription);
    else this.start();
  }

  remove(subscription) {
    if (!this.subscriptions.delete(subscription.id)) return;
    if (this.isOpen) this.say({ t: "unsubscribe", id: subscription.id });
  }

  ask(subscription) {
    const { refusal } = subscription;
    if (refusal) this.#end(subscription, refusal);
    else this.say(subscription.frame());
  }

  #end(subscription, reason) {
    this.subscriptions.delete(subscription.id);
    subscription.end(reason);
  }

  publish(members, patienceMs) {
    return new Promise((resolve, reject) => {
      const id = `p${(this.count += 1)}`;
      const timer = setTimeout(() => {
        if (!said.isSent) this.#settle(id, new StreamflowError("unreachable", "no worker could be reached", { retry: true }));
      }, patienceMs);
      const said = { frame: { t: "publish", id, ...members }, isSent: false, timer, resolve, reject };
      this.publishing.set(id, said);
      if (this.state === "closed") this.#settle(id, new StreamflowError(this.reason.code, this.reason.message));
      else if (this.isOpen) this.#send(id, said);
      else this.start();
    });
  }

  #send(id, said) {
    if (!this.features.has("publish")) {
      this.#settle(id, new StreamflowError("not-supported", "this worker takes no events from clients over the WebSocket"));
      return;
    }
    said.isSent = true;
    this.say(said.frame);
  }

  #settle(id, error, position) {
    const said = this.publishing.get(id);
    this.publishing.delete(id);
    clearTimeout(said.timer);
    if (error) said.reject(error);
    else said.resolve(position);
  }

  say(message) {
    this.socket.send(encode(message));
  }

  /** Connects, unless that is under way. */
  start() {
    if (this.socket || this.timer) return;
    this.ticker ??= setInterval(() => this.#look(), LOOK_MS);
    globalThis.addEventListener?.("online", this.online);
    this.#connect();
  }

  /** Anew after an end, for instance with another token. */
  restart() {
    this.reason = { code: "connecting", message: "connecting" };
    this.tries = 0;
    this.#become(this.heardAt === null ? "connecting" : "stale");
    for (const subscription of this.subscriptions.values()) subscription.lost(this.reason);
    this.start();
  }

  #retryNow() {
    if (!this.timer) return;
    clearTimeout(this.timer);
    this.timer = null;
    this.#connect();
  }

  stop(reason) {
    clearTimeout(this.timer);
    clearInterval(this.ticker);
    this.timer = this.ticker = null;
    globalThis.removeEventListener?.("online", this.online);
    const { socket } = this;
    this.socket = null;
    this.isOpen = false;
    this.reason = reason;
    this.#become("closed");
    if (socket) {
      forget(socket);
      socket.close(1000);
    }
    for (const id of [...this.publishing.keys()]) this.#settle(id, new StreamflowError(reason.code, reason.message));
    for (const subscription of [...this.subscriptions.values()]) subscription.end(reason);
  }

  async #connect() {
    const place = {}; // holds the place while the token is fetched
    this.socket = place;
    this.startedAt = now();
    this.wasAcked = false;
    try {
      const token = await this.token();
      if (this.socket === place) this.#open(token);
    } catch (cause) {
      if (this.socket === place) this.#lost(1006, cause.message);
    }
  }

  #open(token) {
    const address = new URL(this.urls[this.at]);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    address.pathname = address.pathname.replace(/\/*$/, "/v1/ws");
    const socket = new this.WebSocketClass(address.href, PROTOCOL);
    this.socket = socket;
    this.startedAt = now();
    socket.onopen = () => this.say(token ? { t: "init", token } : { t: "init" });
    socket.onmessage = ({ data }) => this.#hear(decode(data));
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
    socket.onerror = () => {}; // `close` follows
  }

  #hear(said) {
    this.heardAt = now();
    this.pingedAt = null;
    if (said.t === "ack") {
      this.isOpen = this.wasAcked = true;
      this.tries = 0;
      this.drainMs = null;
      this.features = new Set(said.features ?? []);
      this.limits = said.limits ?? {};
      this.#become("live");
      this.refused.clear();
      for (const subscription of [...this.subscriptions.values()]) this.ask(subscription);
      for (const [id, waiting] of [...this.publishing]) this.#send(id, waiting);
    } else if (said.t === "draining") {
      this.drainMs = said.reconnect_in_ms;
    } else if (said.t === "published" && this.publishing.has(said.id)) {
      this.#settle(said.id, null, said.position);
    } else if (said.t === "error" && this.publishing.has(said.id)) {
      this.#settle(said.id, refusalOf(said));
    } else if (said.t === "error" && !this.subscriptions.has(said.id)) {
      this.tell("error", refusalOf(said));
    } else if (said.t === "error") {
      this.#refused(this.subscriptions.get(said.id), said);
    } else {
      this.subscriptions.get(said.id)?.hear(said);
    }
  }

  /** A subscription that can't be had: asked for again where that may help. */
  #refused(subscription, said) {
    if (!said.retry) {
      this.#end(subscription, { code: said.code, message: said.message });
      return;
    }
    subscription.lost({ code: said.code, message: said.message });
    this.refused.add(subscription);
    if (this.refused.size === 1) setTimeout(() => this.#askAgain(), jittered(AGAIN_MS));
  }

  #askAgain() {
    const { refused } = this;
    this.refused = new Set();
    for (const subscription of refused) if (this.isOpen && this.subscriptions.has(subscription.id)) this.ask(subscription);
  }

  /** Notices a connection that stays silent: what is gone without a word is never closed. */
  #look() {
    if (!this.socket) return;
    if (!this.isOpen) {
      if (now() - this.startedAt > OPEN_MS) this.#abandon("no answer");
    } else if (this.pingedAt) {
      if (now() - this.pingedAt > PONG_MS) this.#abandon("silent");
    } else if (now() - this.heardAt > SILENT_MS) {
      this.pingedAt = now();
      this.say({ t: "ping" });
    }
  }

  #abandon(text) {
    const { socket } = this;
    forget(socket);
    socket.close?.();
    this.#lost(1006, text);
  }

  #lost(code, text) {
    const wasAcked = this.wasAcked;
    this.socket = null;
    this.isOpen = this.wasAcked = false;
    this.pingedAt = null;
    for (const [id, said] of [...this.publishing]) {
      if (said.isSent) this.#settle(id, new StreamflowError("outcome-unknown", "the connection was lost before the worker had answered", { retry: true, isUnknown: true }));
    }
    if (code === UNAUTHORIZED && !wasAcked) {
      this.stop({ code: "unauthorized", message: text || "a valid token is needed" });
      this.tell("unauthorized", {});
      return;
    }
    if (HOPELESS.has(code)) {
      this.stop({ code: HOPELESS.get(code), message: text || `closed with ${code}` });
      return;
    }
    this.reason = { code: code === UNAUTHORIZED ? "unauthorized" : "connection-lost", message: text || `closed with ${code}` };
    for (const subscription of this.subscriptions.values()) subscription.lost(this.reason);
    const waitMs = this.#nextWait();
    this.#become(this.heardAt === null ? "connecting" : "stale");
    this.timer = setTimeout(() => this.#retryNow(), waitMs);
  }

  /** How long until the next try, which is the next worker's. */
  #nextWait() {
    const round = Math.floor(this.tries / this.urls.length);
    const isRoundOver = (this.tries + 1) % this.urls.length === 0;
    this.tries += 1;
    this.at = (this.at + 1) % this.urls.length;
    const { drainMs } = this;
    this.drainMs = null;
    // All clients of a worker come at once: those that it asked to wait spread over that time.
    if (drainMs !== null) return drainMs * (this.urls.length > 1 ? Math.random() : 0.75 + Math.random() / 2);
    return jittered(isRoundOver ? Math.min(FIRST_WAIT_MS * 2 ** round, WAIT_MAX_MS) : NEXT_WORKER_MS);
  }

  get ageMs() {
    return this.heardAt === null ? null : now() - this.heardAt;
  }

  #become(state) {
    this.state = state;
    this.tell("state", { state, reason: state === "live" ? null : this.reason });
  }
}

function forget(socket) {
  socket.onopen = socket.onmessage = socket.onclose = null;
}

function refusalOf(said) {
  const { code, message, retry = false, t, id, ...details } = said;
  return new StreamflowError(code, message, { retry, details });
}

// -- subscriptions -------------------------------------------------------------------------------------------------

/** What a live table and a live topic have in common. Event "state" {state, reason}. */
class Subscription extends Teller {
  constructor(connection, name, wanted) {
    super();
    this.id = connection.nextId(name);
    this.state = "connecting";
    this.reason = null; // {code, message}, while it is stale or closed
    this.position = null; // partition -> next offset, decimal strings
    this.cursor = null;
    this.connection = connection;
    this.wanted = wanted;
    this.isSubscribed = false;
    this.wasLive = false;
    this.currentAt = null; // when it was last known to be current
  }

  begin() {
    this.connection.add(this);
    return this;
  }

  get refusal() {
    return null;
  }

  frame() {
    const wanted = { t: "subscribe", id: this.id, ...this.wanted };
    return this.cursor ? { ...wanted, since: this.cursor } : wanted;
  }

  /** How long ago it was known to be current; null if it never was. */
  get ageMs() {
    if (this.state === "live") return this.connection.ageMs;
    return this.currentAt === null ? null : now() - this.currentAt;
  }

  /** Resolves when it is live; rejects with a StreamflowError when it can't be. */
  ready() {
    return new Promise((resolve, reject) => {
      const look = () => {
        if (this.state === "live") resolve(this);
        else if (this.state === "closed") reject(new StreamflowError(this.reason.code, this.reason.message));
        else return;
        this.removeEventListener("state", look);
      };
      this.addEventListener("state", look);
      look();
    });
  }

  close() {
    this.connection.remove(this);
    this.end({ code: "closed", message: "closed by this side" });
  }

  /** Told by the connection: nothing comes for now. */
  lost(reason) {
    this.isSubscribed = false;
    this.become(this.wasLive ? "stale" : "connecting", reason);
  }

  end(reason) {
    this.isSubscribed = false;
    this.become("closed", reason);
  }

  become(state, reason = null) {
    if (this.state === "live" && state !== "live") this.currentAt = now();
    if (state === "live") this.wasLive = true;
    if (this.state === state && this.reason?.code === reason?.code && this.reason?.message === reason?.message) return;
    this.state = state;
    this.reason = reason;
    this.tell("state", { state, reason });
  }
}

/**
 * A table that keeps itself up to date: a Map from key to value, of the key's newest window where there are windows;
 * `rows()` and `windows(key)` give all of them. Events: "change" {changes, isSnapshot, position}: what is different,
 * all of one step at once; "reset" {reason, partitions}: some rows may be wrong until the next "change"; "progress"
 * {position, watermark}; "synced" {position}: from here on every change is told; "state" {state, reason}. With
 * `snapshot: false` it keeps no rows and only tells changes: those between "synced" and the next "reset" are all there
 * were.
 */
export class LiveTable extends Subscription {
  #index = new Map(); // canonical key -> its rows, oldest window first
  #rowCount = 0;
  #staged = null; // {partitions: Set or null for all, isReset, rows: Map} while a snapshot comes
  #held = []; // of a step that comes in several messages

  constructor(connection, table, { key, keys, prefix, window, snapshot = true, mode = "latest", maxHz } = {}) {
    const wanted = { table, key, keys, prefix, window, snapshot, mode, max_hz: maxHz };
    for (const name of Object.keys(wanted)) if (wanted[name] === undefined) delete wanted[name];
    super(connection, table, wanted);
    this.table = table;
    this.keepsRows = snapshot;
    this.missing = []; // partitions whose rows are old, since nobody has them now
    this.watermark = null; // RFC 3339
  }

  // Map-like: key -> value of its newest window

  get size() {
    return this.#index.size;
  }

  has(key) {
    return this.#index.has(canonical(key));
  }

  get(key, start) {
    return this.row(key, start)?.value;
  }

  *keys() {
    for (const rows of this.#index.values()) yield rows.at(-1).key;
  }

  *values() {
    for (const rows of this.#index.values()) yield rows.at(-1).value;
  }

  *entries() {
    for (const rows of this.#index.values()) yield [rows.at(-1).key, rows.at(-1).value];
  }

  [Symbol.iterator]() {
    return this.entries();
  }

  forEach(visit, self) {
    for (const [key, value] of this) visit.call(self, value, key, this);
  }

  // Rows

  get rowCount() {
    return this.#rowCount;
  }

  /** The row of a key: of its newest window, or of the one that starts at `start` (RFC 3339 or Date). */
  row(key, start) {
    const rows = this.#index.get(canonical(key)) ?? [];
    if (start === undefined) return rows.at(-1);
    const at = new Date(start).getTime();
    return rows.findLast((row) => startOf(row) === at);
  }

  /** All rows of a key, oldest window first. */
  windows(key) {
    return [...(this.#index.get(canonical(key)) ?? [])];
  }

  *rows() {
    for (const rows of this.#index.values()) yield* rows;
  }

  // What the worker says

  lost(reason) {
    this.#held = [];
    this.#staged = null;
    super.lost(reason);
  }

  hear(said) {
    if (said.t === "subscribed") this.#subscribed(said);
    else if (!this.isSubscribed) return; // of a subscription before
    else if (said.t === "snapshot") for (const row of said.rows) this.#staged?.rows.set(rowId(row), row);
    else if (said.t === "changes") this.#changed(said);
    else if (said.t === "synced") this.#synced(said);
    else if (said.t === "progress") this.#progress(said);
    else if (said.t === "reset") this.#reset(said);
    else if (said.t === "rebalancing") this.#rebalancing(said.partitions);
  }

  #subscribed({ recovered }) {
    this.isSubscribed = true;
    this.#held = [];
    // Not its cursor: with `recovered` that is ahead of what is still to come.
    if (recovered) this.#staged = null;
    else this.#stage(null, false);
    if (!recovered) this.cursor = null;
  }

  #reset({ reason, partitions }) {
    this.cursor = null;
    this.#held = [];
    this.#stage(partitions ? new Set(partitions) : null, true);
    if (this.wasLive) this.become("stale", { code: "reset", message: reason ?? "reset" });
    this.tell("reset", { reason, partitions: partitions ?? null });
  }

  /** Begins to gather what takes the place of what is void: all of it with what was void before. */
  #stage(partitions, isReset) {
    if (!this.keepsRows) return;
    const before = this.#staged;
    let voided = partitions;
    // A subscription that can't resume is told so twice, the second time with the partitions.
    if (before?.isReset) voided = before.partitions && partitions ? new Set([...before.partitions, ...partitions]) : null;
    this.#staged = { partitions: voided, isReset, rows: new Map() };
  }

  #synced({ cursor, position, partitions }) {
    this.cursor = cursor;
    this.position = position;
    const shown = new Set(partitions ?? this.missing);
    this.missing = this.missing.filter((partition) => !shown.has(partition));
    this.#unstage();
    this.#settle();
    this.tell("synced", { position });
  }

  #rebalancing(partitions) {
    this.missing = [...partitions];
    if (this.wasLive && !this.#staged) this.#settle();
  }

  #settle() {
    if (!this.missing.length) this.become("live");
    else this.become(this.wasLive || this.rowCount ? "stale" : "connecting", { code: "rebalancing", message: `partitions are moving: ${this.missing.join(", ")}` });
  }

  #progress({ position, watermark }) {
    this.position = position;
    this.watermark = watermark ?? this.watermark;
    this.tell("progress", { position, watermark: this.watermark });
  }

  #changed({ rows, more, cursor, position }) {
    if (more) {
      this.#held.push(...rows);
      return;
    }
    const all = this.#held.length ? [...this.#held, ...rows] : rows;
    this.#held = [];
    const changes = [];
    for (const change of all) {
      if (this.#staged && this.#isStaged(change)) {
        const { op, ...row } = change;
        if (op === "upsert") this.#staged.rows.set(rowId(row), row);
        else this.#staged.rows.delete(rowId(row));
      } else {
        this.#apply(change);
        changes.push(change);
      }
    }
    this.cursor = cursor;
    this.position = position;
    if (changes.length) this.tell("change", { changes, isSnapshot: false, position });
  }

  #isStaged(row) {
    return this.#staged.partitions === null || this.#staged.partitions.has(row.partition);
  }

  #apply(change) {
    if (!this.keepsRows) return;
    const { op, ...row } = change;
    if (op === "upsert") this.#put(row);
    else this.#drop(row);
  }

  /** A snapshot is complete: it takes the place of what it voided, in one step. */
  #unstage() {
    const staged = this.#staged;
    this.#staged = null;
    if (!staged) return;
    const changes = [];
    for (const row of [...this.rows()]) {
      if (staged.partitions !== null && !staged.partitions.has(row.partition)) continue;
      const id = rowId(row);
      const fresh = staged.rows.get(id);
      if (!fresh) changes.push({ op: "delete", ...row, value: null });
      else if (canonical([fresh.value, fresh.window]) === canonical([row.value, row.window])) staged.rows.delete(id);
    }
    for (const row of staged.rows.values()) changes.push({ op: "upsert", ...row });
    for (const change of changes) this.#apply(change);
    this.tell("change", { changes, isSnapshot: true, position: this.position });
  }

  #put(row) {
    const text = canonical(row.key);
    const rows = this.#index.get(text);
    if (!rows) {
      this.#index.set(text, [row]);
      this.#rowCount += 1;
      return;
    }
    const place = rows.findIndex((known) => isSame(known, row));
    if (place >= 0) {
      rows[place] = row;
      return;
    }
    let after = rows.length;
    while (after > 0 && startOf(rows[after - 1]) > startOf(row)) after -= 1;
    rows.splice(after, 0, row);
    this.#rowCount += 1;
  }

  #drop(row) {
    const text = canonical(row.key);
    const rows = this.#index.get(text);
    const place = rows ? rows.findIndex((known) => isSame(known, row)) : -1;
    if (place < 0) return;
    this.#rowCount -= 1;
    if (rows.length === 1) this.#index.delete(text);
    else rows.splice(place, 1);
  }
}

function startOf(row) {
  return row.window?.start ? Date.parse(row.window.start) : -Infinity;
}

/** Of two rows with the same key. */
function isSame(one, other) {
  return one.partition === other.partition && one.window?.start === other.window?.start && one.window?.end === other.window?.end;
}

/**
 * The events of a topic, as they are committed. Events: "events" {records, cursor}: [{key, value, timestamp, partition,
 * offset, headers}]; "reset" {reason, partitions}: some that came meanwhile are lost; "state" {state, reason}.
 */
export class LiveTopic extends Subscription {
  constructor(connection, topic, { where, since } = {}) {
    super(connection, topic, where === undefined ? { topic } : { topic, where });
    this.topic = topic;
    this.cursor = since ?? null;
  }

  /** Today's workers end a connection for a message that they don't know: asked only where it is offered. */
  get refusal() {
    if (this.connection.features.has("topics")) return null;
    return { code: "not-supported", message: "this worker tells no topics over the WebSocket" };
  }

  hear(said) {
    if (said.t === "subscribed") {
      this.isSubscribed = true;
      this.become("live");
    } else if (said.t === "events") {
      this.cursor = said.cursor;
      this.tell("events", { records: said.records, cursor: said.cursor });
    } else if (said.t === "reset") {
      this.cursor = said.cursor ?? null;
      this.tell("reset", { reason: said.reason, partitions: said.partitions ?? null });
    } else if (said.t === "synced") {
      this.cursor = said.cursor;
      this.position = said.position;
      this.become("live");
    } else if (said.t === "rebalancing") {
      this.become("stale", { code: "rebalancing", message: `partitions are moving: ${said.partitions.join(", ")}` });
    }
  }
}

// -- the client ----------------------------------------------------------------------------------------------------

/**
 * `urls`: one address of a worker, or several; without, that of the page. `token`: text, or a function that gives one
 * (or a promise of one, or null) each time when it is needed. `patienceMs`: how long a question is asked again when
 * workers don't answer, or can't now; 0: once. Events: "state" {state, reason} of the connection, "unauthorized",
 * "error" (a StreamflowError that belongs to no subscription).
 */
export class Client extends Teller {
  #urls;
  #token;
  #connection;
  #at = 0;

  constructor(urls = globalThis.location?.origin, { token = null, patienceMs = PATIENCE_MS, WebSocket = globalThis.WebSocket, fetch = globalThis.fetch } = {}) {
    super();
    this.#urls = (Array.isArray(urls) ? urls : [urls]).map((url) => new URL(url).href.replace(/\/+$/, ""));
    if (!this.#urls.length) throw new StreamflowError("no-url", "a client needs the address of a worker");
    this.#token = typeof token === "function" ? token : () => token;
    this.patienceMs = patienceMs;
    this.fetch = fetch;
    this.#connection = new Connection(this.#urls, async () => this.#token(), WebSocket);
    for (const name of ["state", "unauthorized", "error"]) {
      this.#connection.addEventListener(name, ({ detail }) => this.tell(name, detail));
    }
  }

  /** Of the connection: "connecting", "live", "stale" (it was lost, and comes back by itself) or "closed". */
  get state() {
    return this.#connection.state;
  }

  get reason() {
    return this.#connection.reason;
  }

  /** How long ago the connection was last heard of; null if never. */
  get ageMs() {
    return this.#connection.ageMs;
  }

  /** What the worker offers beyond tables: "topics", "publish", "presence". Known once the state is "live". */
  get features() {
    return this.#connection.features;
  }

  /** Connects now, not only with the first subscription; again after an end, as with a new token. */
  connect() {
    if (this.state === "closed") this.#connection.restart();
    else this.#connection.start();
  }

  close() {
    this.#connection.stop({ code: "closed", message: "closed by this side" });
  }

  live(table, options) {
    return new LiveTable(this.#connection, table, options).begin();
  }

  topic(topic, options) {
    return new LiveTopic(this.#connection, topic, options).begin();
  }

  /** One event into a topic over the WebSocket; its place. Code "outcome-unknown": it may be there or not. */
  publish(topic, { key, value, headers } = {}) {
    const members = { topic, value };
    if (key !== undefined) members.key = key;
    if (headers !== undefined) members.headers = headers;
    return this.#connection.publish(members, this.patienceMs);
  }

  /** One event, or an array of them, over HTTP: {key, value, headers, timestamp, partition}; their places. */
  async send(topic, events, { idempotencyKey = randomText(), ...options } = {}) {
    const answer = await this.json(`/v1/topics/${encodeURIComponent(topic)}`, {
      method: "POST",
      body: Array.isArray(events) ? { events } : events,
      headers: { "Idempotency-Key": idempotencyKey },
      ...options,
    });
    return answer.positions;
  }

  async tables(options) {
    return (await this.json("/v1/tables", options)).tables;
  }

  table(table, options) {
    return this.json(pathOf(table), options);
  }

  /** The row of a key, of its newest window or of the one that holds `at`; null where there is none. */
  async get(table, key, { at, minPosition, ...options } = {}) {
    const query = { at: timeText(at), min_position: positionText(minPosition) };
    try {
      return await this.#ofKey(table, key, "", query, options);
    } catch (error) {
      if (error.code === "no-such-key") return null;
      throw error;
    }
  }

  /** All rows, page by page: an async iterable of rows, with `pages()` and `toArray()`. */
  rows(table, options = {}) {
    return new Rows((query, rest) => this.json(`${pathOf(table)}/rows`, { query, ...rest }), options, this.patienceMs);
  }

  /** The windows of a key, likewise. */
  windows(table, key, options = {}) {
    return new Rows((query, rest) => this.#ofKey(table, key, "/windows", query, rest), options, this.patienceMs);
  }

  async #ofKey(table, key, tail, query, options) {
    const text = typeof key === "string" ? key : encode(key);
    const ask = (segment, more) => this.json(`${pathOf(table)}/keys/${segment}${tail}`, { query: { ...query, ...more }, ...options });
    if (text !== "." && text !== "..") return ask(encodeURIComponent(text), {});
    // A URL can't hold these, however they are spelt: given as bytes, plain ones or JSON, as the table's keys are.
    try {
      return await ask("-", { key_b64: btoa(text) });
    } catch (error) {
      if (error.code !== "bad-key") throw error;
      return ask("-", { key_b64: btoa(encode(text)) });
    }
  }

  /**
   * Any question to a worker: the JSON that it answers. Asked again, the next worker first, where one does not answer
   * or can't now. Throws StreamflowError with the problem's code; "unreachable" where nobody answers.
   */
  async json(path, { query = {}, method = "GET", body, headers = {}, signal, patienceMs = this.patienceMs, answerMs = ANSWER_MS } = {}) {
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) {
      for (const each of [value].flat()) if (each !== undefined && each !== null) parameters.append(name, each);
    }
    const tail = parameters.size ? `${path}?${parameters}` : path;
    const end = now() + patienceMs;
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.#once(this.#urls[this.#at] + tail, { method, body, headers, signal, answerMs });
      } catch (error) {
        if (!(error instanceof StreamflowError) || !error.retry) throw error;
        if (error.isUnknown) throw error; // a second time is for the caller to decide
        this.#at = (this.#at + 1) % this.#urls.length;
        const isRoundOver = tries % this.#urls.length === 0;
        const waitMs = jittered(isRoundOver ? error.details.retryAfterMs ?? FIRST_WAIT_MS : NEXT_WORKER_MS);
        if (now() + waitMs > end) throw error;
        await sleep(waitMs, signal);
      }
    }
  }

  async #once(url, { method, body, headers, signal, answerMs }) {
    const sent = { Accept: "application/json", ...headers };
    const token = await this.#token();
    if (token) sent.Authorization = `Bearer ${token}`;
    if (body !== undefined) sent["Content-Type"] = "application/json";
    const limits = [AbortSignal.timeout(answerMs), ...(signal ? [signal] : [])];
    let response;
    let text;
    try {
      const { fetch } = this;
      response = await fetch(url, {
        method,
        headers: sent,
        body: body === undefined ? undefined : encode(body),
        cache: "no-cache",
        signal: limits.length > 1 ? AbortSignal.any(limits) : limits[0],
      });
      text = await response.text();
    } catch (cause) {
      signal?.throwIfAborted();
      const isUnknown = method !== "GET";
      throw new StreamflowError(isUnknown ? "outcome-unknown" : "unreachable", `${url} does not answer: ${cause.message}`, { retry: true, isUnknown, cause });
    }
    if (response.ok) return text ? decode(text) : null;
    if (response.status === 401) this.tell("unauthorized", {});
    const problem = problemOf(url, response, text);
    problem.isUnknown = method !== "GET" && problem.retry && !NOTHING_DONE.has(problem.code);
    throw problem;
  }
}

/** Pages of a list, one after the other. */
class Rows {
  #ask;
  #query;
  #options;
  #patienceMs;
  #takesPartial;

  constructor(ask, { start, end, minPosition, partial = false, cursor, signal, patienceMs, answerMs, ...query }, patienceMsDefault) {
    this.#ask = ask;
    const at = query.at === undefined ? {} : { at: timeText(query.at) };
    this.#query = { ...query, ...at, start: timeText(start), end: timeText(end), min_position: positionText(minPosition), cursor };
    this.#patienceMs = patienceMs ?? patienceMsDefault;
    this.#options = { signal, patienceMs: this.#patienceMs, ...(answerMs === undefined ? {} : { answerMs }) };
    this.#takesPartial = partial;
  }

  /** The pages as workers answer them: {rows, next, partial, missing_partitions, position, lag}. */
  async *pages() {
    let { cursor } = this.#query;
    do {
      const page = await this.#page(cursor);
      yield page;
      cursor = page.next;
    } while (cursor);
  }

  /** A page of which nothing is missing, unless `partial` was asked for. */
  async #page(cursor) {
    const end = now() + this.#patienceMs;
    for (;;) {
      const page = await this.#ask({ ...this.#query, cursor }, this.#options);
      if (!page.partial || this.#takesPartial) return page;
      const waitMs = jittered(FIRST_WAIT_MS);
      if (now() + waitMs > end) {
        const missing = page.missing_partitions;
        throw new StreamflowError("partial", `nobody answers for partitions ${missing.join(", ")}`, { retry: true, details: { missing_partitions: missing } });
      }
      await sleep(waitMs, this.#options.signal);
    }
  }

  async *[Symbol.asyncIterator]() {
    for await (const page of this.pages()) yield* page.rows;
  }

  async toArray() {
    const rows = [];
    for await (const page of this.pages()) rows.push(...page.rows);
    return rows;
  }
}

function pathOf(table) {
  return `/v1/tables/${encodeURIComponent(table)}`;
}

function timeText(at) {
  return at instanceof Date ? at.toISOString() : at;
}

/** {"0": "41"} as `0:41`. */
function positionText(position) {
  return position && Object.entries(position).map(([partition, offset]) => `${partition}:${offset}`).join();
}

function problemOf(url, response, text) {
  let problem = {};
  try {
    problem = decode(text);
  } catch {
    // Something between us and the worker has answered.
  }
  const { code = `http-${response.status}`, detail = `${url}: ${response.status}`, ...details } = problem ?? {};
  const after = Number(response.headers.get("Retry-After"));
  if (after > 0) details.retryAfterMs = after * 1_000;
  return new StreamflowError(code, detail, { status: response.status, retry: PASSING.has(response.status), details });
}

function randomText() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
