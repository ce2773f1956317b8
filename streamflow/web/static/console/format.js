// Numbers, times and values as people read them. Pure. Whole numbers beyond 2^53 are BigInt.

import { encode } from "/static/streamflow-client.js";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1, notation: "compact" });
const cents = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const precise = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

const MARK = `big ${crypto.getRandomValues(new Uint32Array(4)).join(".")} `; // what nobody has written into a text

export function count(value) {
  return Math.abs(value) < 100_000 ? whole.format(value) : short.format(value);
}

export function number(value) {
  if (typeof value === "bigint") return value.toLocaleString("en");
  if (Number.isInteger(value)) return count(value);
  const size = Math.abs(value);
  return size >= 100_000 ? short.format(value) : size >= 1 ? cents.format(value) : precise.format(value);
}

export function milliseconds(seconds) {
  if (seconds === null || seconds === undefined) return null;
  const ms = seconds * 1000;
  if (ms >= 10_000) return { text: precise.format(seconds), unit: "s" };
  return { text: ms < 10 ? ms.toFixed(1) : whole.format(ms), unit: "ms" };
}

export function bytes(value) {
  if (value < 1024 * 1024) return `${whole.format(value / 1024)} KiB`;
  const mib = value / (1024 * 1024);
  return mib < 1024 ? `${whole.format(mib)} MiB` : `${(mib / 1024).toFixed(1)} GiB`;
}

export function time(iso) {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? iso : clock.format(at);
}

/** "" for today, else the date. */
export function date(iso) {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime()) || at.toDateString() === new Date().toDateString()) return "";
  return day.format(at);
}

export function duration(ms) {
  for (const [unit, size] of [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1000]]) {
    if (ms >= size && ms % size === 0) return `${ms / size} ${unit}`;
  }
  return `${ms} ms`;
}

export function key(value) {
  if (value === null) return "all";
  return typeof value === "string" ? value : encode(value);
}

function isNumber(item) {
  return typeof item === "number" || typeof item === "bigint";
}

/**
 * The number that a row's bar shows, its text, and what else there is to it:
 * {size: number | null, text: string, parts: [[name, text]]}.
 */
export function value(raw) {
  if (isNumber(raw)) return { size: Number(raw), text: number(raw), parts: [] };
  if (raw === null || typeof raw !== "object") return { size: null, text: String(raw), parts: [] };
  const entries = Object.entries(raw);
  const first = entries.find(([, item]) => isNumber(item));
  const parts = [];
  for (const [name, item] of entries) {
    if (first && name === first[0]) continue;
    if (item !== null && typeof item === "object" && !Array.isArray(item)) parts.push(...largest(item));
    else parts.push([name, isNumber(item) ? number(item) : plain(item)]);
  }
  if (first) return { size: Number(first[1]), text: number(first[1]), parts: parts.slice(0, 6) };
  return { size: null, text: parts.length ? "" : plain(raw), parts: parts.slice(0, 6) };
}

function largest(map) {
  const pairs = Object.entries(map);
  pairs.sort((a, b) => (Number(b[1]) || 0) - (Number(a[1]) || 0) || (a[0] < b[0] ? -1 : 1));
  return pairs.slice(0, 5).map(([name, item]) => [name, isNumber(item) ? number(item) : plain(item)]);
}

function plain(item) {
  const text = typeof item === "string" ? item : encode(item);
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
}

/** The key as the API's addresses spell it. */
export function keyText(value) {
  return typeof value === "string" ? value : encode(value);
}

export function at(iso) {
  if (!iso) return "–";
  const on = date(iso);
  return on ? `${on} ${time(iso)}` : time(iso);
}

/** How long ago in words: "just now", "14 s", "3 min", "2 h", "5 d". */
export function ago(ms) {
  if (ms < 1500) return "just now";
  for (const [unit, size] of [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000]]) {
    if (ms >= 2 * size) return `${Math.floor(ms / size)} ${unit}`;
  }
  return `${Math.round(ms / 1000)} s`;
}

export function host(url) {
  return url ? url.replace(/^https?:\/\//, "").replace(/\/$/, "") : "–";
}

/** A big whole number that came as text, with separators. */
export function offset(text) {
  if (text === null || text === undefined) return "–";
  // Those of Redis are times and numbers in one: separators help nobody there.
  return /^\d{1,15}$/.test(text) ? BigInt(text).toLocaleString("en") : String(text);
}

export function list(numbers) {
  return [...numbers].sort((a, b) => a - b).join(", ");
}

export function plural(many, one, more = `${one}s`) {
  return `${count(many)} ${many === 1 ? one : more}`;
}

/** Any JSON on one line, cut to what a cell may hold. */
export function brief(item, most = 200) {
  const text = typeof item === "string" ? item : encode(item);
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

export function pretty(item) {
  if (typeof item === "string") return item;
  const marked = JSON.stringify(item, (_, each) => (typeof each === "bigint" ? `${MARK}${each}` : each), 2);
  return marked.replaceAll(new RegExp(`"${MARK}(-?\\d+)"`, "g"), "$1");
}
