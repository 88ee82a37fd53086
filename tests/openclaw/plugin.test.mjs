// The OpenClaw plug-in alone, between a gateway's managers as the two kinds of versions have them, and a socket of ours.
//
// node --test plugin.test.mjs

import assert from 'node:assert/strict';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { DEADLINE, eventually } from '../servers/deadline.mjs';

const MANAGER = Symbol.for('openclaw.sessionMcpRuntimeManager');
const SHARED = Symbol.for('io.pinfold.openclaw');

const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pinfold-plugin-'));
after(() => fs.rmSync(directory, { recursive: true }));

/** A copy of the plug-in with a gateway of its own: what is one for a process is made anew. */
async function plugin({ socket = path.join(directory, 'nobody.sock') } = {}) {
  delete globalThis[SHARED];
  const { default: it } = await import(`../../deploy/openclaw/index.js?${Math.random()}`);
  const handlers = new Map();
  const lines = [];
  const logger = { info: (line) => lines.push(line), warn: (line) => lines.push(line) };
  it.register({ pluginConfig: { socket }, logger, on: (event, handler) => handlers.set(event, handler) });
  return { lines, tell: (event, ...given) => handlers.get(event)(...given) };
}

/** A daemon that takes every order and remembers it. */
async function daemon(socket) {
  const orders = [];
  const server = net.createServer((connection) => {
    connection.on('error', () => {});
    connection.on('data', (bytes) => {
      for (const message of bytes.toString().split('\0').filter(Boolean)) orders.push(JSON.parse(message));
      connection.write('{"parameters":{"ended":[],"pending":[]}}\0');
    });
  });
  await new Promise((resolve) => server.listen(socket, resolve));
  return { orders, stop: () => new Promise((resolve) => server.close(resolve)) };
}

const cfg = () => ({ mcp: { servers: { fs: { command: 'npx', env: { A: '1' } }, far: { url: 'http://x/' } } } });

test('nothing is thrown into the gateway, whatever its events hold, and the absence of pinfold is told once', async () => {
  const { tell, lines } = await plugin();
  for (const event of ['session_end', 'subagent_ended', 'agent_end', 'gateway_stop']) {
    for (const given of [[], [null, null], [{}, {}], [{ sessionId: 7 }, 'x'], [{ sessionId: 'a\n'.repeat(400) }]]) {
      assert.equal(tell(event, ...given), undefined, 'the gateway is given nothing to wait for');
    }
  }
  for (let number = 0; number < 2_000; number += 1) tell('session_end', { sessionId: `s${number}` });
  await eventually(DEADLINE, 'it is told', () => lines.some((line) => /does not answer/.test(line)));
  assert.equal(lines.filter((line) => /does not answer/.test(line)).length, 1);
});

test('servers get the name of their session, from the first on, and the end of it carries its time', async () => {
  delete globalThis[MANAGER];
  const socket = path.join(directory, 'pinfold.sock');
  const { orders, stop } = await daemon(socket);
  const { tell } = await plugin({ socket });

  const seen = [];
  const disposed = [];
  globalThis[MANAGER] = {
    getOrCreate: async (params) => seen.push(params.cfg.mcp.servers),
    disposeSession: async (id) => disposed.push(id),
  };
  const original = cfg();
  await globalThis[MANAGER].getOrCreate({ sessionId: 'id1', sessionKey: 'agent:main:cron:job', cfg: original });
  assert.deepEqual(seen[0].fs.env, { A: '1', PINFOLD_SESSION: 'agent:main:cron:job#id1' });
  assert.deepEqual(seen[0].far, { url: 'http://x/' });
  assert.deepEqual(original, cfg(), 'the gateway keeps its own configuration as it was');
  assert.equal({}[MANAGER], undefined, 'nothing is left above the global object');

  const before = Date.now() / 1000;
  tell('agent_end', {}, { sessionId: 'id1', sessionKey: 'agent:main:main' });
  tell('session_end', { sessionId: 'id1', reason: 'compaction' });
  tell('agent_end', {}, { sessionId: 'id1', sessionKey: 'agent:main:cron:job' });
  const [order] = await eventually(DEADLINE, 'it is told', () => orders.length > 0 && orders);
  assert.equal(order.method, 'io.pinfold.End');
  assert.equal(order.parameters.session, 'agent:main:cron:job#id1');
  assert.ok(Number(order.parameters.before.slice(1)) >= Math.floor(before));
  assert.deepEqual(disposed, ['id1'], 'nor is what has ended used again');
  tell('gateway_stop', {});
  await eventually(DEADLINE, 'the stop is told', () => orders.some(({ parameters }) => parameters.owner_pid === process.pid));
  assert.equal(orders.length, 2, 'and the end of a run in a session that stays is not');
  await stop();
  delete globalThis[MANAGER];
});
