// One row: its whole value, where it lies, and the other windows of its key; live.

import { rowId } from "/static/streamflow-client.js";
import { Problem, ask, client, curl, path, query as queryText } from "../api.js";
import { badge, become, copy, h, note } from "../dom.js";
import * as format from "../format.js";
import { VirtualList } from "../list.js";
import { page } from "../router.js";

const WINDOWS_MOST = 1000;
const AGAIN_MS = 2000;

export default function rowPage(root, context) {
  const { parameters: { table: name }, query, router } = context;
  const key = query.get("key");
  const start = query.get("start");
  const title = key ?? (start ? `window of ${format.at(start)}` : "row");
  context.title(`${title} · ${name}`);
  const told = h("div", { class: "told", id: "told" });
  const facts = h("dl", { class: "pairs", id: "row-facts" });
  const value = h("pre", { class: "code value", id: "value", tabindex: "0", "aria-label": "Value" });
  const copies = h("button", { type: "button", "data-key": "c", id: "curl" }, "Copy as curl");
  const windows = h("section", { "aria-labelledby": "windows-title", hidden: true }, h("h2", { class: "heading", id: "windows-title" }, "Windows of this key"));
  root.append(
    h("p", { class: "crumbs" }, h("a", { href: page("tables") }, "Tables"), " / ", h("a", { href: page("tables", name) }, name)),
    h("div", { class: "titled" }, h("h1", { class: "mono" }, title), copies),
    told, facts, value, windows);

  const state = { row: null, rows: new Map(), next: null, location: null, since: null, isOver: false, isThere: false };
  const list = new VirtualList({
    label: "Windows of this key",
    columns: [{ name: "Window", width: "minmax(11rem, 1fr)" }, { name: "State", width: "6rem", wideOnly: true }, { name: "Value", width: "minmax(7rem, 2fr)", number: true }],
    id: rowId,
    cells: (row) => [
      { text: row.window ? `${format.at(row.window.start)} – ${format.time(row.window.end)}` : "", sub: row.window?.state },
      { text: row.window?.state ?? "", state: row.window?.state },
      format.brief(row.value),
    ],
    open: (row) => router.go(page("tables", name, "row") + queryText({ key, start: row.window.start })),
  });
  windows.append(list.root);
  context.onClose(() => list.close());

  // A key that is empty is spelt by its bytes: an address's path may lose what is empty.
  const of = key === null ? null : path("/v1/tables", name, "keys", key);
  const address = () => {
    if (key === null) return path("/v1/tables", name, "rows") + queryText({ start, end: start && new Date(Date.parse(start) + 1).toISOString(), limit: 1 });
    return of + queryText({ at: start });
  };
  copies.addEventListener("click", () => copy(curl(address()), "as curl"));

  const draw = () => {
    const { row } = state;
    const isOld = state.since !== null || client.state !== "live";
    become(told, state.trouble ?? (isOld && row && note("stale", `Not live since ${format.time(new Date(state.since ?? Date.now() - (client.ageMs ?? 0)).toISOString())}: the row is as it was then.`)));
    for (const each of [facts, value, windows]) each.classList.toggle("is-stale", isOld);
    value.hidden = facts.hidden = !row;
    if (!row) return;
    const text = format.pretty(row.value);
    if (value.textContent !== text) value.textContent = text;
    value.classList.toggle("scalar", ["number", "bigint"].includes(typeof row.value));
    const pair = (label, ...what) => h("div", {}, h("dt", {}, label), h("dd", {}, what));
    become(facts,
      row.window && pair("Window", `${format.at(row.window.start)} – ${format.time(row.window.end)} `, badge(row.window.state)),
      pair("Partition", String(row.partition)),
      state.location && pair("Owner", state.location.owner ? format.host(state.location.owner) : "moving between workers"));
    const rows = [...state.rows.values()].sort((a, b) => Date.parse(b.window.start) - Date.parse(a.window.start));
    windows.hidden = rows.length < 2;
    list.show(rows, state.flashing);
    state.flashing = new Set();
  };

  let isLoading = false;
  let isAskedAgain = false; // what is read now may be older than what asked for it
  const load = async () => {
    if (state.isOver) return;
    if (isLoading) {
      isAskedAgain = true;
      return;
    }
    isLoading = true;
    try {
      const said = await ask(address());
      state.row = key === null ? said.rows[0] ?? null : said;
      state.trouble = state.row ? null : note("bad", "There is no such row now.");
      if (said.partial) state.trouble = note("bad", `Nothing is known now of the partitions ${format.list(said.missing_partitions)}: there may be more rows of this key.`);
      state.since = null;
      if (key !== null && state.row.window) {
        const page = await ask(`${of}/windows${queryText({ sort: "-window", limit: WINDOWS_MOST })}`);
        state.rows = new Map(page.rows.map((row) => [rowId(row), row]));
      }
      if (key !== null) state.location = await ask(`${of}/location`).catch(() => state.location);
    } catch (failure) {
      state.since ??= Date.now();
      state.trouble = note(failure.status === 404 ? "bad" : "stale", failure instanceof Problem ? failure.message : "This worker does not answer.");
      // No such row yet, or not now: it may come.
      if (!state.isOver) setTimeout(load, AGAIN_MS);
    }
    isLoading = false;
    if (state.isOver) return;
    draw();
    if (isAskedAgain) {
      isAskedAgain = false;
      load();
    }
  };

  const take = (changes) => {
    isAskedAgain ||= isLoading;
    let needsMore = false;
    for (const change of changes) {
      const id = rowId(change);
      const isMine = key === null ? change.window && Date.parse(change.window.start) === Date.parse(start)
        : !start || (change.window && Date.parse(change.window.start) <= Date.parse(start) && Date.parse(start) < Date.parse(change.window.end));
      if (change.op !== "upsert") {
        state.rows.delete(id);
        needsMore ||= isMine;
        continue;
      }
      if (change.window && key !== null) {
        state.rows.set(id, change);
        state.flashing = new Set([...(state.flashing ?? []), id]);
      }
      if (!isMine) continue;
      if (start || !state.row?.window || Date.parse(change.window.start) >= Date.parse(state.row.window.start)) {
        state.row = { ...state.row, ...change };
        state.trouble = null;
      }
    }
    if (needsMore) load();
  };
  const heard = {
    change: ({ changes }) => take(changes),
    synced: () => {
      state.since = null;
      load();
    },
    state: ({ state: now, reason }, feed) => {
      // Partitions that move are others' trouble, but for the one of this row.
      const isMoving = reason?.code === "rebalancing" && !feed.missing.includes(state.row?.partition);
      if (now !== "live" && !isMoving) state.since ??= Date.now();
      else if (now === "live" && state.row) state.since = null;
    },
  };
  let feed = null;
  // The key as the table reads it, and not as the address spells it.
  load().then(() => {
    if (state.isOver) return;
    const only = key === null ? {} : { key: state.row ? state.row.key : key };
    feed = client.live(name, { ...only, snapshot: false, maxHz: 5 });
    for (const [event, tell] of Object.entries(heard)) {
      feed.addEventListener(event, ({ detail }) => {
        tell(detail, feed);
        draw();
      });
    }
  });
  context.onClose(() => {
    state.isOver = true;
    feed?.close();
  });
  draw();
}
