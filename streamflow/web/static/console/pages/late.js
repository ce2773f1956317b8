// What came too late for one table, and its way back into closed windows.

import { ask, curl, path, query as queryText } from "../api.js";
import { become, confirm, copy, h, note, table, toast } from "../dom.js";
import * as format from "../format.js";
import { VirtualList } from "../list.js";
import { page } from "../router.js";

const EVERY_MS = 3000;
const LIMIT = 1000;

export default function latePage(root, context) {
  const { parameters: { table: name } } = context;
  context.title(`Late events · ${name}`);
  const address = path("/v1/tables", name, "late") + queryText({ limit: LIMIT });
  const apply = h("button", { type: "button", class: "primary", id: "apply" }, "Apply to their windows");
  const copies = h("button", { type: "button", "data-key": "c" }, "Copy as curl");
  root.append(h("p", { class: "crumbs" }, h("a", { href: page("windows") }, "Windows")),
    h("div", { class: "titled" }, h("h1", {}, "Late events of ", h("span", { class: "mono" }, name)), apply, copies),
    h("p", { class: "lead" }, "They came after their windows had closed. Applied, each is counted exactly once, and rows that change are told anew as revised."));
  const done = h("div", { class: "told", id: "applied" });
  const section = h("section", {});
  const place = h("div", { class: "place", hidden: true });
  const below = h("section", {});
  root.append(done, section, place, below);

  const list = new VirtualList({
    label: `Late events of ${name}`,
    columns: [{ name: "Key", width: "minmax(7rem, 1.2fr)", mono: true }, { name: "Event time", width: "minmax(8rem, 1fr)" }, { name: "Too late by", width: "7rem", number: true }, { name: "Window", width: "minmax(9rem, 1fr)", wideOnly: true }, { name: "Place", width: "minmax(12.5rem, 1fr)", wideOnly: true }, { name: "State", width: "5.5rem", wideOnly: true }],
    id: (event) => `${event.partition}:${event.offset}`,
    cells: (event) => [
      { text: format.key(event.key), sub: `${event.topic} ${event.partition}:${event.offset}` },
      format.at(event.time),
      format.ago(event.behind_ms) === "just now" ? `${event.behind_ms} ms` : format.ago(event.behind_ms),
      event.windows.map(({ start, end }) => `${format.at(start)} – ${format.time(end)}`).join(", "),
      `${event.partition}:${event.offset}`,
      { text: event.applies ? "applies" : "too old", state: event.applies ? "good" : "warn" },
    ],
    open: (event) => context.router.go(page("topics", event.topic) + queryText({ partition: event.partition, offset: event.offset })),
  });
  place.append(list.root);
  context.onClose(() => list.close());

  const poll = context.follow(section, address, EVERY_MS, (said, body) => {
    const totals = Object.entries(said.totals);
    const sum = (what) => totals.reduce((total, [, of]) => total + of[what], 0);
    list.show(said.late);
    apply.disabled = !said.late.some((event) => event.applies);
    become(body,
      said.partial && note("bad", `Nothing is known now of the partitions ${format.list(said.missing_partitions)}.`),
      h("p", { class: "facts" }, h("span", {}, `${format.count(sum("came"))} came late`), h("span", {}, `${format.count(sum("applied"))} applied`), h("span", {}, `${format.count(sum("lost"))} lost for later ones`)),
      said.late.length === 0 && h("p", { class: "empty" }, totals.length ? "Nothing waits: all events came in time, or have been applied." : "Tables that agents write keep no late events; they are only counted."));
    place.hidden = !said.late.length;
    become(below,
      said.next && h("p", { class: "counted" }, `The first ${format.count(said.late.length)}.`),
      totals.length > 0 && h("h2", { class: "heading" }, "By partition"),
      totals.length > 0 && table("Late events by partition", [{ name: "Partition" }, { name: "Came late", number: true }, { name: "Applied", number: true }, { name: "Lost", number: true }],
        totals.map(([partition, of]) => [partition, format.count(of.came), format.count(of.applied), format.count(of.lost)])));
  }, "late events");

  context.onCluster(() => place.classList.toggle("is-stale", context.cluster.workers === null));
  copies.addEventListener("click", () => copy(curl(address), "as curl"));
  apply.addEventListener("click", async () => {
    if (!await confirm("Apply late events?", `All that can be is folded into the closed windows of ${name}, durably. Rows that change are told anew as revised.`, "Apply")) return;
    apply.disabled = true;
    try {
      const said = await ask(path("/v1/tables", name, "late"), { method: "POST", waitMs: 30_000 });
      const parts = [`${format.count(said.applied)} applied`, said.expired && `${format.count(said.expired)} stay: their windows are gone`, said.unsupported && `${format.count(said.unsupported)} of windows that take nothing late`].filter(Boolean);
      become(done, note(said.partial ? "bad" : "good", `${parts.join(", ")}.${said.partial ? ` The partitions ${format.list(said.missing_partitions)} have not answered: apply again later.` : ""}`));
      toast("Applied");
    } catch (failure) {
      become(done, note("bad", failure.body ? failure.message : "No answer in time. Some may be applied, each exactly once; applying again does the rest."));
    }
    poll.round();
  });
}
