// One table: its newest rows as data, and its card. All text goes in by textContent.

import * as format from "./format.js";

export const ROWS_KEPT = 4000;
const WINDOWS_KEPT = 24;
const WINDOWS_SHOWN = 8;
const ROWS_SHOWN = 10; // of one window
const ROWS_SHOWN_FLAT = 25; // of a table without windows
const ORDER_MS = 1000; // rows change places at most so often: values may move, lines should rest

export class Table {
  constructor(info) {
    this.info = info;
    this.rows = new Map(); // id -> {key, window, value, partition, view}
    this.isLoading = true;
    this.isWhole = true; // are all rows here, so that the largest are the largest of all?
    this.missing = [];
    this.trouble = ""; // why nothing comes
    this.held = []; // changes that came while the first rows were fetched
    this.changed = new Set(); // ids that flash at the next drawing
    this.card = new Card(info);
    this.orderedAt = 0;
    this.order = null;
  }

  reset() {
    this.rows.clear();
    this.held = [];
    this.isLoading = true;
    this.order = null;
  }

  /** Nothing comes any more: what is shown stays, and is read anew when it goes on. */
  stop(why) {
    this.trouble = why;
    this.held = [];
    this.isLoading = true;
  }

  /** The newest rows, as fetched; what came meanwhile is newer. */
  load(rows, isWhole) {
    this.rows.clear();
    this.isWhole = isWhole;
    for (const row of rows) this.put(row);
    this.isLoading = false;
    for (const changes of this.held.splice(0)) this.change(changes);
    this.order = null;
  }

  change(changes) {
    if (this.isLoading) {
      this.held.push(changes);
      return;
    }
    for (const change of changes) {
      if (change.op === "upsert") this.changed.add(this.put(change));
      else this.rows.delete(rowId(change));
    }
    if (this.rows.size > ROWS_KEPT) this.trim();
  }

  put(row) {
    const id = rowId(row);
    if (!this.rows.has(id)) this.orderedAt = -ORDER_MS;
    this.rows.set(id, { key: row.key, window: row.window, view: format.value(row.value) });
    return id;
  }

  /** Keeps the newest windows, and of too many rows the largest. */
  trim() {
    this.isWhole = false;
    const starts = [...new Set([...this.rows.values()].map((row) => row.window?.start ?? ""))].sort().reverse();
    const kept = new Set(starts.slice(0, WINDOWS_KEPT));
    for (const [id, row] of this.rows) if (!kept.has(row.window?.start ?? "")) this.rows.delete(id);
    if (this.rows.size <= ROWS_KEPT) return;
    const entries = [...this.rows].sort(([, a], [, b]) => bySize(a, b) || newestFirst(a, b));
    for (const [id] of entries.slice(ROWS_KEPT / 2)) this.rows.delete(id);
  }

  /** [{window, ids, more}], newest window first, its largest rows first. */
  groups(now) {
    if (this.order && (now - this.orderedAt < ORDER_MS || holdsSelection(this.card.root))) return this.order;
    const byStart = new Map(); // start -> [[id, row]]
    for (const entry of this.rows) {
      const start = entry[1].window?.start ?? "";
      if (!byStart.has(start)) byStart.set(start, []);
      byStart.get(start).push(entry);
    }
    const starts = [...byStart.keys()].sort((a, b) => Date.parse(b) - Date.parse(a)).slice(0, WINDOWS_SHOWN);
    const limit = this.info.window ? ROWS_SHOWN : ROWS_SHOWN_FLAT;
    this.order = starts.map((start) => {
      const entries = byStart.get(start).sort(([, a], [, b]) => bySize(a, b) || byKey(a, b));
      const ids = entries.slice(0, limit).map(([id]) => id);
      return { start, ids, more: entries.length - ids.length };
    });
    this.orderedAt = now;
    return this.order;
  }

  draw(now) {
    this.card.draw(this, this.groups(now), this.changed);
    this.changed.clear();
  }
}

function rowId(row) {
  return JSON.stringify([row.partition, row.key, row.window?.start ?? null, row.window?.end ?? null]);
}

function bySize(a, b) {
  return (b.view.size ?? 0) - (a.view.size ?? 0);
}

function byKey(a, b) {
  const [one, two] = [format.key(a.key), format.key(b.key)];
  return one < two ? -1 : one > two ? 1 : 0;
}

function newestFirst(a, b) {
  return Date.parse(b.window?.start ?? 0) - Date.parse(a.window?.start ?? 0);
}

class Card {
  constructor(info) {
    this.name = info.name;
    this.lines = new Map(); // row id -> {tr, bar, number, parts}
    this.bodies = new Map(); // window start -> {body, head…}
    this.root = element("article", "card");
    this.root.dataset.table = info.name;
    const title = element("h3");
    title.id = `table-${info.name}`;
    const link = element("a", "", info.name);
    link.href = `/v1/tables/${encodeURIComponent(info.name)}/rows?sort=-window`;
    title.append(link);
    this.facts = element("p", "facts");
    const head = element("header");
    head.append(title, this.facts);
    this.table = element("table");
    this.table.append(element("caption", "", `Newest rows of ${info.name}`));
    this.scroll = element("div", "scroll");
    this.scroll.tabIndex = 0;
    this.scroll.setAttribute("role", "region");
    this.scroll.setAttribute("aria-labelledby", title.id);
    this.empty = element("p", "empty");
    this.scroll.append(this.empty, this.table);
    this.root.append(head, this.scroll);
    this.root.setAttribute("aria-labelledby", title.id);
  }

  draw(table, groups, changed) {
    this.drawFacts(table);
    this.empty.hidden = groups.length > 0;
    this.empty.textContent = table.isLoading ? "Loading…" : "No rows yet. They appear with the first checkpoint after an event.";
    // Windows with one row are compared with each other, the rows of larger ones within the window.
    const isSingle = groups.every((group) => group.ids.length < 2);
    const sizes = groups.map((group) => Math.max(0, ...group.ids.map((id) => Math.abs(table.rows.get(id)?.view.size ?? 0))));
    const overall = Math.max(...sizes, 0);
    const shown = new Set();
    let place = this.table.querySelector("caption").nextElementSibling;
    for (const [index, group] of groups.entries()) {
      const largest = (isSingle ? overall : sizes[index]) || 1;
      shown.add(group.start);
      const body = this.body(group, table);
      if (body.root !== place) this.table.insertBefore(body.root, place);
      else place = place.nextElementSibling;
      this.drawBody(body, group, table, largest, changed);
    }
    for (const [start, body] of this.bodies) {
      if (shown.has(start)) continue;
      body.root.remove();
      this.bodies.delete(start);
    }
    for (const [id, line] of this.lines) if (!line.tr.isConnected) this.lines.delete(id);
  }

  drawFacts(table) {
    const { info } = table;
    const facts = [info.kind === "agent" ? "agent" : "aggregate"];
    if (info.window) facts.push(`${info.window.kind} ${format.duration(info.window.size_ms)}`);
    facts.push(`${format.count(info.rows)} ${info.rows === 1 ? "row" : "rows"}`);
    if (!table.isWhole) facts.push(`largest of the ${info.window ? "newest " : "first "}${format.count(table.rows.size)} rows`);
    if (info.watermark) facts.push(`event time ${format.date(info.watermark)} ${format.time(info.watermark)}`);
    const nodes = facts.map((fact) => element("span", "", fact));
    if (table.missing.length) nodes.push(element("span", "warn", `partitions moving: ${table.missing.join(", ")}`));
    if (table.trouble) nodes.push(element("span", "warn", `not live: ${table.trouble}`));
    become(this.facts, nodes);
  }

  body(group, table) {
    let body = this.bodies.get(group.start);
    if (body) return body;
    body = { root: element("tbody"), badge: null, head: null, more: element("tr", "more") };
    body.more.append(element("td"));
    body.more.firstChild.colSpan = 3;
    if (table.info.window) {
      body.head = element("tr", "window");
      const cell = element("th");
      cell.colSpan = 3;
      cell.scope = "rowgroup";
      const time = element("span", "time");
      body.badge = element("span", "badge");
      body.day = element("span", "day");
      cell.append(time, body.badge, body.day);
      body.head.append(cell);
      body.time = time;
    }
    this.bodies.set(group.start, body);
    return body;
  }

  drawBody(body, group, table, largest, changed) {
    const wanted = [];
    if (body.head) {
      const { window } = table.rows.get(group.ids[0]) ?? {};
      if (window) {
        setText(body.time, `${format.time(window.start)} – ${format.time(window.end)}`);
        body.time.title = `${window.start} – ${window.end}`;
        setText(body.badge, window.state);
        body.badge.dataset.state = window.state;
        setText(body.day, format.date(window.start));
      }
      wanted.push(body.head);
    }
    for (const id of group.ids) {
      const row = table.rows.get(id);
      if (!row) continue;
      const line = this.line(id, row);
      this.drawLine(line, row, largest, changed.has(id));
      wanted.push(line.tr);
      if (row.view.parts.length) wanted.push(line.parts);
    }
    if (group.more > 0) {
      setText(body.more.firstChild, `and ${table.isWhole ? "" : "at least "}${format.count(group.more)} more`);
      wanted.push(body.more);
    }
    arrange(body.root, wanted);
  }

  line(id, row) {
    let line = this.lines.get(id);
    if (line) return line;
    const tr = element("tr", "row");
    const name = element("th", "", format.key(row.key));
    name.scope = "row";
    name.title = name.textContent;
    const bar = element("td", "bar");
    bar.setAttribute("aria-hidden", "true");
    bar.append(element("span"));
    const number = element("td", "number");
    tr.append(name, bar, number);
    const parts = element("tr", "parts");
    parts.append(element("td"));
    parts.firstChild.colSpan = 3;
    line = { tr, bar: bar.firstChild, number, parts, partsText: "" };
    this.lines.set(id, line);
    return line;
  }

  drawLine(line, row, largest, isChanged) {
    const { view } = row;
    setText(line.number, view.text);
    line.number.title = view.text;
    line.bar.hidden = view.size === null;
    line.bar.style.width = `${Math.round((Math.abs(view.size ?? 0) / largest) * 1000) / 10}%`;
    const text = JSON.stringify(view.parts);
    if (text !== line.partsText) {
      line.partsText = text;
      line.parts.firstChild.replaceChildren(...view.parts.map(([name, item]) => {
        const part = element("span", "part", `${name} `);
        part.append(element("b", "", item));
        return part;
      }));
    }
    if (isChanged) {
      line.tr.classList.remove("is-flashing");
      line.tr.dataset.changes = String(Number(line.tr.dataset.changes ?? 0) + 1);
      requestAnimationFrame(() => line.tr.classList.add("is-flashing"));
    }
  }
}

/** Makes `wanted` the children of `root` with as few moves as it takes. */
function arrange(root, wanted) {
  let place = root.firstChild;
  for (const node of wanted) {
    if (node === place) place = place.nextSibling;
    else root.insertBefore(node, place);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** The text node stays, so that what somebody has selected beside it stays selected. */
export function setText(node, text) {
  if (node.textContent === text) return;
  if (node.childNodes.length === 1 && node.firstChild.nodeType === Node.TEXT_NODE) node.firstChild.data = text;
  else node.textContent = text;
}

/** Makes `root` look as if `wanted` were its children; what is the same stays, selections too. */
export function become(root, wanted) {
  const before = [...root.childNodes];
  for (const [index, node] of wanted.entries()) {
    if (index < before.length) morph(before[index], node);
    else root.append(node);
  }
  for (const node of before.slice(wanted.length)) node.remove();
}

function morph(old, made) {
  if (old.nodeName !== made.nodeName) {
    old.replaceWith(made);
  } else if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== made.data) old.data = made.data;
  } else {
    for (const { name } of [...old.attributes]) if (!made.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of made.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    become(old, [...made.childNodes]);
  }
}

/** Has somebody selected text in there? */
function holdsSelection(root) {
  const selection = getSelection();
  return !selection.isCollapsed && selection.rangeCount > 0 && selection.getRangeAt(0).intersectsNode(root);
}
