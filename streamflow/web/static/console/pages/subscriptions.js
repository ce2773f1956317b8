// Who listens live.

import { become, empty, h, note, table } from "../dom.js";
import * as format from "../format.js";
import { page } from "../router.js";

const EVERY_MS = 1000;

function rowsOf({ keys, by_prefix, by_test, window }) {
  if (by_test) return "those that a test picks";
  const which = keys !== null ? format.plural(keys, "key") : by_prefix ? "keys that begin so" : "all";
  return window === "all" ? which : `${which}, ${window === "current" ? "open" : "closed"} windows`;
}

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
            each.table === null
              ? [h("a", { href: page("topics", each.topic) }, each.topic), h("span", { class: "muted" }, " · topic")]
              : h("a", { href: page("tables", each.table) }, each.table),
            rowsOf(each), each.mode === "all" ? "every change" : "the latest", format.count(each.subscribers),
            [format.host(each.worker), each.of_worker && h("span", { class: "muted" }, " · for another worker")],
          ]))
        : empty("Nobody listens. Any WebSocket client can:", '{"t": "subscribe", "id": "1", "table": "counts"}'));
  }, "who listens");
}
