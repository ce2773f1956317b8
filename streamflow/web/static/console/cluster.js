// Who runs the app: asked every second for all pages, in one form whatever the worker's version.

import { Poll } from "./api.js";

const EVERY_MS = 1000;

export class Cluster extends EventTarget {
  /** Events: "change". `workers` is null while this worker does not answer, and `seen` is what was known then. */
  constructor() {
    super();
    this.workers = null;
    this.seen = [];
    this.app = "";
    this.url = "";
    this.lostSince = null; // Date of the last answer, while there is none
    this.answeredAt = Date.now();
    this.rate = null; // events per second
    this.totals = new Map();
    this.sampledAt = 0;
    this.rates = [];
    this.address = "/v1/status";
  }

  start() {
    this.poll = new Poll(() => this.address, EVERY_MS, (said) => this.told(said), (failure) => this.failed(failure));
  }

  told(said) {
    this.workers = said.workers.map((worker) => normal(worker, said.url));
    this.seen = this.workers;
    this.app = said.app_id ?? this.app;
    this.url = said.url ?? this.workers.find((worker) => worker.self)?.url ?? "";
    this.lostSince = null;
    this.answeredAt = Date.now();
    this.measure();
    this.dispatchEvent(new Event("change"));
  }

  failed(failure) {
    if (failure.isAbsent && this.address === "/v1/status") {
      this.address = "/v1/workers";
      return;
    }
    this.lostSince ??= this.answeredAt;
    this.workers = null;
    this.rate = null;
    this.rates = [];
    this.sampledAt = 0;
    this.totals.clear();
    this.dispatchEvent(new Event("change"));
  }

  measure() {
    const now = performance.now();
    const elapsed = (now - this.sampledAt) / 1000;
    const totals = new Map(this.workers.filter((w) => w.records !== null).map((w) => [w.url, w.records]));
    let read = 0;
    for (const [url, total] of totals) {
      const before = this.totals.get(url);
      // A worker that has just come, or come back, has no difference yet.
      if (before !== undefined && total >= before) read += total - before;
    }
    const isFirst = this.sampledAt === 0;
    this.totals = totals;
    this.sampledAt = now;
    if (isFirst || elapsed < 0.2 || !totals.size) return;
    this.rates = [...this.rates, read / elapsed].slice(-3);
    this.rate = this.rates.reduce((sum, rate) => sum + rate, 0) / this.rates.length;
  }

  /** Workers that are in the group and do not answer. */
  get silent() {
    return (this.workers ?? []).filter((worker) => worker.state === "unreachable");
  }

  get isWhole() {
    return this.workers !== null && this.workers.every((worker) => worker.state === "ready");
  }

  stateOf(url) {
    if (!url) return "nobody";
    if (this.workers === null) return "unknown";
    return this.workers.find((worker) => same(worker.url, url))?.state ?? "unknown";
  }

  /** One figure of all workers: {value, known, of}; null what nobody knows. */
  sum(name) {
    const workers = this.workers ?? [];
    const known = workers.filter((worker) => worker.state === "ready" && typeof worker[name] === "number");
    return { value: known.length ? known.reduce((sum, worker) => sum + worker[name], 0) : null, known: known.length, of: workers.length };
  }
}

function same(one, other) {
  return one.replace(/\/$/, "") === other.replace(/\/$/, "");
}

/** A worker of /v1/status or of /v1/workers. */
function normal(worker, ours) {
  const url = worker.url ?? worker.worker;
  return {
    url,
    self: worker.self ?? url === ours,
    state: worker.state ?? stateOf(worker),
    reason: worker.reason ?? worker.health?.reason ?? worker.health?.error ?? "",
    version: worker.version ?? null,
    started: worker.started ?? null,
    partitions: byTopic(worker.partitions ?? {}),
    standbys: worker.standbys ?? null,
    breakers: worker.breakers ?? null,
    lag: worker.lag_records ?? worker.stats?.lag_records ?? null,
    records: worker.records_total ?? worker.stats?.records_total ?? null,
    memory: worker.memory_bytes ?? null,
    connections: worker.connections ?? null,
    checkpoint: worker.checkpoint ?? null,
    lastCommit: worker.last_commit ?? null,
    slow: worker.health?.slow ?? [],
  };
}

function stateOf(worker) {
  if (!worker.reachable) return "unreachable";
  if (worker.ready) return "ready";
  return worker.health?.status === "ok" ? "recovering" : (worker.health?.status ?? "recovering");
}

/** {topic: [partitions]} of either form. */
function byTopic(partitions) {
  if (!Array.isArray(partitions)) return partitions;
  const topics = {};
  for (const { topic, partition } of partitions) (topics[topic] ??= []).push(partition);
  return topics;
}
