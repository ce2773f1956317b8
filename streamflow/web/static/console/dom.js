// Elements, and how what is on the page becomes what it should be. All text goes in as text.

/** h("p", {class: "x", data: {id: 1}, onclick: f}, "text", node, null, [more]) */
export function h(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "data") Object.assign(made.dataset, value);
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "value") made.value = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  append(made, children);
  return made;
}

function append(root, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(root, child);
    else if (child !== null && child !== undefined && child !== false) root.append(child);
  }
}

/** The text node stays, so that what somebody has selected beside it stays selected. */
export function setText(node, text) {
  if (node.textContent === text) return;
  if (node.childNodes.length === 1 && node.firstChild.nodeType === Node.TEXT_NODE) node.firstChild.data = text;
  else node.textContent = text;
}

/**
 * Makes `root` look as if `wanted` were its children; what is the same stays, with focus and selections.
 * Listeners of `wanted` are lost where an old element stays: listen further up, and tell by `data-`.
 */
export function become(root, ...wanted) {
  const nodes = document.createDocumentFragment();
  append(nodes, wanted);
  match([...root.childNodes], [...nodes.childNodes], root);
}

function match(before, wanted, root) {
  for (const [index, node] of wanted.entries()) {
    if (index < before.length) morph(before[index], node);
    else root.append(node);
  }
  for (const node of before.slice(wanted.length)) node.remove();
}

function morph(old, made) {
  if (old.nodeName !== made.nodeName || old.dataset?.own !== made.dataset?.own) {
    old.replaceWith(made);
  } else if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== made.data) old.data = made.data;
  } else if (old.dataset?.own === undefined) {
    for (const { name } of [...old.attributes]) if (!made.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of made.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    match([...old.childNodes], [...made.childNodes], old);
  }
}

/** Has somebody selected text in there? */
export function holdsSelection(root) {
  const selection = getSelection();
  return !selection.isCollapsed && selection.rangeCount > 0 && selection.getRangeAt(0).intersectsNode(root);
}

/** A table of few rows: columns are [{name, number?, wide?}], rows are arrays of cells, the first names the row. */
export function table(caption, columns, rows) {
  const kind = (column) => [column.number && "number", column.wide && "wide"].filter(Boolean).join(" ") || null;
  return h("div", { class: "scroll-x", tabindex: "0", role: "group", "aria-label": caption },
    h("table", {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col", class: kind(column) }, column.name)))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, index) => (index === 0
        ? h("th", { scope: "row" }, cell)
        : h("td", { class: kind(columns[index]) }, cell))))))));
}

export function empty(text, code) {
  return h("div", { class: "empty" }, h("p", {}, text), code && h("pre", { class: "code", tabindex: "0" }, code));
}

/** What is said above data that may not be believed as it stands. */
export function note(kind, ...text) {
  return h("p", { class: "note", data: { kind } }, text);
}

export function badge(state, text = state) {
  return h("span", { class: "badge", data: { state } }, text);
}

/** Asks before something that cannot be undone; resolves to true or false. */
export function confirm(title, text, action) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "confirm-title" },
      h("form", { method: "dialog" },
        h("h2", { id: "confirm-title" }, title),
        h("p", {}, text),
        h("p", { class: "buttons" },
          h("button", { value: "no" }, "Cancel"),
          h("button", { value: "yes", class: "primary" }, action))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

const said = { timer: 0 };

/** A word at the lower edge, for a moment. */
export function toast(text) {
  const line = document.getElementById("toast");
  line.textContent = text;
  line.hidden = false;
  clearTimeout(said.timer);
  said.timer = setTimeout(() => { line.hidden = true; }, 4000);
}

/** To the clipboard; where the browser keeps that to itself, into a dialog to copy from. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`Copied ${what}`);
  } catch {
    const field = h("textarea", { readonly: true, rows: "5", "aria-label": what }, text);
    const dialog = h("dialog", { "aria-labelledby": "copy-title" },
      h("form", { method: "dialog" },
        h("h2", { id: "copy-title" }, `Copy ${what}`), field,
        h("p", { class: "buttons" }, h("button", { class: "primary" }, "Close"))));
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
    field.select();
  }
}
