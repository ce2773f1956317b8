// Evaluates expressions that come as JSON lines {"id", "ask"}, and answers {"id", "value"} or {"id", "error"}.

import { createInterface } from "node:readline";

globalThis.lib = await import(process.argv[2]);

for await (const line of createInterface({ input: process.stdin })) {
  const { id, ask } = JSON.parse(line);
  answer(id, ask);
}
process.exit(0);

async function answer(id, ask) {
  let said;
  try {
    const value = await (0, eval)(ask);
    said = { id, value: value === undefined ? null : value };
  } catch (error) {
    said = { id, error: String(error?.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(said)}\n`);
}
