// One dead letter: all of it, and what can be done with it.

import { decode } from "/static/streamflow-client.js";
import { ask, curl, path, query as queryText } from "../api.js";
import { badge, become, confirm, copy, h, note, toast } from "../dom.js";
import * as format from "../format.js";
import { page } from "../router.js";

export default function deadLetter(root, context) {
  const { parameters: { id }, router } = context;
  context.title("Dead letter");
  const address = path("/v1/dead-letters", id);
  const told = h("div", { class: "told", id: "told" });
  const body = h("div", {}, h("p", { class: "loading" }, "Loading…"));
  root.append(h("p", { class: "crumbs" }, h("a", { href: page("dead-letters") }, "Dead letters")), h("h1", { class: "mono" }, id), told, body);
  let isOver = false;
  context.onClose(() => { isOver = true; });

  const refuse = (failure) => become(told, note("bad", failure.isAbsent
    ? "This worker does not offer that: it runs an older version of streamflow."
    : failure.body ? `${failure.body.title}: ${failure.message}` : "No answer in time. Look whether it was done before you try again."));

  const draw = (letter) => {
    const isText = typeof letter.value === "string";
    const before = format.pretty(letter.value ?? null);
    const value = h("textarea", { id: "value", rows: String(Math.min(24, before.split("\n").length + 1)), spellcheck: "false" });
    value.value = before;
    const agent = h("input", { id: "agent", value: letter.agent ?? "", placeholder: "all that read the topic", autocomplete: "off", spellcheck: "false" });
    const replay = h("button", { type: "button", class: "primary", id: "replay" }, "Replay");
    const drop = h("button", { type: "button", class: "danger", id: "drop" }, "Drop");
    const copies = h("button", { type: "button", "data-key": "c" }, "Copy as curl");
    const pair = (name, ...what) => h("div", {}, h("dt", {}, name), h("dd", {}, what));
    const { source } = letter;
    body.replaceChildren();
    become(body,
      h("dl", { class: "pairs" },
        pair("Reason", letter.reason), pair("Error", letter.error ?? "–"), letter.field && pair("Field", h("span", { class: "mono" }, letter.field)),
        pair("Agent", letter.agent ?? letter.consumer ?? "none: it could not be read"),
        letter.attempts > 0 && pair("Attempts", format.count(letter.attempts)),
        pair("Set aside", format.at(letter.time), letter.worker && ` by ${format.host(letter.worker)}`),
        letter.state && pair("State", badge(letter.state === "waiting" ? "warn" : "good", letter.state), letter.handled && ` ${format.at(letter.handled)}`),
        pair("From", h("a", { href: page("topics", source.topic) + queryText({ partition: source.partition, offset: source.offset }) }, `${source.topic} ${source.partition}:${source.offset}`)),
        pair("Key", h("span", { class: "mono" }, letter.key === null ? "none" : format.brief(letter.key, 2000)))),
      (letter.headers ?? []).length > 0 && h("details", {}, h("summary", {}, format.plural(letter.headers.length, "header")),
        h("dl", { class: "pairs" }, letter.headers.map(([name, text]) => pair(name, h("span", { class: "mono" }, text))))),
      letter.cut && note("bad", `It did not fit as a whole: ${letter.cut}. Replayed, it goes as it stands here.`),
      letter.traceback && h("details", {}, h("summary", {}, "Traceback"), h("pre", { class: "code", tabindex: "0", "aria-label": "Traceback" }, letter.traceback)),
      letter.replay && h("details", {}, h("summary", {}, "Replay by command"), h("pre", { class: "code", tabindex: "0", "aria-label": "Command" }, letter.replay)),
      h("div", { class: "field block" }, h("label", { for: "value" }, "Value; what is changed here is replayed changed"), value),
      h("div", { class: "toolbar" },
        h("div", { class: "field" }, h("label", { for: "agent" }, "For the agent"), h("div", { class: "inputs" }, agent)),
        h("div", { class: "field last" }, h("div", { class: "inputs" }, replay, drop, copies))));
    copies.addEventListener("click", () => copy(curl(address), "as curl"));
    replay.addEventListener("click", async () => {
      const asked = {};
      if (value.value !== before) {
        try {
          asked.value = isText ? value.value : decode(value.value);
        } catch (wrong) {
          become(told, note("bad", `The value is no JSON: ${wrong.message}`));
          value.focus();
          return;
        }
      }
      if (agent.value) asked.agent = agent.value;
      replay.disabled = true;
      try {
        await ask(`${address}/replay`, { method: "POST", body: asked }).catch(async (failure) => {
          if (failure.code !== "already-handled") throw failure;
          if (!await confirm("Replay it again?", `It was ${failure.body.state} before. What is replayed twice comes twice.`, "Replay again")) throw failure;
          return ask(`${address}/replay`, { method: "POST", body: { ...asked, again: true } });
        });
        become(told, note("good", "Replayed: it has been sent again."));
        toast("Replayed");
        load(false);
      } catch (failure) {
        refuse(failure);
      }
      replay.disabled = false;
    });
    drop.addEventListener("click", async () => {
      if (!await confirm("Drop this dead letter?", "It is taken out of those that wait, and stays in the topic until that is trimmed.", "Drop")) return;
      try {
        await ask(address, { method: "DELETE" });
        toast("Dropped");
        router.go(page("dead-letters"));
      } catch (failure) {
        refuse(failure);
      }
    });
  };

  const load = (clears) => ask(address).then((letter) => {
    if (isOver) return;
    if (clears) become(told);
    draw(letter);
  }, (failure) => {
    if (isOver) return;
    become(body);
    refuse(failure);
  });
  load(true);
}
