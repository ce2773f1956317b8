// The page: fetches what there is, follows it live, draws at most once a frame.

import { Overview } from "./overview.js";
import { Client } from "./streamflow-client.js";
import { ROWS_KEPT, Table, element, setText } from "./table.js";

const STATUS_MS = 1000;
const TABLES_MS = 5000;
const PAGE_ROWS = 1000;
const ANSWER_MS = 5000; // a worker that says nothing for so long does not answer
const RETRY_MS = 2000;
const PASSING = new Set(["connecting", "connection-lost", "unauthorized", "reset"]); // the line at the top tells these

const byId = (id) => document.getElementById(id);
const tables = new Map(); // name -> Table
const overview = new Overview();
const feeds = new Map(); // name -> LiveTable that only tells changes
// Without patience: the page asks again by itself, and shows at once what does not answer.
const client = new Client(location.origin, { token: () => sessionStorage.getItem("token"), patienceMs: 0 });
let isDrawing = false;

const get = (path) => client.json(path, { answerMs: ANSWER_MS });

/** Runs `work` now and every `everyMs`, never twice at once, whatever fails. */
function repeat(work, everyMs) {
  const round = async () => {
    try {
      await work();
    } catch {
      // The line at the top tells that we are cut off; the next round tries again.
    }
    setTimeout(round, everyMs);
  };
  round();
}

function drawSoon() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    const now = performance.now();
    for (const table of tables.values()) table.draw(now);
  });
}

async function refreshTables() {
  const { tables: infos } = await get("/v1/tables");
  for (const info of infos) {
    const known = tables.get(info.name);
    if (known) {
      known.info = info;
      continue;
    }
    const table = new Table(info);
    tables.set(info.name, table);
    byId("cards").append(table.card.root);
    feeds.set(info.name, watch(table));
  }
  for (const [name, table] of tables) {
    if (infos.some((info) => info.name === name)) continue;
    table.card.root.remove();
    tables.delete(name);
    feeds.get(name).close();
    feeds.delete(name);
  }
  drawNoTables(infos);
  drawSoon();
}

function drawNoTables(infos) {
  const line = byId("no-tables");
  const isQuiet = infos.length > 0 && infos.every((info) => info.rows === 0);
  line.hidden = infos.length > 0 && !isQuiet;
  if (line.hidden || line.dataset.said === String(infos.length)) return;
  line.dataset.said = String(infos.length);
  if (!infos.length) {
    line.textContent = "This app declares no tables yet. Declare one and it appears here:";
    line.append(element("code", "", 'counts = app.Table("counts", default=int).tumbling(10)'));
  } else {
    const topic = infos[0].source_topic;
    line.textContent = `Everything is ready; no events have come yet. Send one to the topic ${topic}:`;
    line.append(element("code", "", `streamflow send -A your.module ${topic} --key ann '{"id": "1", "type": "click", "timestamp": "${new Date().toISOString()}", "data": {"user": "ann"}}'`));
  }
}

async function loadRows(table) {
  try {
    const path = `/v1/tables/${encodeURIComponent(table.info.name)}/rows?sort=-window&limit=${PAGE_ROWS}`;
    const rows = [];
    let next = null;
    do {
      const page = await get(next ? `${path}&cursor=${encodeURIComponent(next)}` : path);
      rows.push(...page.rows);
      next = page.next;
    } while (next && rows.length < ROWS_KEPT);
    if (table.isLoading) table.load(rows, next === null);
    drawSoon();
  } catch {
    setTimeout(() => table.isLoading && loadRows(table), RETRY_MS);
  }
}

const STATES = { connecting: ["connecting", "Connecting…"], live: ["live", "Live"], stale: ["down", "Reconnecting…"], closed: ["down", "Not connected"] };

client.addEventListener("state", ({ detail: { state, reason } }) => {
  const [shown, text] = STATES[state];
  byId("state").dataset.state = shown;
  setText(byId("state-text"), reason?.code === "unauthorized" ? "Token needed" : text);
});

/** Changes of a table from now on; its rows are fetched, the newest ones only. */
function watch(table) {
  const feed = client.live(table.info.name, { snapshot: false, maxHz: 5 });
  const events = {
    change: ({ changes }) => table.change(changes),
    reset: () => table.reset(),
    progress: ({ watermark }) => (table.info.watermark = watermark ?? table.info.watermark),
    state: ({ state, reason }) => {
      table.missing = feed.missing;
      if (state === "live" || reason?.code === "rebalancing") table.trouble = "";
      else if (!PASSING.has(reason?.code)) table.stop(reason.message);
      if (state === "live" && table.isLoading) loadRows(table);
    },
  };
  for (const [name, take] of Object.entries(events)) {
    feed.addEventListener(name, ({ detail }) => {
      take(detail);
      drawSoon();
    });
  }
  return feed;
}

function askToken() {
  const dialog = byId("token-dialog");
  if (!dialog.open) dialog.showModal();
}

client.addEventListener("unauthorized", askToken);
byId("token-form").addEventListener("submit", () => {
  sessionStorage.setItem("token", byId("token").value);
  byId("token").value = "";
  client.connect();
  refreshTables().catch(() => {});
});

const THEMES = ["auto", "light", "dark"];
function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
}
byId("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(localStorage.getItem("theme") ?? "auto") + 1) % THEMES.length];
  localStorage.setItem("theme", next);
  showTheme(next);
});
showTheme(localStorage.getItem("theme") ?? "auto");

client.connect();
repeat(async () => {
  try {
    overview.draw(await get("/v1/status"));
  } catch (failure) {
    overview.lost();
    throw failure;
  }
}, STATUS_MS);
repeat(refreshTables, TABLES_MS);
