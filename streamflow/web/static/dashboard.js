// The page: fetches what there is, follows it live, draws at most once a frame.

import { Live } from "./live.js";
import { Overview } from "./overview.js";
import { ROWS_KEPT, Table, element, setText } from "./table.js";

const STATUS_MS = 1000;
const TABLES_MS = 5000;
const PAGE_ROWS = 1000;
const ANSWER_MS = 5000; // a worker that says nothing for so long does not answer
const RETRY_MS = 2000;

const byId = (id) => document.getElementById(id);
const tables = new Map(); // name -> Table
const overview = new Overview();
const live = new Live(() => sessionStorage.getItem("token"));
let isDrawing = false;

async function get(path) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { headers, cache: "no-cache", signal: AbortSignal.timeout(ANSWER_MS) });
  if (response.status === 401) askToken();
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

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
    live.watch(info.name);
  }
  for (const [name, table] of tables) {
    if (infos.some((info) => info.name === name)) continue;
    table.card.root.remove();
    tables.delete(name);
    live.forget(name);
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

live.addEventListener("state", ({ detail }) => {
  byId("state").dataset.state = detail.state;
  setText(byId("state-text"), detail.text);
});

live.addEventListener("message", ({ detail: said }) => {
  const table = tables.get(said.id);
  if (!table) return;
  if (said.t === "changes") table.change(said.rows);
  else if (said.t === "reset") table.reset();
  else if (said.t === "error") table.stop(said.message);
  else if (said.t === "rebalancing") table.missing = said.partitions;
  else if (said.t === "synced") {
    table.missing = [];
    table.trouble = "";
    if (table.isLoading) loadRows(table);
  } else if (said.t === "progress") table.info.watermark = said.watermark ?? table.info.watermark;
  drawSoon();
});

function askToken() {
  const dialog = byId("token-dialog");
  if (!dialog.open) dialog.showModal();
}

live.addEventListener("refused", askToken);
byId("token-form").addEventListener("submit", () => {
  sessionStorage.setItem("token", byId("token").value);
  byId("token").value = "";
  live.connect();
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

live.connect();
repeat(async () => {
  try {
    overview.draw(await get("/v1/status"));
  } catch (failure) {
    overview.lost();
    throw failure;
  }
}, STATUS_MS);
repeat(refreshTables, TABLES_MS);
