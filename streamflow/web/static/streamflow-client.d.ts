// Types of streamflow-client.js.

/** Whole numbers beyond 2^53 are bigint. */
export type Json = null | boolean | number | bigint | string | Json[] | { [name: string]: Json };

/** Partition to the next offset to be taken; decimal strings, since offsets may pass 2^53. */
export type Position = Record<string, string>;

export type WindowState = "open" | "closed" | "revised";

export interface Window {
  /** RFC 3339 */
  start: string;
  end: string;
  state: WindowState;
}

export interface Row<V = Json, K = Json> {
  key: K;
  /** null in tables without windows */
  window: Window | null;
  value: V;
  partition: number;
}

export type Change<V = Json, K = Json> =
  | (Row<V, K> & { op: "upsert" })
  | (Row<V | null, K> & { op: "delete" | "expire" });

export interface Page<V = Json, K = Json> {
  rows: Row<V, K>[];
  next: string | null;
  partial: boolean;
  missing_partitions: number[];
  position: Position;
  lag: Record<string, number | null>;
}

export interface KeyRow<V = Json, K = Json> extends Row<V, K> {
  partial: boolean;
  missing_partitions: number[];
  position: Position;
  lag: Record<string, number | null>;
}

export interface TableInfo {
  name: string;
  kind: "agent" | "aggregate";
  keyed: boolean;
  window: { kind: string; size_ms: number; grace_ms: number; retain_ms: number; step_ms?: number; gap_ms?: number } | null;
  source_topic: string;
  partitions: number;
  rows: number;
  watermark: string | null;
  [member: string]: unknown;
}

export interface Place {
  partition: number;
  offset: string;
}

export interface Reason {
  code: string;
  message: string;
}

/** "stale": what is shown was right `ageMs` ago, for the `reason`; it comes back by itself. "closed": it does not. */
export type State = "connecting" | "live" | "stale" | "closed";

export class StreamflowError extends Error {
  constructor(code: string, message: string, more?: { status?: number | null; retry?: boolean; isUnknown?: boolean; details?: object; cause?: unknown });
  /** The problem's or the message's code; our own: "unreachable", "partial", "outcome-unknown", "not-supported", "closed". */
  readonly code: string;
  readonly status: number | null;
  /** Whether the same may be had later. */
  readonly retry: boolean;
  /** What was sent may be there, or not. */
  readonly isUnknown: boolean;
  readonly details: Record<string, any>;
}

export interface AskOptions {
  signal?: AbortSignal;
  /** How long it is asked again when workers don't answer, or can't now; 0: once. */
  patienceMs?: number;
  /** How long one answer may take. */
  answerMs?: number;
}

export type Time = string | number | Date;

export interface ListOptions extends AskOptions {
  prefix?: string;
  start?: Time;
  end?: Time;
  state?: "open" | "closed" | "all";
  sort?: string;
  /** Rows of a page. */
  limit?: number;
  cursor?: string;
  minPosition?: Position;
  /** Takes pages of which partitions are missing; otherwise they are asked for again, and then it throws. */
  partial?: boolean;
  /** Whatever else the worker takes; an array is a parameter that is given several times. */
  [parameter: string]: unknown;
}

export interface Rows<V = Json, K = Json> extends AsyncIterable<Row<V, K>> {
  pages(): AsyncIterable<Page<V, K>>;
  toArray(): Promise<Row<V, K>[]>;
}

export interface LiveOptions {
  key?: Json;
  keys?: Json[];
  prefix?: string;
  window?: "current" | "closed" | "all";
  /** false: no rows are kept; only changes are told. */
  snapshot?: boolean;
  /** "all": every change, in order; "latest" (the default): the newest of each row where this side is slow. */
  mode?: "all" | "latest";
  /** At most so many messages a second. */
  maxHz?: number;
}

declare class Teller<E> extends EventTarget {
  addEventListener<N extends keyof E & string>(name: N, listener: (event: CustomEvent<E[N]>) => void, options?: boolean | AddEventListenerOptions): void;
  addEventListener(name: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
}

interface StateDetail {
  state: State;
  reason: Reason | null;
}

declare class Subscription<E> extends Teller<E & { state: StateDetail }> {
  readonly id: string;
  readonly state: State;
  readonly reason: Reason | null;
  readonly position: Position | null;
  /** Where to resume from. */
  readonly cursor: string | null;
  /** How long ago it was known to be current; null if it never was. */
  readonly ageMs: number | null;
  /** Resolves when it is live; rejects when it can't be. */
  ready(): Promise<this>;
  close(): void;
}

interface TableEvents<V, K> {
  change: { changes: Change<V, K>[]; isSnapshot: boolean; position: Position };
  reset: { reason?: string; partitions: number[] | null };
  progress: { position: Position; watermark: string | null };
  /** From here on every change is told, until the next "reset". */
  synced: { position: Position };
}

/** A Map from key to value, of the key's newest window where there are windows. */
export class LiveTable<V = Json, K = Json> extends Subscription<TableEvents<V, K>> implements Iterable<[K, V]> {
  private constructor();
  readonly table: string;
  /** Partitions whose rows are old, since nobody has them now. */
  readonly missing: number[];
  readonly watermark: string | null;
  /** Keys. */
  readonly size: number;
  readonly rowCount: number;
  has(key: K): boolean;
  get(key: K, start?: Time): V | undefined;
  keys(): IterableIterator<K>;
  values(): IterableIterator<V>;
  entries(): IterableIterator<[K, V]>;
  [Symbol.iterator](): IterableIterator<[K, V]>;
  forEach(visit: (value: V, key: K, table: this) => void, self?: unknown): void;
  /** Of the newest window, or of the one that starts at `start`. */
  row(key: K, start?: Time): Row<V, K> | undefined;
  /** Oldest window first. */
  windows(key: K): Row<V, K>[];
  rows(): IterableIterator<Row<V, K>>;
}

export interface TopicRecord<V = Json, K = Json> {
  key: K | null;
  value: V | null;
  timestamp: string;
  partition: number;
  offset: string;
  headers: [string, string | null][];
}

interface TopicEvents<V, K> {
  events: { records: TopicRecord<V, K>[]; cursor: string };
  reset: { reason?: string; partitions: number[] | null };
}

export class LiveTopic<V = Json, K = Json> extends Subscription<TopicEvents<V, K>> {
  private constructor();
  readonly topic: string;
}

export interface NewEvent {
  key?: Json;
  value: Json;
  headers?: Record<string, string>;
  timestamp?: string;
  partition?: number;
}

export type Token = string | null | undefined;

export interface ClientOptions {
  /** The token, or what gives one each time when it is needed. */
  token?: Token | (() => Token | Promise<Token>);
  /** How long a question is asked again when workers don't answer, or can't now (15,000). */
  patienceMs?: number;
  WebSocket?: typeof globalThis.WebSocket;
  fetch?: typeof globalThis.fetch;
}

interface ClientEvents {
  state: StateDetail;
  unauthorized: Record<string, never>;
  error: StreamflowError;
}

export class Client extends Teller<ClientEvents> {
  /** `urls`: workers of one app; without, the one that the page is from. */
  constructor(urls?: string | string[], options?: ClientOptions);
  patienceMs: number;
  /** Of the connection for what is live. */
  readonly state: State;
  readonly reason: Reason | null;
  readonly ageMs: number | null;
  readonly features: ReadonlySet<string>;
  connect(): void;
  close(): void;
  live<V = Json, K = Json>(table: string, options?: LiveOptions): LiveTable<V, K>;
  topic<V = Json, K = Json>(topic: string, options?: { where?: string; since?: string }): LiveTopic<V, K>;
  publish(topic: string, event: { key?: Json; value?: Json; headers?: Record<string, string> }): Promise<Place>;
  send(topic: string, events: NewEvent | NewEvent[], options?: AskOptions & { idempotencyKey?: string }): Promise<Place[]>;
  tables(options?: AskOptions): Promise<TableInfo[]>;
  table(table: string, options?: AskOptions): Promise<TableInfo>;
  get<V = Json, K = Json>(table: string, key: K, options?: AskOptions & { at?: Time; minPosition?: Position }): Promise<KeyRow<V, K> | null>;
  rows<V = Json, K = Json>(table: string, options?: ListOptions): Rows<V, K>;
  windows<V = Json, K = Json>(table: string, key: K, options?: ListOptions): Rows<V, K>;
  json(
    path: string,
    options?: AskOptions & {
      query?: Record<string, unknown>;
      method?: string;
      body?: unknown;
      headers?: Record<string, string>;
    },
  ): Promise<any>;
}

/** What makes two rows the same one: partition, key and window. */
export function rowId(row: Pick<Row, "key" | "window" | "partition">): string;
/** JSON with bigint for whole numbers beyond 2^53, and back. */
export function decode(text: string): Json;
export function encode(value: unknown): string;
