// Tables with windows: how far their time has come, and what came too late.

import { become, empty, h, table } from "../dom.js";
import * as format from "../format.js";
import { page } from "../router.js";
import { windowText } from "./overview.js";

const EVERY_MS = 2000;

export default function windows(root, context) {
  context.title("Windows");
  root.append(h("h1", {}, "Windows"), h("p", { class: "lead" }, "A window closes when the event time of all its partitions has passed its end and the grace. What comes later is kept aside and can be applied."));
  context.follow(root, "/v1/tables", EVERY_MS, ({ tables }, body) => {
    const windowed = tables.filter((each) => each.window);
    if (!windowed.length) return become(body, empty("No table of this app has windows. Ten seconds each, for example:", 'counts = app.Table("counts", default=int).tumbling(10)'));
    return become(body, table("Windows", [{ name: "Table" }, { name: "Windows" }, { name: "Event time" }, { name: "Behind now", number: true }, { name: "Grace", number: true }, { name: "Kept for", number: true, wide: true }, { name: "Late", number: true }, { name: "Kept aside" }],
      windowed.map((each) => [
        h("a", { href: page("tables", each.name) }, each.name),
        windowText(each.window),
        each.partial ? h("span", { class: "badge", data: { state: "bad" } }, `${format.list(each.missing_partitions)} missing`) : format.at(each.watermark),
        each.watermark && !each.partial ? format.ago(Math.max(0, Date.now() - Date.parse(each.watermark))) : "–",
        format.duration(each.window.grace_ms),
        each.window.retain_ms ? format.duration(each.window.retain_ms) : "–",
        format.count(each.counters.late ?? 0),
        each.kind === "aggregate" ? h("a", { href: page("windows", each.name), "aria-label": `Late events of ${each.name}` }, "late events") : h("span", { class: "muted" }, "counted only"),
      ])));
  }, "its tables");
}
