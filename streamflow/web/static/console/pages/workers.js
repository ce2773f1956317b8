// Who runs the app, what each has, and who stands by.

import { badge, become, h, note, table } from "../dom.js";
import * as format from "../format.js";
import { page } from "../router.js";

const EVERY_MS = 1000;
const WORDS = { ready: "ready", recovering: "rebuilding its tables", stalled: "stalled", failed: "failed", unreachable: "does not answer", unknown: "not known" };

export default function workers(root, context) {
  const { cluster } = context;
  context.title("Workers");
  const told = h("div", { class: "told" });
  const list = h("ul", { class: "workers", id: "workers" });
  const standing = h("section", { "aria-labelledby": "standby-title" }, h("h2", { class: "heading", id: "standby-title" }, "Standbys"));
  const body = h("div", {});
  standing.append(body);
  root.append(h("h1", {}, "Workers"), told, list, standing);

  // What only newer workers tell: versions, connections, standbys.
  let more = new Map();
  const draw = () => {
    const isLost = cluster.workers === null;
    const shown = (cluster.workers ?? cluster.seen.map((worker) => ({ ...worker, state: worker.url === cluster.url ? "unreachable" : "unknown" })));
    become(told, isLost && cluster.lostSince !== null && note("bad", "The worker of this page does not answer. Nothing is known of the others."));
    become(list, shown.map((worker) => line({ ...more.get(worker.url), ...given(worker) }, isLost)));
    become(body, standbys(shown.map((worker) => ({ ...more.get(worker.url), ...given(worker) }))));
  };
  context.onCluster(draw);
  context.poll("/v1/workers", EVERY_MS, (said) => {
    more = new Map(said.workers.map((worker) => [worker.worker ?? worker.url, { version: worker.version, started: worker.started, connections: worker.connections, standbys: worker.standbys, lastCommit: worker.last_commit, breakers: worker.breakers }]));
    draw();
  }, () => {
    more = new Map();
    draw();
  });
  draw();
}

/** What is known of it. */
function given(worker) {
  return Object.fromEntries(Object.entries(worker).filter(([, value]) => value !== null));
}

function line(worker, isLost) {
  const isSilent = worker.state === "unreachable" || worker.state === "unknown";
  const why = worker.state === "stalled" || worker.state === "failed" ? `: ${worker.reason ?? ""}` : "";
  const words = `${WORDS[worker.state] ?? worker.state}${why}${worker.self ? " · shows you this page" : ""}`;
  const pairs = [];
  if (!isSilent) {
    if (worker.state === "ready" && typeof worker.lag === "number") pairs.push(["lag", format.count(worker.lag)]);
    const last = format.milliseconds(worker.checkpoint?.last_s);
    if (last) pairs.push(["checkpoint", `${last.text} ${last.unit}`]);
    if (worker.lastCommit) pairs.push(["last commit", format.at(worker.lastCommit)]);
    if (worker.memory) pairs.push(["memory", format.bytes(worker.memory)]);
    if (typeof worker.connections === "number") pairs.push(["connections", format.count(worker.connections)]);
    if (worker.version) pairs.push(["version", worker.version]);
    if (worker.started) pairs.push(["since", format.at(worker.started)]);
  }
  return h("li", { class: "worker", data: { state: worker.state } },
    h("div", { class: "who" },
      h("p", { class: "name" }, format.host(worker.url)),
      h("p", { class: "role" }, h("span", { class: "dot", "aria-hidden": "true" }), h("span", {}, words))),
    owned(isLost ? null : worker.partitions),
    h("p", { class: "numbers" }, pairs.map(([name, text]) => h("span", {}, `${name} `, h("b", {}, text)))),
    (isSilent ? [] : worker.slow ?? []).map((slow) => h("p", { class: "slow" }, slowText(slow))));
}

function slowText(slow) {
  if (slow.blocked_event_loop_s) return `its event loop was held up for ${slow.blocked_event_loop_s.toFixed(1)} s`;
  return `${slow.agent} has been at work on ${slow.topic} ${slow.partition}:${slow.offset} for ${Math.round(slow.held_s)} s`;
}

function owned(partitions) {
  const root = h("div", { class: "owned" });
  if (!partitions) return root;
  const topics = Object.entries(partitions);
  if (!topics.length) root.append(h("span", {}, "no partitions"));
  for (const [topic, numbers] of topics) {
    root.append(h("span", { class: "topic" }, h("a", { href: page("topics", topic) }, topic), numbers.map((number) => h("span", { class: "partition" }, String(number)))));
  }
  return root;
}

function standbys(workers) {
  const told = workers.filter((worker) => Array.isArray(worker.standbys) && worker.state !== "unreachable" && worker.state !== "unknown");
  if (!told.length) return h("p", { class: "muted" }, "This worker does not tell of standbys: it runs an older version of streamflow.");
  const rows = told.flatMap((worker) => worker.standbys.map((standby) => ({ worker, ...standby })));
  if (!rows.length) return h("p", { class: "muted" }, workers.length > 1 ? "No worker keeps tables of another up to date (table_standby_replicas is 0, or they are being set up)." : "A standby needs a second worker: start one, and it keeps these tables up to date.");
  const groups = new Map();
  for (const { worker, topic, partition, lag } of rows) {
    const group = groups.get(`${worker.url} ${topic}`) ?? { worker, topic, partitions: [], lags: [] };
    group.partitions.push(partition);
    group.lags.push(lag ?? null);
    groups.set(`${worker.url} ${topic}`, group);
  }
  return table("Standbys", [{ name: "Topic" }, { name: "Kept by" }, { name: "Partitions" }, { name: "Behind", number: true }],
    [...groups.values()].sort((a, b) => (a.topic < b.topic ? -1 : a.topic > b.topic ? 1 : 0)).map(({ worker, topic, partitions, lags }) => [
      topic, format.host(worker.url), format.list(partitions),
      lags.includes(null) ? badge("warn", "not known") : Math.max(...lags) === 0 ? "up to date" : format.plural(lags.reduce((sum, lag) => sum + lag, 0), "record"),
    ]));
}
