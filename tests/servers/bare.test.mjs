// The same servers and the same client with nothing in front. It shows that what the other file ends is the tree a host
// really gets, and the trouble: what a host leaves behind when it signals only the process it started.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { launchOf, servers } from './catalog.mjs';
import { DEADLINE, eventually } from './deadline.mjs';
import { Host } from './host.mjs';
import { identify, isAlive, killEach, roleOf, treeBelow } from './kernel.mjs';

/** Launches a server as its users do, and gives its tree once it stands. */
async function startBare(t, server) {
  const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'pinfold-scratch-'));
  const host = new Host();
  const tree = [];
  t.after(async () => {
    await host.kill();
    killEach(tree);
    fs.rmSync(scratch, { recursive: true });
  });
  const { pid } = await host.connect(server.name, launchOf(server, scratch));
  const found = await eventually(DEADLINE, `the tree is ${server.tree.join(' → ')}`, () => {
    const below = treeBelow(pid);
    assert.deepEqual(below.map(roleOf), server.tree);
    return below;
  });
  tree.push(...found);
  return { host, scratch, tree };
}

for (const server of servers) {
  test(`${server.name}, started bare, runs as ${server.tree.join(' → ')} and answers`, async (t) => {
    const { host, scratch, tree } = await startBare(t, server);
    assert.notEqual((await host.listTools(server.name)).length, 0);
    let text = '';
    for (const call of server.calls?.(scratch) ?? []) text = await host.callTool(server.name, call);
    if (server.answer) assert.match(text, server.answer);
    await host.close(server.name);
    await eventually(DEADLINE, 'it leaves when its client closes it', () => !tree.some(isAlive));
  });
}

for (const [signal, survivors] of Object.entries({ SIGTERM: ['node'], SIGKILL: ['sh', 'node'] })) {
  test(`without pinfold, a ${signal} to npm exec alone leaves the server running while its stdin is open`, async (t) => {
    const server = servers.find(({ name }) => name === 'server-filesystem');
    const { host, tree } = await startBare(t, server);
    await host.holdStdin(server.name);
    await host.signal(server.name, signal);
    await eventually(DEADLINE, 'npm exec is gone', () => !isAlive(tree[0]));
    // That something does not happen can only be seen by waiting a while.
    await pause(2_000);
    const left = tree.filter(isAlive);
    assert.deepEqual(left.map(roleOf), survivors);
    const orphan = identify(left[0].pid);
    assert.notEqual(orphan.parent, tree[0].pid, 'its parent is gone, and nobody is left who would end it');
  });
}
