// Addresses and pages: /console/tables/counts/row?key=ann is the page "row" with {table: "counts"}.

const ROOT = "/console/";

export class Router {
  /** `routes`: [[pattern, page]], a pattern being "tables/:table/row". `open(page, parameters, query)` shows it. */
  constructor(routes, open) {
    this.routes = routes.map(([pattern, page]) => [pattern.split("/"), page]);
    this.open = open;
    addEventListener("popstate", () => this.show());
    document.addEventListener("click", (event) => this.click(event));
  }

  click(event) {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    if (link.origin !== location.origin || link.target || link.hasAttribute("download")) return;
    if (link.pathname !== "/" && !link.pathname.startsWith(ROOT)) return;
    if (link.hash && link.pathname === location.pathname) return;
    event.preventDefault();
    this.go(link.pathname + link.search);
  }

  go(address) {
    if (address !== location.pathname + location.search) history.pushState(null, "", address);
    this.show();
  }

  /** Another query of the same page: what is chosen on it. `isStep`: the back button takes it back. */
  choose(parameters, isStep = false) {
    const chosen = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(parameters)) {
      if (value === null || value === undefined || value === "") chosen.delete(name);
      else chosen.set(name, value);
    }
    const text = chosen.toString();
    const address = location.pathname + (text ? `?${text}` : "");
    if (address === location.pathname + location.search) return;
    if (isStep) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  }

  show() {
    const rest = location.pathname.startsWith(ROOT) ? location.pathname.slice(ROOT.length) : "";
    const parts = rest.split("/").filter(Boolean).map(decode);
    for (const [pattern, page] of this.routes) {
      const parameters = match(pattern, parts);
      if (parameters) return this.open(page, parameters, new URLSearchParams(location.search));
    }
    return this.open(null, {}, new URLSearchParams());
  }
}

function match(pattern, parts) {
  const wanted = pattern.filter(Boolean);
  if (wanted.length !== parts.length) return null;
  const parameters = {};
  for (const [index, word] of wanted.entries()) {
    if (word.startsWith(":")) parameters[word.slice(1)] = parts[index];
    else if (word !== parts[index]) return null;
  }
  return parameters;
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of a page: page("tables", name, "row") + query. */
export function page(...parts) {
  return ROOT + parts.map(encodeURIComponent).join("/");
}
