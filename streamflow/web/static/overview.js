// The tiles and the list of workers, from /v1/status.

import * as format from "./format.js";
import { become, element, setText } from "./table.js";

const POINTS = 90;
const POINTS_LEAST = 30; // so wide is the line from the beginning
const byId = (id) => document.getElementById(id);

export class Overview {
  constructor() {
    this.rates = []; // events per second, oldest first
    this.totals = new Map(); // worker -> records read
    this.sampledAt = 0;
  }

  draw(status) {
    const workers = status.workers;
    this.drawRate(workers);
    this.drawLag(workers);
    this.drawCheckpoint(workers);
    this.drawCount(workers);
    this.status = status;
    become(byId("workers"), workers.map((worker) => workerLine(worker, status.url)));
    setText(byId("app"), status.app_id);
    document.title = `${status.app_id} · streamflow`;
  }

  /** The worker of this page does not answer: nothing that it said holds any more. */
  lost() {
    this.sampledAt = 0;
    this.totals.clear();
    for (const id of ["rate", "lag", "checkpoint", "worker-count"]) setText(byId(id), "–");
    for (const id of ["rate-detail", "lag-detail", "checkpoint-detail"]) setText(byId(id), "not known");
    setText(byId("worker-detail"), "this worker does not answer");
    if (!this.status) return;
    const { url, workers } = this.status;
    const silent = workers.map((worker) => ({ url: worker.url, partitions: null, reachable: false, unknown: worker.url !== url }));
    become(byId("workers"), silent.map((worker) => workerLine(worker, url)));
  }

  drawRate(workers) {
    const now = performance.now();
    const elapsed = (now - this.sampledAt) / 1000;
    let read = 0;
    for (const worker of workers) {
      const total = worker.stats?.records_total;
      const before = this.totals.get(worker.url);
      // A worker that has just come, or come back, has no difference yet.
      if (total !== undefined && before !== undefined && total >= before) read += total - before;
    }
    this.totals = new Map(workers.filter((worker) => worker.stats).map((worker) => [worker.url, worker.stats.records_total]));
    const isFirst = this.sampledAt === 0;
    this.sampledAt = now;
    if (isFirst || elapsed < 0.2) return;
    this.rates.push(read / elapsed);
    if (this.rates.length > POINTS) this.rates.shift();
    const recent = this.rates.slice(-3);
    setText(byId("rate"), format.count(recent.reduce((sum, rate) => sum + rate, 0) / recent.length));
    const all = [...this.totals.values()].reduce((sum, total) => sum + total, 0);
    setText(byId("rate-detail"), all ? `${format.count(all)} since the start` : "no events yet");
    this.drawSpark();
  }

  drawSpark() {
    const top = Math.max(1, ...this.rates) * 1.1;
    const points = this.rates.map((rate, index) => {
      const x = 240 - (this.rates.length - 1 - index) * (240 / (Math.max(this.rates.length, POINTS_LEAST) - 1));
      return `${x.toFixed(1)},${(54 - (rate / top) * 50).toFixed(1)}`;
    });
    if (points.length < 2) return;
    const line = `M${points.join("L")}`;
    byId("spark-line").setAttribute("d", line);
    byId("spark-area").setAttribute("d", `${line}L240,56L${points[0].split(",")[0]},56Z`);
  }

  drawLag(workers) {
    // What a worker says that is not ready is old, or not all of it.
    const known = workers.filter((worker) => worker.reachable && worker.ready && typeof worker.stats?.lag_records === "number");
    const lag = known.reduce((sum, worker) => sum + worker.stats.lag_records, 0);
    const isWhole = known.length === workers.length;
    setText(byId("lag"), known.length && (isWhole || lag) ? format.count(lag) : "–");
    let detail = lag === 0 ? "caught up" : "records still to be read";
    if (!isWhole) detail = known.length ? `known of ${known.length} of ${workers.length} workers` : "not known";
    setText(byId("lag-detail"), detail);
  }

  drawCheckpoint(workers) {
    const lasts = workers.map((worker) => worker.checkpoint?.last_s).filter((last) => typeof last === "number");
    if (!lasts.length) return;
    const last = format.milliseconds(Math.max(...lasts));
    become(byId("checkpoint"), [new Text(last.text), element("small", "", last.unit)]);
    const p99 = Math.max(...workers.map((worker) => worker.checkpoint?.p99_s ?? 0));
    const slow = format.milliseconds(p99);
    setText(byId("checkpoint-detail"), p99 ? `99 of 100 within ${slow.text} ${slow.unit}` : "durable and visible");
  }

  drawCount(workers) {
    const ready = workers.filter((worker) => worker.reachable && worker.ready).length;
    setText(byId("worker-count"), format.count(workers.length));
    const detail = ready === workers.length ? (ready === 1 ? "ready" : "all ready") : `${ready} of ${workers.length} ready`;
    setText(byId("worker-detail"), detail);
  }
}

function stateOf(worker) {
  if (worker.unknown) return "unknown";
  if (!worker.reachable) return "away";
  if (worker.ready) return "ready";
  return worker.health?.status === "stalled" ? "stalled" : "recovering";
}

function workerLine(worker, ours) {
  const line = element("li", "worker");
  line.dataset.state = stateOf(worker);
  const who = element("div");
  who.append(element("p", "name", worker.url.replace(/^https?:\/\//, "")));
  const role = element("p", "role");
  const words = {
    away: "does not answer",
    ready: "ready",
    recovering: "rebuilding its tables",
    stalled: `stalled: ${worker.health?.reason ?? ""}`,
    unknown: "not known",
  };
  const text = words[line.dataset.state] + (worker.url === ours ? " · shows you this page" : "");
  const dot = element("span", "dot");
  dot.setAttribute("aria-hidden", "true");
  role.append(dot, element("span", "", text));
  who.append(role);
  line.append(who, ownedPartitions(worker.partitions), numbers(worker));
  return line;
}

function ownedPartitions(partitions) {
  const owned = element("div", "owned");
  if (!partitions) return owned;
  const topics = Object.entries(partitions);
  if (!topics.length) owned.append(element("span", "", "no partitions"));
  for (const [topic, numbersOf] of topics) {
    const group = element("span", "topic");
    group.append(element("span", "", topic));
    for (const partition of numbersOf) group.append(element("span", "partition", String(partition)));
    owned.append(group);
  }
  return owned;
}

function numbers(worker) {
  const line = element("p", "numbers");
  const pairs = [];
  if (worker.ready && typeof worker.stats?.lag_records === "number") pairs.push(["lag", format.count(worker.stats.lag_records)]);
  const last = format.milliseconds(worker.checkpoint?.last_s);
  if (last) pairs.push(["checkpoint", `${last.text} ${last.unit}`]);
  if (worker.memory_bytes) pairs.push(["memory", format.bytes(worker.memory_bytes)]);
  pairs.forEach(([name, text], index) => {
    line.append(`${index ? " · " : ""}${name} `, element("b", "", text));
  });
  return line;
}
