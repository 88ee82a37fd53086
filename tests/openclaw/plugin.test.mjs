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
const daemons = [];
after(async () => {
  for (const { stop } of daemons) await stop();
  fs.rmSync(directory, { recursive: true });
});

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

const TAKEN = '{"parameters":{"ended":[],"pending":[]}}\0';

/** A daemon that remembers every order, and says this to each, or nothing. */
async function daemon(socket, says = TAKEN) {
  const orders = [];
  const connections = new Set();
  const server = net.createServer((connection) => {
    connections.add(connection);
    connection.on('error', () => {});
    connection.on('close', () => connections.delete(connection));
    connection.on('data', (bytes) => {
      for (const message of bytes.toString().split('\0').filter(Boolean)) orders.push(JSON.parse(message));
      if (says !== null) connection.write(says);
    });
  });
  await new Promise((resolve) => server.listen(socket, resolve));
  const stop = () => {
    for (const connection of connections) connection.destroy();
    return new Promise((resolve) => server.close(resolve));
  };
  daemons.push({ stop });
  return { orders, connections, stop };
}

/** A socket that nobody else has. */
const socketOf = (name) => path.join(directory, `${name}.sock`);

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

test('an end that is told late carries the time of the event, and so spares what was launched since', async () => {
  const socket = socketOf('late');
  const { tell, lines } = await plugin({ socket });
  const before = Date.now();
  tell('session_end', { sessionId: 'kept', sessionKey: 'agent:main:main', reason: 'reset', nextSessionId: 'kept' });
  const after = Date.now();
  await eventually(DEADLINE, 'pinfold is absent', () => lines.some((line) => /does not answer/.test(line)));

  const { orders, stop } = await daemon(socket);
  const [{ parameters }] = await eventually(DEADLINE, 'it is told once there is a pinfold', () => orders.length > 0 && orders);
  const given = Number(parameters.before.slice(1)) * 1000;
  assert.ok(given >= before && given <= after + 1, `${given} is between ${before} and ${after}`);
  assert.equal(parameters.session, 'agent:main:main#kept');
  assert.equal(parameters.wait, false);
  await eventually(DEADLINE, 'that is told as well', () => lines.some((line) => /answers again/.test(line)));
  await stop();
});

test('what one daemon has answered is told to another one, too, that does not answer yet', async () => {
  const [here, restarting, never] = ['here', 'restarting', 'never'].map(socketOf);
  const answering = await daemon(here);
  const silent = await daemon(restarting, null);
  const { tell, lines } = await plugin({ socket: [here, restarting, never] });
  tell('session_end', { sessionId: 'one', sessionKey: 'agent:main:main' });
  tell('session_end', { sessionId: 'two', sessionKey: 'agent:main:main' });
  await eventually(DEADLINE, 'the one that answers has both at once', () => answering.orders.length === 2);
  await eventually(DEADLINE, 'the other has heard one', () => silent.orders.length > 0);
  await silent.stop();
  const again = await daemon(restarting);
  const sessions = () => new Set(again.orders.map(({ parameters }) => parameters.session));
  await eventually(DEADLINE, 'it hears of both when it is back', () => sessions().size === 2);
  assert.equal(answering.orders.length, 2, 'and who has answered is not told again');
  assert.deepEqual(lines.filter((line) => /does not answer/.test(line)), [], 'one of them answers');
  await answering.stop();
  await again.stop();
});

test('a session is found by its key also after a turn that lacked it', async () => {
  const socket = socketOf('key');
  const { orders, stop } = await daemon(socket);
  delete globalThis[MANAGER];
  globalThis[MANAGER] = { getOrCreate: async () => {}, disposeSession: async () => {} };
  const { tell } = await plugin({ socket });
  await globalThis[MANAGER].getOrCreate({ sessionId: 'sub', sessionKey: 'agent:main:subagent:x', cfg: cfg() });
  await globalThis[MANAGER].getOrCreate({ sessionId: 'sub', cfg: cfg() });
  tell('subagent_ended', { targetSessionKey: 'agent:main:subagent:x' });
  const [order] = await eventually(DEADLINE, 'its end is told', () => orders.length > 0 && orders);
  assert.equal(order.parameters.session, 'agent:main:subagent:x#sub');
  await stop();
  delete globalThis[MANAGER];
});

const wrong = {
  'says nothing': null,
  'answers garbage': '\u0001\u0002 no JSON at all\0',
  'answers JSON that is no answer': '[1,2,3]\0',
  'answers without an end': 'x'.repeat((1 << 20) + 1),
  'hangs up in the middle of a word': '{"param',
};

for (const [what, says] of Object.entries(wrong)) {
  test(`a socket that ${what} is left after a while, and the order is told to the pinfold that comes`, async () => {
    const socket = socketOf(what.replaceAll(' ', '-'));
    const other = await daemon(socket, says);
    const { tell, lines } = await plugin({ socket });
    const began = performance.now();
    assert.equal(tell('session_end', { sessionId: 's', reason: 'deleted' }), undefined);
    assert.ok(performance.now() - began < 4_000, 'the gateway has not waited');
    await eventually(DEADLINE, 'it was asked', () => other.orders.length > 0);
    if (what.startsWith('hangs up')) for (const connection of other.connections) connection.destroy();
    await eventually(DEADLINE, 'that is told', () => lines.some((line) => /does not answer/.test(line)));
    await eventually(DEADLINE, 'no connection is left open', () => other.connections.size === 0);
    await other.stop();

    const { orders, stop } = await daemon(socket);
    await eventually(DEADLINE, 'pinfold is told', () => orders.some(({ parameters }) => parameters.session === 's'));
    await stop();
  });
}

test('an order that pinfold refuses is answered, and not repeated', async () => {
  const socket = socketOf('refuses');
  const refusal = '{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"before"}}\0';
  const { orders, stop } = await daemon(socket, refusal);
  const { tell } = await plugin({ socket });
  tell('session_end', { sessionId: 'first', reason: 'deleted' });
  tell('session_end', { sessionId: 'second', reason: 'deleted' });
  await eventually(DEADLINE, 'both are told', () => orders.some(({ parameters }) => parameters.session === 'second'));
  assert.deepEqual(orders.map(({ parameters }) => parameters.session), ['first', 'second']);
  await stop();
});

/** A gateway that disposes itself and reads its configuration anew: as 2026.9 has it. */
function newerManager() {
  const OWNERS = Symbol.for('openclaw.sessionMcpRuntimeOwners');
  const alive = new Set();
  const seen = [];
  globalThis[OWNERS] = new WeakMap();
  globalThis[MANAGER] = {
    acquire: async (params) => {
      const runtime = { sessionId: params.sessionId, sessionKey: params.sessionKey };
      seen.push(params.cfg.mcp.servers);
      alive.add(params.sessionId);
      const owner = { reload: async ({ cfg }) => seen.push(cfg.mcp.servers) };
      globalThis[OWNERS].set(runtime, owner);
      return owner;
    },
    reloadConfig: async () => {},
    listSessionIds: () => [...alive],
    disposeSession: async () => assert.fail('a gateway that disposes itself is not made to'),
  };
  const gone = () => {
    delete globalThis[MANAGER];
    delete globalThis[OWNERS];
  };
  return { manager: () => globalThis[MANAGER], alive, seen, gone };
}

test('a gateway that ends servers itself is waited for, and what it reads anew keeps its names', async () => {
  const socket = socketOf('newer');
  const { orders, stop } = await daemon(socket);
  delete globalThis[MANAGER];
  const { tell } = await plugin({ socket });
  const { manager, alive, seen, gone } = newerManager();
  const owner = await manager().acquire({ sessionId: 'run', sessionKey: 'agent:main:cron:job', cfg: cfg() });
  await owner.reload({ cfg: cfg() });
  assert.equal(seen.length, 2);
  for (const servers of seen) assert.equal(servers.fs.env.PINFOLD_SESSION, 'agent:main:cron:job#run');

  const told = () => orders.map(({ parameters }) => parameters.session);
  tell('agent_end', {}, { sessionId: 'run', sessionKey: 'agent:main:cron:job' });
  tell('session_end', { sessionId: 'another', reason: 'deleted' });
  await eventually(DEADLINE, 'another one is told', () => orders.length > 0);
  assert.deepEqual(told(), ['another'], 'the run is still in use');
  alive.delete('run');
  await eventually(DEADLINE, 'the run is told', () => told().includes('agent:main:cron:job#run'));
  await stop();
  gone();
});

test('a manager of an unknown kind is left as it is, which is told', async () => {
  delete globalThis[MANAGER];
  const { lines } = await plugin();
  const unknown = { obtain: () => {} };
  globalThis[MANAGER] = unknown;
  assert.deepEqual(Object.keys(unknown), ['obtain']);
  assert.ok(lines.some((line) => /each server is a session of its own/.test(line)), lines.join());
  delete globalThis[MANAGER];
});
