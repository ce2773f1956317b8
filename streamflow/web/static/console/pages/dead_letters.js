// Events that were set aside: why, where they came from, and what they were.

import { ask, curl, path, query as queryText } from "../api.js";
import { become, copy, h, note } from "../dom.js";
import * as format from "../format.js";
import { VirtualList } from "../list.js";
import { page } from "../router.js";

const LIMIT = 200;
const EVERY_MS = 5000;
const SEARCH_MS = 300;

export default function deadLetters(root, context) {
  const { query, router } = context;
  context.title("Dead letters");
  const topic = h("input", { type: "search", id: "topic", value: query.get("topic") ?? "", placeholder: "all topics", autocomplete: "off", "data-key": "/" });
  const reason = h("input", { type: "search", id: "reason", value: query.get("reason") ?? "", placeholder: "all reasons", autocomplete: "off", list: "reasons" });
  const shown = h("select", { id: "letter-state" }, [["waiting", "that wait"], ["replayed", "replayed"], ["dropped", "dropped"], ["all", "all"]].map(([value, text]) => h("option", { value, selected: value === (query.get("state") ?? "waiting") }, text)));
  const reasons = h("datalist", { id: "reasons" });
  const copies = h("button", { type: "button", "data-key": "c" }, "Copy as curl");
  const told = h("div", { class: "told", id: "told" });
  const counted = h("p", { class: "counted", role: "status", id: "counted" });
  const field = (label, input) => h("div", { class: "field" }, h("label", { for: input.id }, label), h("div", { class: "inputs" }, input));
  const list = new VirtualList({
    label: "Dead letters",
    columns: [{ name: "Time", width: "9rem", wideOnly: true }, { name: "Reason", width: "minmax(7rem, 11rem)" }, { name: "Source", width: "minmax(8rem, 2fr)", mono: true, wideOnly: true }, { name: "Agent", width: "minmax(5rem, 8rem)", wideOnly: true }, { name: "Error", width: "minmax(10rem, 3fr)" }],
    id: (letter) => letter.id,
    cells: (letter) => [
      format.at(letter.time),
      { text: letter.state && letter.state !== "waiting" ? `${letter.reason}, ${letter.state}` : letter.reason, sub: `${letter.source.topic} ${letter.source.partition}:${letter.source.offset}` },
      `${letter.source.topic} ${letter.source.partition}:${letter.source.offset}`,
      letter.agent ?? letter.consumer ?? "–",
      { text: letter.error ?? "", title: letter.error ?? "", sub: format.at(letter.time) },
    ],
    open: (letter) => router.go(page("dead-letters", letter.id)),
    nearEnd: () => more(),
  });
  const place = h("div", { class: "place", hidden: true }, list.root);
  root.append(h("h1", {}, "Dead letters"), h("p", { class: "lead" }, "Events that could not be read, or that an agent gave up on. Each can be sent to its agent again, changed or as it was."),
    h("div", { class: "toolbar", role: "search", "aria-label": "Dead letters" }, field("Topic", topic), field("Reason", reason), reasons, field("State", shown), h("div", { class: "field last" }, h("div", { class: "inputs" }, copies))),
    told, place, counted);

  const state = { letters: new Map(), first: [], next: null, isLoading: false, generation: 0, isThere: false };
  context.onClose(() => { list.close(); state.generation += 1; });
  const address = (cursor = null) => `/v1/dead-letters${queryText({ topic: topic.value, reason: reason.value, state: shown.value === "waiting" ? "" : shown.value, limit: LIMIT, cursor })}`;
  const draw = () => {
    const letters = [...state.letters.values()].sort((a, b) => inOrder(a.id, b.id));
    list.show(letters);
    place.hidden = !letters.length;
    counted.textContent = !state.isThere ? "" : letters.length
      ? `${format.plural(letters.length, "dead letter")}${state.next ? "; more come as you scroll" : ""}`
      : topic.value || reason.value || shown.value !== "waiting" ? "No dead letter is so." : "No dead letters wait: every event was read and done, or taken care of.";
    const known = [...new Set(letters.map((letter) => letter.reason))].sort();
    become(reasons, known.map((each) => h("option", { value: each })));
  };
  const take = (said) => {
    state.isThere = true;
    for (const letter of said.dead_letters) state.letters.set(letter.id, letter);
    become(told, said.partial && note("bad", "A worker has not answered: there may be more."));
  };
  const more = async () => {
    if (!state.next || state.isLoading) return;
    const generation = state.generation;
    state.isLoading = true;
    try {
      const said = await ask(address(state.next));
      if (generation !== state.generation) return;
      take(said);
      state.next = said.next;
    } catch {
      // The next look at the first page tells.
    }
    state.isLoading = false;
    draw();
  };
  const poll = context.poll(() => address(), EVERY_MS, (said) => {
    const isFirst = state.letters.size === 0;
    // What stood on the first page and is gone has been taken care of, unless new ones have pushed it on.
    const last = said.next ? said.dead_letters.at(-1)?.id : null;
    for (const id of last ? state.first : [...state.letters.keys()]) if (!last || inOrder(id, last) <= 0) state.letters.delete(id);
    state.first = said.dead_letters.map((letter) => letter.id);
    take(said);
    if (!said.next) state.next = null;
    if (isFirst) state.next = said.next;
    place.classList.remove("is-stale");
    draw();
  }, (failure, forMs) => {
    place.classList.toggle("is-stale", state.isThere);
    become(told, failure.isAbsent ? note("absent", "This worker does not offer dead letters here: it runs an older version of streamflow. On its machine: streamflow dead-letters -A your.module list")
      : failure.body ? note("bad", failure.message) : note("stale", `No answer from this worker for ${format.ago(forMs)}. What is shown is as it was then.`));
  });
  let timer = 0;
  const again = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      router.choose({ topic: topic.value, reason: reason.value, state: shown.value === "waiting" ? "" : shown.value });
      state.generation += 1;
      state.letters.clear();
      state.first = [];
      state.isThere = false;
      state.next = null;
      state.isLoading = false;
      poll.round();
    }, SEARCH_MS);
  };
  topic.addEventListener("input", again);
  reason.addEventListener("input", again);
  shown.addEventListener("change", again);
  copies.addEventListener("click", () => copy(curl(address()), "as curl"));
}

/** By topic, partition and offset, as the workers list them. */
function inOrder(one, other) {
  const [a, b] = [one, other].map((id) => /^(.*):(\d+):(\d+)$/s.exec(id) ?? ["", id, "0", "0"]);
  if (a[1] !== b[1]) return a[1] < b[1] ? -1 : 1;
  return Number(a[2]) - Number(b[2]) || (BigInt(a[3]) < BigInt(b[3]) ? -1 : a[3] === b[3] ? 0 : 1);
}
