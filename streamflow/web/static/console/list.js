// A list of any length: only the rows that can be seen are on the page. A grid for assistive technology.

import { h, setText } from "./dom.js";

const ROWS_BEYOND = 8; // drawn above and below what is seen
const narrow = matchMedia("(max-width: 40rem)");
let count = 0;

export class VirtualList {
  /**
   * `columns`: [{name, width, number?, wideOnly?}], `width` as CSS grid takes it.
   * `id(item)` names it for good; `cells(item)` gives the text of each column, or
   * {text, sub?, bar?: 0..1, state?, title?}; `open(item)` follows Enter and a click.
   * `nearEnd()` is called when the end comes in sight.
   */
  constructor({ label, columns, id, cells, open, nearEnd = () => {}, wideHeight = 36, narrowHeight = 52 }) {
    this.columns = columns;
    this.idOf = id;
    this.cellsOf = cells;
    this.nearEnd = nearEnd;
    this.heights = [wideHeight, narrowHeight];
    this.items = [];
    this.nodes = new Map(); // id -> row on the page
    this.flashing = new Set();
    this.staleOf = () => false;
    this.active = 0;
    this.name = `list${++count}`;
    this.head = h("div", { role: "row", class: "vhead", "aria-rowindex": "1" },
      columns.map((column, index) => h("div", { role: "columnheader", class: kind(column), "aria-colindex": index + 1 }, column.name)));
    this.body = h("div", { role: "rowgroup", class: "vbody" });
    this.root = h("div", { role: "grid", class: "vlist", tabindex: "0", "aria-label": label, "aria-readonly": "true", data: { own: this.name } },
      h("div", { role: "rowgroup", class: "vheads" }, this.head), this.body);
    this.root.addEventListener("scroll", () => this.drawSoon(), { passive: true });
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("[data-index]");
      if (!row || !getSelection().isCollapsed) return;
      this.active = Number(row.dataset.index);
      this.drawSoon();
      if (open) open(this.items[this.active]);
    });
    this.open = open;
    this.root.classList.toggle("opens", Boolean(open));
    this.observer = new ResizeObserver(() => this.drawSoon());
    this.observer.observe(this.root);
  }

  close() {
    this.observer.disconnect();
  }

  get height() {
    return this.heights[narrow.matches ? 1 : 0];
  }

  /** `items` from now on; those whose ids are in `changed` flash. */
  show(items, changed = new Set()) {
    this.items = items;
    for (const id of changed) this.flashing.add(id);
    this.root.setAttribute("aria-rowcount", String(items.length + 1));
    this.drawSoon();
  }

  drawSoon() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      this.draw();
    });
  }

  draw() {
    const { height, items } = this;
    this.active = Math.max(0, Math.min(this.active, items.length - 1));
    this.body.style.height = `${items.length * height}px`;
    const template = this.columns.filter((column) => !(narrow.matches && column.wideOnly)).map((column) => column.width).join(" ");
    this.head.style.gridTemplateColumns = template;
    const first = Math.max(0, Math.floor(this.root.scrollTop / height) - ROWS_BEYOND);
    const last = Math.min(items.length, Math.ceil((this.root.scrollTop + this.root.clientHeight) / height) + ROWS_BEYOND);
    const shown = new Set();
    for (let index = first; index < last; index++) {
      const id = this.idOf(items[index]);
      shown.add(id);
      let node = this.nodes.get(id);
      if (!node) this.nodes.set(id, (node = this.make()));
      this.fill(node, items[index], index, template, height);
      if (this.flashing.has(id)) flash(node);
      if (!node.isConnected) this.body.append(node);
    }
    this.flashing.clear();
    for (const [id, node] of this.nodes) {
      if (shown.has(id)) continue;
      node.remove();
      this.nodes.delete(id);
    }
    const activeNode = items.length && this.nodes.get(this.idOf(items[this.active]));
    if (activeNode) this.root.setAttribute("aria-activedescendant", activeNode.id);
    else this.root.removeAttribute("aria-activedescendant");
    if (last >= items.length - 2 * ROWS_BEYOND) this.nearEnd();
  }

  make() {
    count += 1;
    return h("div", { role: "row", class: "vrow", id: `row${count}` }, this.columns.map((column, index) =>
      h("div", { role: "gridcell", class: kind(column), "aria-colindex": index + 1 }, h("span", { class: "text" }))));
  }

  fill(node, item, index, template, height) {
    node.dataset.index = String(index);
    node.setAttribute("aria-rowindex", String(index + 2));
    node.classList.toggle("is-active", index === this.active);
    node.classList.toggle("is-stale", this.staleOf(item));
    node.style.gridTemplateColumns = template;
    node.style.height = `${height}px`;
    node.style.transform = `translateY(${index * height}px)`;
    for (const [place, cell] of this.cellsOf(item).entries()) fillCell(node.children[place], cell);
  }

  key(event) {
    if (event.target !== this.root || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.root.clientHeight / this.height) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: page, PageUp: -page, Home: -this.items.length, End: this.items.length };
    if (event.key === "Enter" && this.open && this.items.length) {
      event.preventDefault();
      this.open(this.items[this.active]);
    } else if (event.key in steps) {
      event.preventDefault();
      this.active = Math.max(0, Math.min(this.items.length - 1, this.active + steps[event.key]));
      const top = this.active * this.height;
      const seen = this.root.clientHeight - this.head.offsetHeight - this.height;
      if (top < this.root.scrollTop) this.root.scrollTop = top;
      else if (top > this.root.scrollTop + seen) this.root.scrollTop = top - seen;
      this.drawSoon();
    }
  }
}

function kind(column) {
  return ["vcell", column.number && "number", column.wideOnly && "wide", column.mono && "mono"].filter(Boolean).join(" ");
}

function fillCell(cell, said) {
  const { text, sub = null, bar = null, state = null, title = null } = typeof said === "object" && said !== null ? said : { text: said };
  const line = cell.querySelector(".text");
  setText(line, text ?? "");
  line.title = title ?? "";
  if (state) line.dataset.state = state;
  else delete line.dataset.state;
  line.classList.toggle("badge", Boolean(state));
  let under = cell.querySelector(".sub");
  if (sub !== null) {
    if (!under) cell.append((under = h("span", { class: "sub" })));
    setText(under, sub);
  } else under?.remove();
  let size = cell.querySelector(".bar");
  if (bar !== null) {
    if (!size) cell.prepend((size = h("span", { class: "bar", "aria-hidden": "true" }, h("span"))));
    size.firstChild.style.width = `${Math.max(0, Math.min(1, bar)) * 100}%`;
  } else size?.remove();
}

function flash(node) {
  node.classList.remove("is-flashing");
  node.dataset.changes = String(Number(node.dataset.changes ?? 0) + 1);
  requestAnimationFrame(() => node.classList.add("is-flashing"));
}
