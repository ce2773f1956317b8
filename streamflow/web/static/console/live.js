// The WebSocket: one connection for the whole console, which comes back by itself and resumes where it was.

const PROTOCOL = "streamflow.v1+json";
const FIRST_WAIT_MS = 500;
const WAIT_MAX_MS = 8000;
const AGAIN_MS = 1000;
const TOKEN_REFUSED = 4401;

export class Live extends EventTarget {
  /** `token()` gives the token or null. Events: "state" {state, text}, "refused". */
  constructor(token) {
    super();
    this.token = token;
    this.watched = new Map(); // id -> {request, hear, cursor}
    this.count = 0;
    this.waitMs = FIRST_WAIT_MS;
    this.socket = null;
    this.timer = 0;
    this.isOpen = false;
    this.lostAt = Date.now();
  }

  /** Subscribes; `hear` gets each message of the subscription, and {t: "lost"} when the connection is. Returns what ends it. */
  watch(request, hear) {
    const id = `s${++this.count}`;
    this.watched.set(id, { request, hear, cursor: null });
    if (this.isOpen) this.subscribe(id);
    return () => {
      this.watched.delete(id);
      if (this.isOpen) this.say({ t: "unsubscribe", id });
    };
  }

  connect() {
    clearTimeout(this.timer);
    if (this.socket) this.socket.onclose = null;
    this.socket?.close();
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
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  subscribe(id) {
    const { request, cursor } = this.watched.get(id);
    const wanted = { t: "subscribe", id, ...request };
    this.say(cursor ? { ...wanted, since: cursor } : wanted);
  }

  hear(said) {
    if (said.t === "ack") {
      this.isOpen = true;
      this.waitMs = FIRST_WAIT_MS;
      this.tell("state", { state: "live", text: "Live" });
      for (const id of this.watched.keys()) this.subscribe(id);
      return;
    }
    if (said.t === "draining") {
      this.waitMs = said.reconnect_in_ms;
      return;
    }
    const watched = this.watched.get(said.id);
    if (!watched) return;
    if (said.t === "reset") watched.cursor = null;
    if (said.t === "error") this.refused(said, watched);
    if (said.cursor) watched.cursor = said.cursor;
    watched.hear(said);
  }

  /** A subscription that can't be had: what we had of it is void; asked for again where that may help. */
  refused(said, watched) {
    watched.cursor = null;
    if (!said.retry) return;
    const socket = this.socket;
    setTimeout(() => {
      if (this.isOpen && this.socket === socket && this.watched.has(said.id)) this.subscribe(said.id);
    }, AGAIN_MS);
  }

  lost(code) {
    if (this.isOpen) this.lostAt = Date.now();
    this.isOpen = false;
    for (const { hear } of this.watched.values()) hear({ t: "lost" });
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
