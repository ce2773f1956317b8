// The rows of one table that somebody looks at: loaded page by page in an order, and kept as they are live.
//
// What is loaded is everything up to the *horizon*, the last row of the newest page. A row that changes so that it
// comes before the horizon is taken in, one that goes behind it is given up: so the list stays that of the whole
// table, however little of it is loaded.

import { encode, rowId } from "/static/streamflow-client.js";
import { ask, path, query } from "./api.js";
import * as format from "./format.js";

export const ROWS_KEPT = 100_000;
const FIRST_PAGE = 200;
const PAGE = 1000;
const ORDER_MS = 1000; // rows change places at most so often: values may move, lines should rest
const RETRY_MS = 2000;
const PASSING = new Set(["reset", "rebalancing"]); // said otherwise
const LOST = new Set(["connecting", "connection-lost", "unauthorized", "closed"]);

export class Rows {
  /** `view`: {sort, prefix, state, start, end}. `changed()` is called when there is something new to draw. */
  constructor(table, view, changed) {
    this.table = table;
    this.view = view;
    this.changed = changed;
    this.rows = new Map(); // id -> {id, key, window, value, partition, size}
    this.order = []; // the same rows, sorted
    this.next = null;
    this.horizon = null;
    this.isLoading = false;
    this.isReady = false; // is what is shown a list that was loaded whole up to its horizon?
    this.isPaused = false;
    this.isLocal = false; // the worker can't sort so: only what is loaded is sorted
    this.held = [];
    this.flashing = new Set();
    this.missing = []; // partitions that nobody tells of
    this.trouble = ""; // why nothing comes
    this.lostAt = null;
    this.orderedAt = 0;
    this.mayMove = () => true;
    this.generation = 0;
    this.largest = 0;
  }

  get sortsByValue() {
    return !["window", "-window", "key", "-key"].includes(this.view.sort);
  }

  address(limit, cursor) {
    const { prefix, state, start, end, sort } = this.view;
    const asked = { prefix, state: state === "all" ? "" : state, start, end, sort: this.isLocal ? "-window" : sort, limit, cursor };
    return path("/v1/tables", this.table, "rows") + query(asked);
  }

  // -- loading ---------------------------------------------------------------------------------

  /** Everything anew, as far as it was loaded before. */
  async reload() {
    const generation = ++this.generation;
    const wanted = Math.min(Math.max(this.rows.size, FIRST_PAGE), ROWS_KEPT);
    this.isLoading = true;
    this.held = [];
    const rows = [];
    let next = null;
    try {
      do {
        const page = await this.page(Math.min(PAGE, wanted - rows.length || PAGE), next);
        if (generation !== this.generation) return;
        rows.push(...page.rows);
        next = page.next;
        this.told(page);
      } while (next && rows.length < wanted);
    } catch (failure) {
      if (generation !== this.generation) return;
      this.trouble = failure.message;
      this.isLoading = false;
      this.changed();
      if (failure.status !== 400 && failure.status !== 404) setTimeout(() => generation === this.generation && this.reload(), RETRY_MS);
      return;
    }
    this.rows.clear();
    for (const row of rows) this.put(row);
    this.trouble = "";
    this.lostAt = null;
    this.isReady = true;
    this.arrived(next);
  }

  async page(limit, cursor) {
    const wasLocal = this.isLocal;
    try {
      return await ask(this.address(limit, cursor));
    } catch (failure) {
      // A worker of an older version knows no order by value.
      if (wasLocal || failure.code !== "bad-parameter" || failure.body.parameter !== "sort" || !this.sortsByValue) throw failure;
      this.isLocal = true;
      return ask(this.address(PAGE, cursor));
    }
  }

  async more() {
    if (this.isLoading || !this.next || this.rows.size >= ROWS_KEPT || this.trouble) return;
    const generation = this.generation;
    this.isLoading = true;
    try {
      const page = await this.page(PAGE, this.next);
      if (generation !== this.generation) return;
      for (const row of page.rows) this.put(row);
      this.told(page);
      this.arrived(page.next);
    } catch {
      if (generation !== this.generation) return;
      setTimeout(() => {
        if (generation !== this.generation) return;
        this.isLoading = false;
        this.changed();
      }, RETRY_MS);
    }
  }

  told(page) {
    if (page.missing_partitions) this.missing = page.missing_partitions;
  }

  arrived(next) {
    this.next = next;
    this.isLoading = false;
    this.sort();
    this.horizon = next && !this.isLocal ? this.order.at(-1) ?? null : null;
    this.replay();
    this.changed();
  }

  // -- changes ---------------------------------------------------------------------------------

  /** Follows a LiveTable that tells changes only. Returns what ends that. */
  follow(feed) {
    const told = {
      change: ({ changes }) => this.take(changes),
      reset: () => { this.isVoid = true; },
      synced: () => this.synced(feed),
      state: ({ state, reason }) => this.became(state, reason, feed),
    };
    for (const [name, take] of Object.entries(told)) {
      feed.addEventListener(name, ({ detail }) => {
        take(detail);
        this.changed();
      });
    }
    return () => feed.close();
  }

  /** From here on every change is told; was anything lost before? */
  synced(feed) {
    this.missing = feed.missing;
    this.trouble = "";
    if (this.isVoid || !this.isReady) this.reload();
    else this.lostAt = null;
    this.isVoid = false;
  }

  became(state, reason, feed) {
    this.missing = feed.missing;
    if (state === "live" || PASSING.has(reason.code)) return;
    this.lostAt ??= Date.now();
    if (!LOST.has(reason.code)) this.trouble = reason.message;
  }

  take(changes) {
    if (this.isLoading || this.isPaused || !this.isReady) {
      this.held.push(...changes);
      if (this.held.length > ROWS_KEPT) this.overrun();
      return;
    }
    for (const change of changes) this.apply(change);
  }

  /** Too much came while nothing was shown: what is shown later is read anew. */
  overrun() {
    this.held = [];
    this.mustReload = true;
  }

  replay() {
    if (this.isPaused) return;
    const held = this.held;
    this.held = [];
    for (const change of held) this.apply(change);
  }

  pause() {
    this.isPaused = true;
    this.changed();
  }

  resume() {
    this.isPaused = false;
    if (this.mustReload) {
      this.mustReload = false;
      this.reload();
    } else this.replay();
    this.changed();
  }

  apply(change) {
    const id = rowId(change);
    if (change.op !== "upsert" || !this.wants(change)) {
      if (this.rows.delete(id)) this.isUnsorted = true;
      return;
    }
    const row = this.make(change);
    if (this.horizon && this.compare(row, this.horizon) > 0) {
      if (this.rows.delete(id)) this.isUnsorted = true;
      return;
    }
    if (!this.rows.has(id)) this.orderedAt = -ORDER_MS;
    this.rows.set(id, row);
    this.isUnsorted = true;
    this.flashing.add(id);
    this.largest = Math.max(this.largest, Math.abs(row.size ?? 0));
  }

  put(row) {
    const made = this.make(row);
    this.rows.set(made.id, made);
  }

  make(row) {
    return { id: rowId(row), key: row.key, window: row.window, value: row.value, partition: row.partition, size: this.sizeOf(row.value) };
  }

  sizeOf(value) {
    if (this.sortsByValue) {
      const name = this.view.sort.replace(/^-/, "");
      if (name !== "value") return ["number", "bigint"].includes(typeof value?.[name]) ? Number(value[name]) : null;
    }
    return format.value(value).size;
  }

  wants({ key, window }) {
    const { prefix, state, start, end } = this.view;
    if (prefix && !format.keyText(key).startsWith(prefix)) return false;
    if (state === "open" && window && window.state !== "open") return false;
    if (state === "closed" && (!window || window.state === "open")) return false;
    if (start && window && Date.parse(window.start) < Date.parse(start)) return false;
    return !(end && window && Date.parse(window.start) >= Date.parse(end));
  }

  // -- order -----------------------------------------------------------------------------------

  compare(a, b) {
    const { sort } = this.view;
    const sign = sort.startsWith("-") ? -1 : 1;
    if (this.sortsByValue) {
      // Rows without a number come last, in both directions.
      if (a.size === null || b.size === null) return (a.size === null) - (b.size === null);
      return sign * (a.size - b.size);
    }
    const [first, second] = sort.endsWith("window") ? [byStart, byKey] : [byKey, byStart];
    return sign * (first(a, b) || second(a, b) || a.partition - b.partition);
  }

  sort() {
    this.order = [...this.rows.values()].sort((a, b) => this.compare(a, b) || byKey(a, b) || -byStart(a, b));
    if (this.order.length > ROWS_KEPT) {
      for (const row of this.order.splice(ROWS_KEPT)) this.rows.delete(row.id);
      this.horizon = this.order.at(-1);
    }
    this.largest = 0;
    for (const { size } of this.order) this.largest = Math.max(this.largest, Math.abs(size ?? 0));
    this.isUnsorted = false;
    this.orderedAt = performance.now();
  }

  /** The rows to draw: in a new order once a second, with new values at once. Returns whether there is more to come. */
  settle() {
    if (!this.isUnsorted) return false;
    if (performance.now() - this.orderedAt >= Math.max(ORDER_MS, this.rows.size / 50) && this.mayMove()) {
      this.sort();
      return false;
    }
    for (let index = 0; index < this.order.length; index++) {
      const now = this.rows.get(this.order[index].id);
      if (now) this.order[index] = now;
    }
    return true;
  }
}

function byStart(a, b) {
  return (a.window ? Date.parse(a.window.start) : 0) - (b.window ? Date.parse(b.window.start) : 0);
}

/** As the workers order keys: types in a fixed order, those of one type in their own. */
function byKey(a, b) {
  const [one, two] = [rank(a.key), rank(b.key)];
  if (one !== two) return one - two;
  const [x, y] = one === 4 ? [encode(a.key), encode(b.key)] : [a.key, b.key];
  return x < y ? -1 : x > y ? 1 : 0;
}

function rank(key) {
  if (key === null) return 0;
  return { boolean: 1, number: 2, bigint: 2, string: 3 }[typeof key] ?? 4;
}
