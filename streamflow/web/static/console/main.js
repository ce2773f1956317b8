// The console: one document, whose address says which page is shown. Here are its frame and what all pages share.

import { Poll, Problem, client, token } from "./api.js";
import { redraw } from "./chart.js";
import { Cluster } from "./cluster.js";
import { become, h, note, setText } from "./dom.js";
import * as format from "./format.js";
import { Router, page } from "./router.js";
import agents from "./pages/agents.js";
import breakers from "./pages/breakers.js";
import deadLetter from "./pages/dead_letter.js";
import deadLetters from "./pages/dead_letters.js";
import late from "./pages/late.js";
import overview from "./pages/overview.js";
import row from "./pages/row.js";
import subscriptions from "./pages/subscriptions.js";
import table from "./pages/table.js";
import tables from "./pages/tables.js";
import topic from "./pages/topic.js";
import topics from "./pages/topics.js";
import windows from "./pages/windows.js";
import workers from "./pages/workers.js";

const byId = (id) => document.getElementById(id);
const SECTIONS = [
  // name, address, letter that follows "g"
  ["Overview", "/", "o"],
  ["Topics", page("topics"), "p"],
  ["Agents", page("agents"), "a"],
  ["Tables", page("tables"), "t"],
  ["Windows", page("windows"), "w"],
  ["Dead letters", page("dead-letters"), "d"],
  ["Workers", page("workers"), "k"],
  ["Subscriptions", page("subscriptions"), "s"],
  ["Breakers", page("breakers"), "b"],
];
const ROUTES = [
  ["", overview],
  ["topics", topics],
  ["topics/:topic", topic],
  ["agents", agents],
  ["tables", tables],
  ["tables/:table", table],
  ["tables/:table/row", row],
  ["windows", windows],
  ["windows/:table", late],
  ["dead-letters", deadLetters],
  ["dead-letters/:id", deadLetter],
  ["workers", workers],
  ["subscriptions", subscriptions],
  ["breakers", breakers],
];

const cluster = new Cluster();
let closing = []; // what ends with the page that is shown
let shown = null;

// -- pages ---------------------------------------------------------------------------------------

/** What a page is given besides its parameters. All that it begins ends with it. */
function context(parameters, query) {
  const mine = closing;
  return {
    parameters,
    query,
    cluster,
    router,
    onClose: (end) => mine.push(end),
    title(text) {
      document.title = `${text} · ${cluster.app || "streamflow"}`;
      shown.title = text;
    },
    onCluster(draw) {
      cluster.addEventListener("change", draw);
      mine.push(() => cluster.removeEventListener("change", draw));
    },
    poll(address, everyMs, told, failed) {
      const poll = new Poll(address, everyMs, told, failed);
      mine.push(() => poll.stop());
      return poll;
    },
    /** Asks again and again, and draws into `root`; says so where it is old, or not to be had here. */
    follow(root, address, everyMs, draw, what) {
      const told = h("div", { class: "told" });
      const body = h("div", { class: "body" }, h("p", { class: "loading" }, "Loading…"));
      root.append(told, body);
      let isThere = false;
      return this.poll(address, everyMs, (said) => {
        isThere = true;
        body.classList.remove("is-stale");
        become(told);
        draw(said, body);
      }, (failure, forMs) => {
        body.classList.toggle("is-stale", isThere);
        if (!isThere) become(body);
        become(told, trouble(failure, forMs, what, isThere));
      });
    },
  };
}

function trouble(failure, forMs, what, isThere) {
  if (failure.isAbsent) {
    return note("absent", `This worker does not offer ${what}: it runs an older version of streamflow. Update it, or open the console of a newer worker.`);
  }
  if (failure instanceof Problem) return note("bad", failure.status === 401 ? "A token is needed." : `${failure.body.title ?? "Refused"}: ${failure.message}`);
  return note("stale", isThere
    ? `No answer from this worker for ${format.ago(forMs)}. What is shown is as it was then.`
    : "This worker does not answer. The page goes on by itself when it does.");
}

function open(made, parameters, query) {
  for (const end of closing.splice(0)) end();
  closing = [];
  const root = byId("page");
  root.replaceChildren();
  shown = { title: "", page: made };
  scrollTo(0, 0);
  if (made) made(root, context(parameters, query));
  else {
    document.title = "Nothing here";
    root.append(h("h1", {}, "Nothing here"), h("p", { class: "lead" }, "There is no such page. ", h("a", { href: "/" }, "To the overview")));
  }
  drawNav();
  if (isStarted) byId("main").focus({ preventScroll: true });
}

const router = new Router(ROUTES, open);

function drawNav() {
  const here = location.pathname;
  become(byId("nav"), SECTIONS.map(([name, address]) => {
    const isHere = address === "/" ? here === "/" || here === "/console/" : here === address || here.startsWith(`${address}/`);
    const silent = name === "Workers" ? cluster.silent.length : 0;
    return h("li", {}, h("a", { href: address, "aria-current": isHere && "page" }, name,
      silent > 0 && h("span", { class: "count" }, `${silent} silent`)));
  }));
}

// -- the frame -----------------------------------------------------------------------------------

function drawFrame() {
  if (cluster.app) setText(byId("app"), cluster.app);
  if (shown?.title) document.title = `${shown.title} · ${cluster.app || "streamflow"}`;
  document.body.classList.toggle("is-cut-off", cluster.workers === null);
  drawNav();
  const alarm = [];
  if (cluster.workers === null && cluster.lostSince !== null) {
    alarm.push(note("bad", `This worker does not answer since ${format.time(new Date(cluster.lostSince).toISOString())}. What is shown is as it was then.`));
  }
  for (const worker of cluster.silent) {
    const owned = Object.entries(worker.partitions).map(([topic, numbers]) => `${topic} ${format.list(numbers)}`);
    alarm.push(note("bad", `${format.host(worker.url)} does not answer. `,
      owned.length ? `Nothing is known of its partitions (${owned.join("; ")}) until another worker has them.` : "It owned no partitions."));
  }
  become(byId("alarm"), alarm);
}

cluster.addEventListener("change", drawFrame);

const STATES = {
  connecting: ["connecting", "Connecting…"],
  live: ["live", "Live"],
  stale: ["down", "Reconnecting…"],
  closed: ["down", "Not connected"],
};
client.addEventListener("state", ({ detail: { state, reason } }) => {
  const [dot, text] = STATES[state];
  byId("state").dataset.state = dot;
  setText(byId("state-text"), reason?.code === "unauthorized" ? "Token needed" : text);
});

function askToken() {
  if (!byId("token-dialog").open) byId("token-dialog").showModal();
}

client.addEventListener("unauthorized", askToken);
byId("token-form").addEventListener("submit", () => {
  token.set(byId("token").value);
  byId("token").value = "";
  client.connect();
  cluster.poll.round();
  router.show();
});

const THEMES = ["auto", "light", "dark"];
function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  setText(byId("theme"), `Theme: ${theme}`);
  redraw();
}
byId("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(localStorage.getItem("theme") ?? "auto") + 1) % THEMES.length];
  localStorage.setItem("theme", next);
  showTheme(next);
});

// -- keyboard ------------------------------------------------------------------------------------

const KEYS = [
  ...SECTIONS.map(([name, , letter]) => [`g ${letter}`, name]),
  ["/", "Search on this page"],
  ["↑ ↓ PgUp PgDn", "Move in a list (also j and k)"],
  ["Enter", "Open what is chosen"],
  ["p", "Pause live rows, and go on"],
  ["c", "Copy as curl"],
  ["Esc", "One page up"],
  ["?", "This help"],
];
become(byId("help-keys"), KEYS.map(([keys, text]) => h("div", {}, h("dt", {}, keys.split(" ").map((key) => [h("kbd", {}, key), " "])), h("dd", {}, text))));
byId("help").addEventListener("click", () => byId("help-dialog").showModal());

let wentAt = -Infinity;
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const isTyping = event.target.closest?.("input, textarea, select, dialog");
  if (event.key === "Escape" && event.target.closest?.("input, select")) event.target.blur();
  if (isTyping) return;
  const goes = performance.now() - wentAt < 1500;
  wentAt = event.key === "g" ? performance.now() : -Infinity;
  const section = goes && SECTIONS.find(([, , letter]) => letter === event.key);
  const press = (selector) => {
    const found = document.querySelector(`#page ${selector}`);
    if (!found) return;
    event.preventDefault();
    if (found.matches("button")) found.click();
    else found.focus();
  };
  if (section) router.go(section[1]);
  else if (event.key === "?") byId("help-dialog").showModal();
  else if (event.key === "/") press("[data-key='/']");
  else if (event.key === "p") press("[data-key='p']");
  else if (event.key === "c") press("[data-key='c']");
  else if (event.key === "Escape") {
    const up = document.querySelector("#page .crumbs a:last-of-type");
    if (up) router.go(up.getAttribute("href"));
  }
});

let isStarted = false;
showTheme(localStorage.getItem("theme") ?? "auto");
client.connect();
cluster.start();
router.show();
isStarted = true;
