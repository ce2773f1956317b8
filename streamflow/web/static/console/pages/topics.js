// All topics: how far each is read, and by whom.

import { badge, become, empty, h, table } from "../dom.js";
import * as format from "../format.js";
import { page } from "../router.js";

const EVERY_MS = 2000;

export default function topics(root, context) {
  const { cluster } = context;
  context.title("Topics");
  const isShown = { internal: false };
  const box = h("input", { type: "checkbox", id: "internal" });
  root.append(h("h1", {}, "Topics"), h("p", { class: "lead" }, "What the app reads and keeps its tables in."),
    h("p", { class: "toolbar" }, h("label", { class: "check", for: "internal" }, box, " show the app's own topics, too")));
  let last = null;
  const section = h("section", {});
  root.append(section);
  let body = null;
  const draw = () => {
    if (!last) return;
    const wanted = last.topics.filter((topic) => isShown.internal || !topic.internal);
    if (!wanted.length) return become(body, empty("This app reads no topics yet. An agent's topic appears here:", '@app.agent(app.topic("events"))'));
    become(body, table("Topics",
      [{ name: "Topic" }, { name: "Partitions", number: true }, { name: "Lag", number: true }, { name: "Owners" }, { name: "Read by", wide: true }],
      wanted.map((topic) => [
        h("a", { href: page("topics", topic.topic) }, topic.topic),
        format.count(topic.partitions.length),
        lagOf(topic.partitions, cluster),
        ownersOf(topic, cluster),
        [...(topic.agents ?? []), ...(topic.tables ?? [])].join(", ") || "nobody",
      ])));
  };
  box.addEventListener("change", () => {
    isShown.internal = box.checked;
    draw();
  });
  context.onCluster(() => body && draw());
  context.follow(section, "/v1/topics", EVERY_MS, (said, made) => {
    last = said;
    body = made;
    draw();
  }, "its topics");
}

/** The sum; what a partition's owner does not tell is not counted, and is said. */
export function lagOf(partitions, cluster) {
  const told = partitions.filter(({ lag, owner }) => typeof lag === "number" && (!owner || isAlive(cluster, owner)));
  const sum = told.reduce((total, { lag }) => total + lag, 0);
  if (told.length === partitions.length) return format.count(sum);
  return told.length ? `${format.count(sum)} in ${told.length} of ${partitions.length}` : "–";
}

export function isAlive(cluster, url) {
  const state = cluster.stateOf(url);
  return state !== "unreachable" && !(state === "unknown" && cluster.workers === null);
}

function ownersOf(topic, cluster) {
  if (topic.internal) return h("span", { class: "muted" }, "of the app");
  const owners = new Set(topic.partitions.map(({ owner }) => owner));
  const alone = topic.partitions.filter(({ owner }) => !owner).length;
  const dead = [...owners].filter((owner) => owner && !isAlive(cluster, owner));
  if (dead.length) return badge("bad", `${format.plural(dead.length, "owner")} silent`);
  if (alone === topic.partitions.length) return h("span", { class: "muted" }, "nobody");
  if (alone) return badge("warn", `${alone} without owner`);
  return [...owners].map(format.host).join(", ");
}
