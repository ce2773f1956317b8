// How the app is doing: what it does now, how the last hour went, and what there is.

import { Chart } from "../chart.js";
import { become, empty, h, note, setText, table } from "../dom.js";
import * as format from "../format.js";
import { page } from "../router.js";

const HISTORY_MS = 5000;
const TABLES_MS = 5000;

const rate = (value) => `${value < 10 && !Number.isInteger(value) ? value.toFixed(1) : format.count(value)}`;
const FIGURES = [
  // id, title, name in the history, how a value is written
  ["rate", "Events per second", "events_per_s", rate],
  ["lag", "Lag", "lag_records", format.count],
  ["failed", "Failures per second", "failed_per_s", rate],
  ["memory", "Memory", "memory_bytes", format.bytes],
  ["connections", "Live connections", "ws_connections", format.count],
];

export default function overview(root, context) {
  context.title("Overview");
  const { cluster } = context;
  const tiles = new Map();
  for (const [id, title, , text] of FIGURES) {
    const chart = new Chart({ label: title, text, height: id === "rate" ? 170 : 104, isWhole: ["lag", "memory", "connections"].includes(id), isBytes: id === "memory" });
    context.onClose(() => chart.close());
    tiles.set(id, { chart, figure: h("p", { class: "figure", id }, "–"), detail: h("p", { class: "detail", id: `${id}-detail` }, "not known") });
  }
  const tile = (id) => {
    const { chart, figure, detail } = tiles.get(id);
    return h("article", { class: `tile tile-${id}` }, h("h2", {}, FIGURES.find(([name]) => name === id)[1]), figure, detail, chart.root);
  };
  const small = (id, title) => h("article", { class: "tile small" }, h("h2", {}, title), h("p", { class: "figure", id }, "–"), h("p", { class: "detail", id: `${id}-detail` }, "not known"));
  const historyNote = h("div", {});
  const list = h("section", { "aria-labelledby": "tables-title" }, h("h2", { class: "heading", id: "tables-title" }, "Tables"));
  root.append(h("h1", {}, "Overview"), historyNote,
    h("section", { class: "tiles", "aria-label": "Figures" },
      tile("rate"), h("div", { class: "stack" }, small("worker-count", "Workers"), small("checkpoint", "Checkpoint")),
      tile("lag"), tile("failed"), tile("memory"), tile("connections")), list);

  const now = { history: null, at: null };
  const draw = () => drawFigures(cluster, now.history);
  context.onCluster(draw);

  context.poll("/v1/history?minutes=60", HISTORY_MS, (said) => {
    now.history = new Map(said.series.map(({ name, values }) => [name, values]));
    const end = Date.parse(said.end) / 1000;
    for (const [id, , name] of FIGURES) {
      const values = now.history.get(name) ?? [];
      tiles.get(id).chart.show(values.map((_, index) => end - (values.length - 1 - index) * said.step_s), values);
      tiles.get(id).chart.root.classList.remove("is-stale");
    }
    become(historyNote);
    draw();
  }, (failure, forMs) => {
    now.history = null;
    for (const { chart } of tiles.values()) chart.root.classList.add("is-stale");
    become(historyNote, failure.isAbsent
      ? note("absent", "This worker keeps no history: it runs an older version of streamflow.")
      : note("stale", `The charts are ${format.ago(forMs)} old.`));
    draw();
  });

  context.follow(list, "/v1/tables", TABLES_MS, ({ tables }, body) => become(body, tablesOf(tables)), "its tables");
  draw();
}

function say(id, figure, detail, unit = "") {
  const node = document.getElementById(id);
  if (!node) return;
  if (unit) become(node, figure, h("small", {}, unit));
  else setText(node, figure);
  setText(document.getElementById(`${id}-detail`), detail);
}

function drawFigures(cluster, history) {
  const { workers } = cluster;
  if (workers === null) {
    // The worker of this page does not answer: nothing that it said holds any more.
    for (const id of ["rate", "lag", "failed", "memory", "connections", "checkpoint"]) say(id, "–", "not known");
    say("worker-count", "–", cluster.lostSince === null ? "not known" : "this worker does not answer");
    return;
  }
  const last = (name) => history?.get(name)?.at(-1) ?? null;
  const partly = ({ known, of }) => (known === of ? "" : known ? `known of ${known} of ${of} workers` : "not known");

  const all = [...cluster.totals.values()].reduce((sum, total) => sum + total, 0);
  const perSecond = cluster.rate ?? last("events_per_s");
  const reading = cluster.sum("records");
  say("rate", perSecond === null ? "–" : rate(perSecond), partly(reading) || (all ? `${format.count(all)} since the start` : "no events yet"));

  const lag = cluster.sum("lag");
  const lagIsWhole = lag.known === lag.of;
  say("lag", lag.value !== null && (lagIsWhole || lag.value) ? format.count(lag.value) : "–", partly(lag) || (lag.value ? "records still to be read" : "caught up"));

  const failed = last("failed_per_s");
  say("failed", failed === null ? "–" : rate(failed), failed === null ? "not known" : failed ? "attempts of agents that raised" : "none");

  const memory = cluster.sum("memory");
  say("memory", memory.value === null ? "–" : format.bytes(memory.value), partly(memory) || (memory.of > 1 ? "of all workers" : "of this worker"));

  const connections = last("ws_connections") ?? (cluster.sum("connections").known === workers.length ? cluster.sum("connections").value : null);
  say("connections", connections === null ? "–" : format.count(connections), connections === null ? "not known" : "WebSockets, workers' too");

  const checkpoints = workers.filter((worker) => worker.state === "ready" && typeof worker.checkpoint?.last_s === "number").map((worker) => worker.checkpoint);
  if (checkpoints.length) {
    const newest = format.milliseconds(Math.max(...checkpoints.map(({ last_s }) => last_s)));
    const p99 = Math.max(...checkpoints.map(({ p99_s }) => p99_s ?? 0));
    const slow = format.milliseconds(p99);
    say("checkpoint", newest.text, partly({ known: checkpoints.length, of: workers.length }) || (p99 ? `99 of 100 within ${slow.text} ${slow.unit}` : "durable and visible"), newest.unit);
  } else say("checkpoint", "–", "none yet");

  const ready = workers.filter((worker) => worker.state === "ready").length;
  const silent = cluster.silent.length;
  say("worker-count", format.count(workers.length), ready === workers.length ? (ready === 1 ? "ready" : "all ready") : silent ? `${format.plural(silent, "does", "do")} not answer` : `${ready} of ${workers.length} ready`);
}

export function tablesOf(tables) {
  if (!tables.length) return empty("This app declares no tables yet. Declare one and it appears here:", 'counts = app.Table("counts", default=int).tumbling(10)');
  const isQuiet = tables.every((each) => each.rows === 0 && !each.partial);
  return [
    isQuiet && empty(`Everything is ready; no events have come yet. Send one to the topic ${tables[0].source_topic}:`,
      `streamflow send -A your.module ${tables[0].source_topic} --key ann '{"id": "1", "type": "click", "timestamp": "${new Date().toISOString()}", "data": {"user": "ann"}}'`),
    table("Tables", [{ name: "Table" }, { name: "Kind", wide: true }, { name: "Window", wide: true }, { name: "Rows", number: true }, { name: "Event time", wide: true }, { name: "Late", number: true, wide: true }, { name: "State" }],
      tables.map((each) => [
        h("a", { href: page("tables", each.name) }, each.name),
        each.kind === "agent" ? "agent's" : "aggregate",
        windowText(each.window),
        // What is missing is not counted: so many at least.
        `${each.partial ? "≥ " : ""}${format.count(each.rows)}`,
        format.at(each.watermark),
        format.count(each.counters.late ?? 0),
        each.partial
          ? h("span", { class: "badge", data: { state: "bad" } }, `${format.list(each.missing_partitions)} missing`)
          : h("span", { class: "badge", data: { state: "good" } }, "complete"),
      ])),
  ];
}

export function windowText(window) {
  if (!window) return "none";
  if (window.kind === "session") return `session, gap ${format.duration(window.gap_ms)}`;
  const step = window.step_ms && window.step_ms !== window.size_ms ? ` every ${format.duration(window.step_ms)}` : "";
  return `${window.kind} ${format.duration(window.size_ms)}${step}`;
}
