// Messages as lines of JSON on stdin and stdout.

import { createInterface } from 'node:readline';

export function say(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

/** Hands every message to `handle`, one after the other, until stdin ends. */
export async function listen(handle) {
  for await (const line of createInterface({ input: process.stdin })) {
    await handle(JSON.parse(line));
  }
}
