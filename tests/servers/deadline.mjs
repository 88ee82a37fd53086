// Waiting: for a level with a deadline, never for a change and never by sleeping a guessed time.

import { setTimeout as pause } from 'node:timers/promises';

/** Long enough for a loaded machine with two processors; no test waits so long when all is well. */
export const DEADLINE = 30_000;

/**
 * Polls `condition` until it returns something truthy, and returns that.
 * An assertion that throws counts as "not yet"; the last one is the cause of the failure at the deadline.
 */
export async function eventually(deadline, what, condition) {
  const end = performance.now() + deadline;
  let last;
  for (;;) {
    try {
      const value = await condition();
      if (value) return value;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (performance.now() >= end) {
      throw new Error(`not within ${deadline / 1000} s: ${what}${last ? ` (${last.message})` : ''}`, { cause: last });
    }
    await pause(50);
  }
}

/** The same promise, but rejected when the deadline comes first. */
export async function within(deadline, what, promise) {
  const late = new AbortController();
  try {
    return await Promise.race([
      promise,
      pause(deadline, undefined, { signal: late.signal }).then(() => {
        throw new Error(`not within ${deadline / 1000} s: ${what}`);
      }),
    ]);
  } finally {
    late.abort();
  }
}
