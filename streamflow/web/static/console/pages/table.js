// One table: its rows in an order of one's choice, live, as many as there are.

import { client, curl, path, query as queryText } from "../api.js";
import { become, copy, h, holdsSelection, note, setText } from "../dom.js";
import * as format from "../format.js";
import { VirtualList } from "../list.js";
import { page } from "../router.js";
import { Rows } from "../rows.js";
import { windowText } from "./overview.js";

const INFO_MS = 3000;
const SEARCH_MS = 250;
const DRAW_MS = 1000;
const COUNTERS_SHOWN = 3;

export default function tablePage(root, context) {
  const { parameters: { table: name }, query, router } = context;
  context.title(name);
  const view = {
    prefix: query.get("prefix") ?? "",
    state: query.get("state") ?? "all",
    start: query.get("start") ?? "",
    end: query.get("end") ?? "",
    sort: query.get("sort") ?? "",
  };
  const facts = h("p", { class: "facts" });
  const bar = toolbar(view);
  const told = h("div", { class: "told", id: "told" });
  const counted = h("p", { class: "counted", id: "counted", role: "status" });
  const place = h("div", { class: "place" });
  root.append(h("p", { class: "crumbs" }, h("a", { href: page("tables") }, "Tables")), h("h1", { class: "mono" }, name), facts, bar.root, told, place, counted);

  const state = { info: null, rows: null, list: null, shape: "", stop: () => {}, openRow: null };
  state.openRow = (row) => router.go(rowAddress(name, row, state.info.keyed));
  context.onClose(() => state.stop());
  context.onClose(() => state.list?.close());

  const draw = () => drawRows(state, { told, counted, place, bar, name });
  const drawSoon = () => {
    if (state.isDrawing) return;
    state.isDrawing = true;
    requestAnimationFrame(() => {
      state.isDrawing = false;
      draw();
    });
  };
  const timer = setInterval(drawSoon, DRAW_MS);
  context.onClose(() => clearInterval(timer));
  context.onClose(() => { state.rows && (state.rows.generation += 1); });

  /** The rows of what is chosen now, from the first page on. */
  const begin = () => {
    state.stop();
    if (state.rows) state.rows.generation += 1;
    const isPaused = state.rows?.isPaused ?? false;
    const rows = new Rows(name, { ...view, sort: view.sort || (state.info.window ? "-window" : "key") }, drawSoon);
    rows.isPaused = isPaused;
    rows.mayMove = () => !state.list || !holdsSelection(state.list.root);
    state.rows = rows;
    state.shape = "";
    rows.isVoid = true;
    const feed = client.live(name, { snapshot: false, maxHz: 5 });
    feed.addEventListener("progress", ({ detail }) => { state.info.watermark = detail.watermark ?? state.info.watermark; });
    state.stop = rows.follow(feed);
    // Rows are there to be read also where nothing is live.
    if (client.state !== "live") rows.reload();
    drawSoon();
  };

  const choose = (changes) => {
    Object.assign(view, changes);
    router.choose({ ...view, state: view.state === "all" ? "" : view.state });
    if (state.info) begin();
  };
  bar.listen({
    choose,
    pause: () => {
      if (!state.rows) return;
      if (state.rows.isPaused) state.rows.resume();
      else state.rows.pause();
      draw();
    },
    curl: () => copy(curl(state.rows ? state.rows.address(100) : path("/v1/tables", name, "rows")), "as curl"),
    look: (key) => router.go(page("tables", name, "row") + queryText({ key })),
  });

  context.poll(path("/v1/tables", name), INFO_MS, (info) => {
    const isFirst = state.info === null;
    state.info = info;
    state.infoLostMs = null;
    drawFacts(facts, info);
    bar.fit(info, view);
    if (isFirst) begin();
  }, (failure, forMs) => {
    state.infoLostMs = forMs;
    if (state.info === null) {
      become(told, note(failure.status === 404 ? "bad" : "stale", failure.status === 404
        ? `There is no table ${name} in this app.`
        : "This worker does not answer, or does not know its tables yet. The page goes on by itself."));
    }
    drawSoon();
  });
}

function drawFacts(root, info) {
  const texts = [info.kind === "agent" ? "written by agents" : "aggregate", windowText(info.window), `from ${info.source_topic}`, `${info.partial ? "≥ " : ""}${format.plural(info.rows, "row")}`];
  if (info.watermark) texts.push(`event time ${format.at(info.watermark)}`);
  become(root, texts.map((text) => h("span", {}, text)),
    info.window && info.kind === "aggregate" && h("a", { href: page("windows", info.name) }, "late events"));
}

// -- what is chosen ------------------------------------------------------------------------------

function toolbar(view) {
  const search = h("input", { type: "search", id: "search", value: view.prefix, placeholder: "begins with…", autocomplete: "off", spellcheck: "false", "data-key": "/" });
  const windows = h("select", { id: "window-state" }, [["all", "all windows"], ["open", "open windows"], ["closed", "closed windows"]].map(([value, text]) => h("option", { value, selected: value === view.state }, text)));
  const start = h("input", { type: "datetime-local", id: "from", step: "1", value: local(view.start) });
  const end = h("input", { type: "datetime-local", id: "until", step: "1", value: local(view.end) });
  const earlier = h("button", { type: "button", id: "earlier", "aria-label": "Earlier window" }, "‹");
  const later = h("button", { type: "button", id: "later", "aria-label": "Later window" }, "›");
  const any = h("button", { type: "button", id: "any-window" }, "All times");
  const sort = h("select", { id: "sort" });
  const look = h("input", { type: "text", id: "key", placeholder: "exact key", autocomplete: "off", spellcheck: "false" });
  const pause = h("button", { type: "button", id: "pause", "data-key": "p", "aria-pressed": "false" }, "Pause");
  const copies = h("button", { type: "button", id: "curl", "data-key": "c" }, "Copy as curl");
  const field = (label, ...inputs) => h("div", { class: "field" }, h("label", { for: inputs[0].id }, label), h("div", { class: "inputs" }, inputs));
  const times = [field("Windows", windows), field("From", start), field("Until", end), h("div", { class: "field" }, h("div", { class: "inputs" }, earlier, later, any))];
  const keyForm = h("form", { class: "field" }, h("label", { for: "key" }, "Look up"), h("div", { class: "inputs" }, look, h("button", { type: "submit" }, "Go")));
  const root = h("div", { class: "toolbar", role: "search", "aria-label": "Rows" },
    h("div", { class: "line" }, field("Search keys", search), field("Order", sort), keyForm,
      h("div", { class: "field last" }, h("div", { class: "inputs" }, pause, copies))),
    h("div", { class: "line" }, times));
  let sized = null;
  return {
    root, sort, pause,
    /** Offers what this table has. */
    fit(info, chosen) {
      if (sized !== null) return;
      sized = info.window?.step_ms ?? info.window?.size_ms ?? 0;
      for (const each of times) each.hidden = !info.window;
      keyForm.hidden = !info.keyed;
      search.closest(".field").hidden = !info.keyed;
      root.lastChild.hidden = !info.window;
      earlier.hidden = later.hidden = !["tumbling", "hopping"].includes(info.window?.kind);
      this.orders(info, chosen, []);
    },
    orders(info, chosen, counters) {
      const offered = [
        ...(info.window ? [["-window", "newest window first"], ["window", "oldest window first"]] : []),
        ...(info.keyed ? [["key", "key, a to z"], ["-key", "key, z to a"]] : []),
        ...(counters.length ? counters.flatMap((name) => [[`-${name}`, `largest ${name}`], [name, `smallest ${name}`]]) : [["-value", "largest value"], ["value", "smallest value"]]),
      ];
      const current = chosen.sort || offered[0][0];
      if (!offered.some(([value]) => value === current)) offered.push([current, current]);
      const text = JSON.stringify(offered);
      if (sort.dataset.offered === text) return;
      sort.dataset.offered = text;
      sort.replaceChildren(...offered.map(([value, name]) => h("option", { value }, name)));
      sort.value = current;
    },
    listen({ choose, pause: paused, curl: copied, look: looked }) {
      let timer = 0;
      search.addEventListener("input", () => {
        clearTimeout(timer);
        timer = setTimeout(() => choose({ prefix: search.value }), SEARCH_MS);
      });
      windows.addEventListener("change", () => choose({ state: windows.value }));
      sort.addEventListener("change", () => choose({ sort: sort.value }));
      start.addEventListener("change", () => choose({ start: instant(start.value) }));
      end.addEventListener("change", () => choose({ end: instant(end.value) }));
      const step = (sign) => {
        const from = Math.floor((view.start ? Date.parse(view.start) : Date.now()) / sized) * sized;
        const to = view.start ? from + sign * sized : from;
        const changed = { start: new Date(to).toISOString(), end: new Date(to + sized).toISOString() };
        start.value = local(changed.start);
        end.value = local(changed.end);
        choose(changed);
      };
      earlier.addEventListener("click", () => step(-1));
      later.addEventListener("click", () => step(1));
      any.addEventListener("click", () => {
        start.value = end.value = "";
        windows.value = "all";
        choose({ start: "", end: "", state: "all" });
      });
      pause.addEventListener("click", paused);
      copies.addEventListener("click", copied);
      keyForm.addEventListener("submit", (event) => {
        event.preventDefault();
        if (look.value) looked(look.value);
      });
    },
  };
}

function local(iso) {
  if (!iso) return "";
  const at = new Date(iso);
  return new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

function instant(text) {
  return text ? new Date(text).toISOString() : "";
}

// -- rows ----------------------------------------------------------------------------------------

function drawRows(state, { told, counted, place, bar, name }) {
  const { info, rows } = state;
  if (!rows) return;
  rows.settle();
  const shape = shapeOf(rows.order);
  if (!state.list || shape.id !== state.shape) {
    if (rows.order.length || !state.list) {
      state.shape = shape.id;
      state.list?.close();
      state.list = listOf(state, shape, name);
      place.replaceChildren(state.list.root);
      bar.orders(info, rows.view.sort ? rows.view : {}, shape.counters);
    }
  }
  state.list.show(rows.order, rows.flashing);
  rows.flashing = new Set();
  const isOld = rows.lostAt !== null || rows.trouble !== "" || (client.state !== "live" && rows.isReady) || Boolean(state.infoLostMs);
  state.list.root.classList.toggle("is-stale", isOld && !rows.isPaused);
  state.list.staleOf = rows.missing.length ? (row) => rows.missing.includes(row.partition) : () => false;
  become(told, notes(rows, isOld));
  bar.pause.setAttribute("aria-pressed", String(rows.isPaused));
  setText(bar.pause, rows.isPaused ? "Go on" : "Pause");
  setText(counted, countText(rows, info));
  place.hidden = !rows.order.length;
}

function notes(rows, isOld) {
  const made = [];
  if (rows.isPaused) {
    const waiting = rows.mustReload ? "many changes are" : rows.held.length === 1 ? "1 change is" : `${format.count(rows.held.length)} changes are`;
    made.push(note("paused", `Paused: ${waiting} waiting.`));
  } else if (rows.trouble) made.push(note("stale", `Not live: ${rows.trouble}`));
  else if (isOld) {
    const since = rows.lostAt ?? Date.now() - (client.ageMs ?? 0);
    made.push(note("stale", `Not live since ${format.time(new Date(since).toISOString())}: the rows are as they were then.`));
  }
  if (rows.missing.length) made.push(note("bad", `Nothing is known now of the ${rows.missing.length === 1 ? "partition" : "partitions"} ${format.list(rows.missing)}: rows of theirs that are shown are old, and others may be lacking.`));
  if (rows.isLocal) made.push(note("absent", `This worker does not sort by value over a whole table: it runs an older version. These are the largest of the ${format.count(rows.order.length)} rows that are loaded.`));
  return made;
}

function countText(rows, info) {
  if (!rows.isReady) return rows.trouble ? "" : "Loading…";
  if (!rows.order.length) {
    const { prefix, state, start, end } = rows.view;
    return prefix || state !== "all" || start || end ? "No row is so. Choose less, or other times." : "No rows yet. They appear with the first checkpoint after an event.";
  }
  const filtered = rows.view.prefix || rows.view.state !== "all" || rows.view.start || rows.view.end;
  if (!rows.next) return `${format.plural(rows.order.length, "row")}${filtered ? " of these" : ""}`;
  return `the first ${format.count(rows.order.length)}${filtered ? "" : ` of ${format.count(info.rows)} rows`}${rows.isLoading ? ", loading more…" : "; more come as you scroll"}`;
}

/** Which columns suit the values: their numbers each in one, all else together. */
function shapeOf(order) {
  const counters = [];
  let hasRest = false;
  for (const { value } of order.slice(0, 20)) {
    if (value === null || typeof value !== "object" || Array.isArray(value)) continue;
    for (const [name, item] of Object.entries(value)) {
      if (["number", "bigint"].includes(typeof item) && !counters.includes(name) && counters.length < COUNTERS_SHOWN) counters.push(name);
      else if (!counters.includes(name)) hasRest = true;
    }
  }
  return { counters, hasRest, id: JSON.stringify([counters, hasRest]) };
}

function listOf(state, { counters, hasRest }, name) {
  const { info } = state;
  const isSingle = counters.length === 0;
  const barred = Math.max(0, counters.indexOf(state.rows.view.sort.replace(/^-/, "")));
  const columns = [
    info.keyed && { name: "Key", width: "minmax(7rem, 1.4fr)", mono: true },
    info.window && { name: "Window", width: info.keyed ? "minmax(11rem, 13rem)" : "minmax(8.5rem, 1.4fr)", wideOnly: info.keyed },
    info.window && { name: "State", width: "5.5rem", wideOnly: true },
    ...(isSingle ? [{ name: "Value", width: "minmax(6rem, 1.6fr)", number: true }] : counters.map((counter, index) => ({ name: counter, width: index ? "minmax(6rem, 1fr)" : "minmax(5rem, 1fr)", number: true, wideOnly: index > 0 }))),
    hasRest && { name: "More", width: "minmax(8rem, 1.6fr)", wideOnly: true },
    { name: "Partition", width: "4.8rem", number: true, wideOnly: true },
  ].filter(Boolean);
  const cells = (row) => {
    const { text, parts } = format.value(row.value);
    const when = row.window ? `${format.at(row.window.start)} – ${format.time(row.window.end)}` : null;
    const key = format.key(row.key);
    const size = state.rows.largest && row.size !== null ? Math.abs(row.size) / state.rows.largest : null;
    return [
      info.keyed && { text: key, title: key, sub: when },
      info.window && { text: when, title: `${row.window?.start} – ${row.window?.end}`, sub: info.keyed ? null : row.window?.state },
      info.window && { text: row.window?.state, state: row.window?.state },
      ...(isSingle ? [{ text: text || format.brief(row.value), bar: size }] : counters.map((counter, index) => {
        const item = row.value?.[counter];
        return { text: ["number", "bigint"].includes(typeof item) ? format.number(item) : "–", bar: index === barred ? size : null };
      })),
      hasRest && { text: parts.filter(([part]) => !counters.includes(part)).map(([part, item]) => `${part} ${item}`).join("   ") },
      String(row.partition),
    ].filter((cell) => cell !== false && cell !== null);
  };
  const list = new VirtualList({
    label: `Rows of ${name}`,
    columns,
    id: (row) => row.id,
    cells,
    open: (row) => state.openRow(row),
    nearEnd: () => state.rows.more(),
  });
  list.root.dataset.table = name;
  return list;
}

/** The page of a row. */
export function rowAddress(name, row, keyed) {
  const key = keyed ? format.keyText(row.key) : null;
  return page("tables", name, "row") + queryText({ key, start: row.window?.start });
}
