// Who listens live.

import { become, empty, h, note, table } from "../dom.js";
import * as format from "../format.js";
import { page } from "../router.js";

const EVERY_MS = 1000;

export default function subscriptions(root, context) {
  const { cluster } = context;
  context.title("Subscriptions");
  root.append(h("h1", {}, "Subscriptions"), h("p", { class: "lead" }, "Live connections to all workers, and what each listens to. This page is one of them."));
  context.follow(root, "/v1/subscriptions", EVERY_MS, (said, body) => {
    become(body,
      cluster.silent.length > 0 && note("bad", `${format.plural(cluster.silent.length, "worker does", "workers do")} not answer: its connections are not counted.`),
      h("p", { class: "facts" }, h("span", {}, format.plural(said.connections, "connection")), h("span", {}, format.plural(said.subscriptions.length, "subscription"))),
      said.subscriptions.length
        ? table("Subscriptions", [{ name: "To" }, { name: "Rows" }, { name: "Mode" }, { name: "Subscribers", number: true }, { name: "Worker" }],
          said.subscriptions.map((each) => [
            each.table ? h("a", { href: page("tables", each.table) }, each.table) : h("a", { href: page("topics", each.topic) }, each.topic),
            each.filter || "all", each.mode ?? "–", format.count(each.subscribers), format.host(each.worker),
          ]))
        : empty("Nobody listens. Any WebSocket client can:", '{"t": "subscribe", "id": "1", "table": "counts"}'));
  }, "who listens");
}
