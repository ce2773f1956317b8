// All agents: what they do, how long they take, and what they are at work on.

import { badge, become, empty, h, note, table } from "../dom.js";
import * as format from "../format.js";
import { page } from "../router.js";
import { query as queryText } from "../api.js";

const EVERY_MS = 1000;

export default function agents(root, context) {
  const { cluster } = context;
  context.title("Agents");
  root.append(h("h1", {}, "Agents"), h("p", { class: "lead" }, "Of all workers together, since each began."));
  let last = null;
  let body = null;
  const draw = () => last && become(body, content(last.agents, cluster));
  context.onCluster(draw);
  context.follow(root, "/v1/agents", EVERY_MS, (said, made) => {
    last = said;
    body = made;
    draw();
  }, "its agents");
}

const latency = (ms) => {
  const said = format.milliseconds(ms === null || ms === undefined ? null : ms / 1000);
  return said ? `${said.text} ${said.unit}` : "–";
};

function content(list, cluster) {
  if (!list.length) return empty("This app has no agents. One that counts, for example:", "@app.agent(events)\nasync def count_events(stream):\n    async for key, event in stream.items():\n        counts[key] += 1");
  const silent = cluster.silent.length;
  return [
    silent > 0 && note("bad", `${format.plural(silent, "worker does", "workers do")} not answer: what it has done and is at work on is not counted here.`),
    table("Agents", [{ name: "Agent" }, { name: "State" }, { name: "Events/s", number: true }, { name: "p50", number: true }, { name: "p99", number: true }, { name: "Done", number: true }, { name: "Failed", number: true }, { name: "Retries", number: true }, { name: "Dropped", number: true }, { name: "Waiting", number: true }, { name: "In hand", number: true }],
      list.map((agent) => [
        h("span", { class: "mono" }, agent.agent),
        agent.blocked ? badge("bad", "blocked") : badge("good", "works"),
        agent.rate_per_s === null ? "–" : format.number(Math.round(agent.rate_per_s * 10) / 10),
        latency(agent.latency_ms?.p50), latency(agent.latency_ms?.p99),
        format.count(agent.processed), format.count(agent.failed), format.count(agent.retries), format.count(agent.dropped),
        format.count(agent.waiting), format.count(agent.in_hand.length),
      ])),
    h("h2", { class: "heading" }, "In hand"), inHand(list),
  ];
}

function inHand(list) {
  const held = list.flatMap((agent) => agent.in_hand.map((event) => ({ agent, ...event }))).sort((a, b) => b.seconds - a.seconds);
  if (!held.length) return h("p", { class: "muted" }, "No agent has been at work on an event for long.");
  return table("Events in hand", [{ name: "Agent" }, { name: "Topic" }, { name: "Partition", number: true }, { name: "Offset", number: true }, { name: "For", number: true }],
    held.map(({ agent, topic, partition, offset, seconds }) => [
      h("span", { class: "mono" }, agent.agent), topic, String(partition),
      h("a", { href: page("topics", topic) + queryText({ partition, offset }) }, format.offset(offset)),
      latency(seconds * 1000),
    ]));
}
