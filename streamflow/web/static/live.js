// The WebSocket: one connection for all tables, which comes back by itself and resumes where it was.

const PROTOCOL = "streamflow.v1+json";
const FIRST_WAIT_MS = 500;
const WAIT_MAX_MS = 8000;
const AGAIN_MS = 1000;
const TOKEN_REFUSED = 4401;

export class Live extends EventTarget {
  /** `token()` gives the token or null. Events: "state" {state, text}, "refused", "message" {said}. */
  constructor(token) {
    super();
    this.token = token;
    this.tables = new Map(); // table -> newest cursor or null
    this.waitMs = FIRST_WAIT_MS;
    this.socket = null;
    this.timer = 0;
  }

  watch(table) {
    if (this.tables.has(table)) return;
    this.tables.set(table, null);
    if (this.isOpen) this.subscribe(table);
  }

  forget(table) {
    this.tables.delete(table);
    if (this.isOpen) this.say({ t: "unsubscribe", id: table });
  }

  connect() {
    clearTimeout(this.timer);
    this.isOpen = false;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/v1/ws`, PROTOCOL);
    this.socket = socket;
    socket.onopen = () => {
      const token = this.token();
      this.say(token ? { t: "init", token } : { t: "init" });
    };
    socket.onmessage = (event) => this.hear(JSON.parse(event.data));
    socket.onclose = (event) => this.lost(event.code);
  }

  say(message) {
    this.socket.send(JSON.stringify(message));
  }

  subscribe(table) {
    const wanted = { t: "subscribe", id: table, table, snapshot: false, mode: "latest", max_hz: 5 };
    const since = this.tables.get(table);
    this.say(since ? { ...wanted, since } : wanted);
  }

  hear(said) {
    if (said.t === "ack") {
      this.isOpen = true;
      this.waitMs = FIRST_WAIT_MS;
      this.tell("state", { state: "live", text: "Live" });
      for (const table of this.tables.keys()) this.subscribe(table);
      return;
    }
    if (said.t === "draining") {
      this.waitMs = said.reconnect_in_ms;
      return;
    }
    if (said.t === "reset" && this.tables.has(said.id)) this.tables.set(said.id, null);
    if (said.t === "error") this.refused(said);
    if (said.cursor && this.tables.has(said.id)) this.tables.set(said.id, said.cursor);
    this.tell("message", said);
  }

  /** A subscription that can't be had: what we had of the table is void; asked for again where that may help. */
  refused(said) {
    if (!this.tables.has(said.id)) return;
    this.tables.set(said.id, null);
    if (!said.retry) return;
    const socket = this.socket;
    setTimeout(() => {
      if (this.isOpen && this.socket === socket && this.tables.has(said.id)) this.subscribe(said.id);
    }, AGAIN_MS);
  }

  lost(code) {
    this.isOpen = false;
    if (code === TOKEN_REFUSED) {
      this.tell("state", { state: "down", text: "Token needed" });
      this.tell("refused", {});
      return;
    }
    const waitMs = this.waitMs * (0.75 + Math.random() / 2);
    this.waitMs = Math.min(this.waitMs * 2, WAIT_MAX_MS);
    this.tell("state", { state: "down", text: "Reconnecting…" });
    this.timer = setTimeout(() => this.connect(), waitMs);
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
