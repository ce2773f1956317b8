// All tables.

import { become, h } from "../dom.js";
import { tablesOf } from "./overview.js";

const EVERY_MS = 2000;

export default function tables(root, context) {
  context.title("Tables");
  root.append(h("h1", {}, "Tables"), h("p", { class: "lead" }, "What agents and aggregates have made of their topics, as of the last checkpoint."));
  context.follow(root, "/v1/tables", EVERY_MS, (said, body) => become(body, tablesOf(said.tables)), "its tables");
}
