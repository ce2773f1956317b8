// Circuit breakers of all workers.

import { badge, become, empty, h, table } from "../dom.js";
import * as format from "../format.js";

const EVERY_MS = 1000;
const KINDS = { closed: "good", "half-open": "warn", half_open: "warn", open: "bad" };

export default function breakers(root, context) {
  context.title("Breakers");
  root.append(h("h1", {}, "Circuit breakers"), h("p", { class: "lead" }, "An open breaker keeps calls away from a service that fails; half-open, it tries one."));
  context.follow(root, "/v1/workers", EVERY_MS, ({ workers }, body) => {
    const silent = workers.filter((worker) => worker.state === "unreachable");
    const rows = workers.filter((worker) => worker.state !== "unreachable").flatMap((worker) => (worker.breakers ?? []).map((breaker) => ({ worker: worker.worker, ...breaker })));
    rows.sort((a, b) => (a.state === "closed") - (b.state === "closed") || (a.name < b.name ? -1 : 1));
    become(body,
      silent.map((worker) => h("p", { class: "note", data: { kind: "bad" } }, `Nothing is known of the breakers of ${format.host(worker.worker)}, which does not answer.`)),
      rows.length
        ? table("Circuit breakers", [{ name: "Breaker" }, { name: "State" }, { name: "Worker" }], rows.map(({ name, state, worker }) => [h("span", { class: "mono" }, name), badge(KINDS[state] ?? "warn", state), format.host(worker)]))
        : empty("This app has no circuit breakers. One around a call, for example:", 'billing = CircuitBreaker("billing", failures_max=5, open_s=30)\n\nasync with billing:\n    await charge(event)'));
  }, "its circuit breakers");
}
