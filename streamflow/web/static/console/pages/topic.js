// One topic: its partitions, and what stands in them.

import { ask, curl, path, query as queryText } from "../api.js";
import { badge, become, copy, h, note, table } from "../dom.js";
import * as format from "../format.js";
import { VirtualList } from "../list.js";
import { page } from "../router.js";
import { isAlive, lagOf } from "./topics.js";

const EVERY_MS = 2000;
const LIMIT = 100;

export default function topicPage(root, context) {
  const { parameters: { topic: name }, cluster } = context;
  context.title(name);
  root.append(h("p", { class: "crumbs" }, h("a", { href: page("topics") }, "Topics")), h("h1", { class: "mono" }, name));
  const facts = h("p", { class: "facts" });
  const section = h("section", { "aria-labelledby": "partitions-title" }, h("h2", { class: "heading", id: "partitions-title" }, "Partitions"));
  root.append(facts, section);
  const browser = new Browser(name, context);
  root.append(browser.root);
  let last = null;
  let body = null;
  const draw = () => {
    if (!last) return;
    const topic = last.topics.find((each) => each.topic === name);
    browser.root.hidden = !topic;
    if (!topic) return become(body, note("bad", `There is no topic ${name} in this app.`));
    browser.fit(topic);
    become(facts, h("span", {}, format.plural(topic.partitions.length, "partition")), h("span", {}, `lag ${lagOf(topic.partitions, cluster)}`),
      topic.internal && h("span", {}, "the app's own"),
      topic.agents?.length > 0 && h("span", {}, `agents ${topic.agents.join(", ")}`),
      topic.tables?.length > 0 && h("span", {}, "tables ", topic.tables.map((each, index) => [index > 0 && ", ", h("a", { href: page("tables", each) }, each)])));
    become(body, table("Partitions", [{ name: "Partition" }, { name: "Owner" }, { name: "Start", number: true, wide: true }, { name: "Position", number: true }, { name: "End", number: true }, { name: "Lag", number: true }],
      topic.partitions.map(({ partition, owner, start, end, position, lag }) => {
        const alive = !owner || isAlive(cluster, owner);
        return [
          h("a", { href: page("topics", name) + queryText({ partition, offset: position ?? start }), data: { partition } }, String(partition)),
          !owner ? h("span", { class: "muted" }, "nobody") : alive ? format.host(owner) : [format.host(owner), " ", badge("bad", "silent")],
          format.offset(start),
          alive ? format.offset(position) : "–",
          format.offset(end),
          alive && typeof lag === "number" ? format.count(lag) : "–",
        ];
      })));
  };
  context.onCluster(() => body && draw());
  context.follow(section, "/v1/topics", EVERY_MS, (said, made) => {
    last = said;
    body = made;
    draw();
  }, "its topics");
}

/** The message browser: from an offset or a time on, page by page. */
class Browser {
  constructor(name, context) {
    this.name = name;
    this.context = context;
    const { query, router } = context;
    this.messages = [];
    this.next = null;
    this.isLoading = false;
    this.generation = 0;
    this.partition = h("select", { id: "partition" });
    this.from = h("select", { id: "from-kind" }, [["end", "the newest"], ["offset", "an offset"], ["time", "a time"], ["start", "the oldest"]].map(([value, text]) => h("option", { value }, text)));
    this.offset = h("input", { id: "offset", inputmode: "numeric", pattern: "[0-9]*", placeholder: "offset", "data-key": "/", "aria-label": "Offset", value: query.get("offset") ?? "" });
    this.time = h("input", { id: "time", type: "datetime-local", step: "1", "aria-label": "Time" });
    this.copies = h("button", { type: "button", "data-key": "c" }, "Copy as curl");
    this.told = h("div", { class: "told" });
    this.detail = h("div", { class: "detail-pane", id: "message" });
    const field = (label, ...inputs) => h("div", { class: "field" }, h("label", { for: inputs[0].id }, label), h("div", { class: "inputs" }, inputs));
    this.form = h("form", { class: "toolbar", "aria-label": "Messages" }, field("Partition", this.partition), field("From", this.from, this.offset, this.time),
      h("div", { class: "field last" }, h("div", { class: "inputs" }, h("button", { type: "submit", class: "primary" }, "Read"), this.copies)));
    this.list = new VirtualList({
      label: `Messages of ${name}`,
      columns: [{ name: "Offset", width: "10.5rem", wideOnly: true }, { name: "Time", width: "8.5rem", wideOnly: true }, { name: "Key", width: "minmax(6rem, 1fr)", mono: true }, { name: "Value", width: "minmax(8rem, 3fr)", mono: true }],
      id: (message) => `${message.partition}:${message.offset}`,
      cells: (message) => [
        format.offset(message.offset),
        format.at(message.timestamp),
        { text: message.key === null || message.key === undefined ? "no key" : format.brief(message.key), sub: `${message.offset} · ${format.at(message.timestamp)}` },
        message.error ? { text: `bad: ${format.brief(message.error)}`, title: message.error } : format.brief(message.value ?? "null"),
      ],
      open: (message) => this.open(message),
      nearEnd: () => this.more(),
    });
    context.onClose(() => this.list.close());
    context.onClose(() => { this.generation += 1; });
    this.place = h("div", { class: "place" }, this.list.root);
    this.counted = h("p", { class: "counted", role: "status" });
    this.root = h("section", { "aria-labelledby": "messages-title" }, h("h2", { class: "heading", id: "messages-title" }, "Messages"), this.form, this.told, this.place, this.counted, this.detail);
    if (query.get("offset")) this.from.value = "offset";
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      router.choose({ partition: this.partition.value, offset: this.from.value === "offset" ? this.offset.value : "" }, true);
      this.read();
    });
    this.from.addEventListener("change", () => this.fields());
    this.copies.addEventListener("click", () => copy(curl(this.address()), "as curl"));
    this.fields();
    this.place.hidden = true;
  }

  fields() {
    this.offset.hidden = this.from.value !== "offset";
    this.time.hidden = this.from.value !== "time";
  }

  fit(topic) {
    this.topic = topic;
    if (this.partition.options.length === topic.partitions.length) return;
    this.partition.replaceChildren(...topic.partitions.map(({ partition }) => h("option", { value: partition }, String(partition))));
    const wanted = this.context.query.get("partition") ?? String(busiest(topic.partitions));
    this.partition.value = wanted;
    this.read();
  }

  address(next = null) {
    const at = next ?? { partition: this.partition.value, ...this.beginning() };
    return path("/v1/topics", this.name, "messages") + queryText({ ...at, limit: LIMIT });
  }

  beginning() {
    if (this.from.value === "offset" && /^\d+$/.test(this.offset.value)) return { offset: this.offset.value };
    if (this.from.value === "time" && this.time.value) return { time: new Date(this.time.value).toISOString() };
    return { offset: this.from.value === "start" ? "earliest" : "latest" };
  }

  async read() {
    this.generation += 1;
    this.messages = [];
    this.next = null;
    this.isLoading = false;
    become(this.detail);
    this.list.root.scrollTop = 0;
    await this.fetch(this.address());
  }

  more() {
    if (this.next && !this.isLoading) this.fetch(this.address(this.next));
  }

  async fetch(address) {
    const generation = this.generation;
    this.isLoading = true;
    try {
      const said = await ask(address);
      if (generation !== this.generation) return;
      this.messages.push(...said.messages);
      // The end of a topic is not the end of the page's life: ask again by hand.
      this.next = said.messages.length ? said.next : null;
      become(this.told);
    } catch (failure) {
      if (generation !== this.generation) return;
      this.next = null;
      become(this.told, failure.isAbsent
        ? note("absent", "This worker does not offer the messages of topics: it runs an older version of streamflow.")
        : note("bad", failure.body ? failure.message : "This worker does not answer."));
    }
    this.isLoading = false;
    // The newest on top, where they were asked for.
    this.list.show(address.includes("offset=latest") ? this.messages.toReversed() : this.messages);
    this.place.hidden = !this.messages.length;
    this.counted.textContent = this.messages.length ? `${format.plural(this.messages.length, "message")}${this.next ? "; more come as you scroll" : ", to the end"}` : this.told.childElementCount ? "" : "No message from there on.";
  }

  open(message) {
    const headers = message.headers ?? [];
    become(this.detail, h("article", { class: "card" },
      h("h3", { tabindex: "-1", id: "message-title" }, `Partition ${message.partition}, offset ${format.offset(message.offset)}`),
      message.error && note("bad", message.error),
      h("dl", { class: "pairs" },
        h("div", {}, h("dt", {}, "Time"), h("dd", {}, message.timestamp ?? "–")),
        h("div", {}, h("dt", {}, "Key"), h("dd", { class: "mono" }, message.key === null || message.key === undefined ? "none" : format.brief(message.key, 2000))),
        headers.map(([header, text]) => h("div", {}, h("dt", { class: "mono" }, header), h("dd", { class: "mono" }, text)))),
      h("pre", { class: "code", tabindex: "0", "aria-label": "Value" }, format.pretty(message.value ?? null))));
    document.getElementById("message-title").focus();
  }
}

/** The partition with the most messages: where there is something to see. */
function busiest(partitions) {
  const size = ({ start, end }) => (/^\d+$/.test(end ?? "") ? Number(BigInt(end) - BigInt(start ?? "0")) : -1);
  return [...partitions].sort((a, b) => size(b) - size(a))[0]?.partition ?? 0;
}
