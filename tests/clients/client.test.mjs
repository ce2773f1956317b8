// Run by test_javascript.py with the address of a worker; by hand: STREAMFLOW_URL=… node --test tests/clients/

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

const module = new URL("../../streamflow/web/static/streamflow-client.js", import.meta.url);
const lib = await import(module);
const { Client, LiveTable, LiveTopic, StreamflowError, decode, encode, rowId } = lib;

test("whole numbers of any size stay whole, and texts stay texts", () => {
  const text = '{"a":12345678901234567890,"b":"12345678901234567890","c":-9007199254740993,"d":1.25e300,"e":[9007199254740991]}';
  const value = decode(text);
  assert.deepEqual(value, { a: 12345678901234567890n, b: "12345678901234567890", c: -9007199254740993n, d: 1.25e300, e: [9007199254740991] });
  assert.deepEqual(decode(encode(value)), value);
  assert.equal(encode({ key: 2n ** 70n }), `{"key":${2n ** 70n}}`);
  const tricky = { n: 2n ** 70n, s: 'a "quoted" 12345678901234567890, \\" and \u0000' };
  assert.deepEqual(decode(encode(tricky)), tricky);
});

test("a row is known by partition, key and window, whatever the order of a key's members", () => {
  const window = { start: "2026-01-01T00:00:00Z", end: "2026-01-01T00:01:00Z", state: "open" };
  const row = { key: { a: 1, b: [2] }, window, partition: 1 };
  assert.equal(rowId(row), rowId({ key: { b: [2], a: 1 }, window: { ...window, state: "closed" }, partition: 1 }));
  const others = [{ ...row, partition: 2 }, { ...row, key: "a" }, { ...row, window: null }];
  assert.equal(new Set([row, ...others].map(rowId)).size, 4);
});

test("what is exported is what the types say", async () => {
  const types = await readFile(new URL("streamflow-client.d.ts", module), "utf8");
  const declared = [...types.matchAll(/^export (?:class|function) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual(Object.keys(lib).sort(), declared.sort());
  for (const kind of [Client, LiveTable, LiveTopic]) {
    const body = types.split(`export class ${kind.name}`)[1].split("\n}")[0];
    const methods = [...body.matchAll(/^ {2}(\w+)(?:<[^(]*>)?\(/gm)].map(([, name]) => name).filter((name) => name !== "constructor");
    for (const name of methods) assert.equal(typeof kind.prototype[name], "function", `${kind.name}.${name}`);
  }
});

test("an address is needed, and one that nobody listens at is told of", async () => {
  assert.throws(() => new Client([]), StreamflowError);
  assert.throws(() => new Client("nonsense"));
  const client = new Client("http://127.0.0.1:9", { patienceMs: 0 });
  await assert.rejects(client.tables(), (error) => error.code === "unreachable" && error.retry);
  await assert.rejects(client.send("topic", { value: 1 }), (error) => error.isUnknown);
});

test("a worker's table, live and asked for", { skip: !process.env.STREAMFLOW_URL }, async () => {
  const client = new Client(process.env.STREAMFLOW_URL);
  try {
    const table = await client.live("users").ready();
    const listed = await client.rows("users").toArray();
    assert.ok(listed.length > 0);
    assert.deepEqual(new Map([...table]), new Map(listed.map((row) => [row.key, row.value])));
    for (const [key, value] of table) assert.equal((await client.get("users", key)).value, value);
    table.close();
    assert.equal(table.state, "closed");
  } finally {
    client.close();
  }
  assert.equal(client.state, "closed");
});
