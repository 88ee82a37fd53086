// The ring: real MCP servers, driven by the official client, each behind `pinfold run`, ended in every way a host ends one.
//
// All of it, with everything it needs:  tests/run servers
// Only one server, once that has run:   node --test --test-name-pattern='^server-memory ' contained.test.mjs
// Only one way to end:                  node --test --test-name-pattern='SIGKILLs' contained.test.mjs
// PINFOLD names the program to test; else it is the newest in target/.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launchOf, servers } from './catalog.mjs';
import { DEADLINE, eventually } from './deadline.mjs';
import { Host } from './host.mjs';
import { cgroupsOf, identify, isAlive, killEach, processesIn, roleOf, treeBelow } from './kernel.mjs';
import { Pinfold } from './pinfold.mjs';

/** Each way a server's time can be over. What follows is the same for all: nothing is left. */
const endings = {
  'its client closes it': async ({ host, connection }) => host.close(connection),
  'pinfold end': async ({ session, host, connection }) => {
    await host.holdStdin(connection);
    await pinfold.end(session);
    await host.closed(connection);
  },
  'the host only SIGTERMs its direct child': async ({ host, connection }) => {
    await host.holdStdin(connection);
    await host.signal(connection, 'SIGTERM');
  },
  'the host only SIGKILLs its direct child': async ({ host, connection }) => {
    await host.holdStdin(connection);
    await host.signal(connection, 'SIGKILL');
  },
  'the host itself is SIGKILLed': async ({ host }) => host.kill(),
};

const everyEnding = Object.keys(endings);

/** One server goes through all endings, the others share them out so that each ending meets several servers. */
function endingsOf(server, index) {
  if (server.name === 'server-filesystem') return everyEnding;
  // A helper in a session of its own is what the direct child's death leaves behind most surely.
  if (server.helper) return ['the host only SIGKILLs its direct child', 'pinfold end'];
  return [everyEnding[index % everyEnding.length]];
}

let pinfold;
const sharedCompanions = new Set();

before(async () => {
  pinfold = await Pinfold.start();
});

after(async () => {
  if (!pinfold) return;
  try {
    const left = await pinfold.stop();
    assert.deepEqual(left, { processes: [], cgroups: [] }, 'the daemon leaves its subtree as it found it');
    assert.deepEqual([...sharedCompanions].filter((directory) => fs.existsSync(directory)), []);
  } catch (error) {
    console.error(pinfold.logged());
    throw error;
  } finally {
    await pinfold.clear();
  }
});

/** A host, its scratch directory, and what of it is to be cleared away should the test fail half-way. */
function hostFor(t) {
  const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'pinfold-scratch-'));
  const host = new Host();
  const started = [];
  t.after(async () => {
    await host.kill();
    killEach(started);
    fs.rmSync(scratch, { recursive: true });
  });
  return { host, scratch, started };
}

/** Launches the server through pinfold and uses it, as a host does in a session. */
async function useContained(t, { host, scratch, started }, server, session, options) {
  const connection = server.name;
  const { pid } = await host.connect(connection, pinfold.inFrontOf(launchOf(server, scratch), session, options));
  started.push(...treeBelow(pid));
  const tools = await host.listTools(connection);
  assert.notEqual(tools.length, 0, 'it lists its tools');
  let text = '';
  for (const call of server.calls?.(scratch) ?? []) text = await host.callTool(connection, call);
  if (server.answer) assert.match(text, server.answer);
  const { stderr, errors } = await host.heard(connection);
  assert.deepEqual(errors, [], 'nothing but MCP comes on its stdout');
  t.diagnostic(`${server.name}: ${tools.length} tools`);
  return { connection, pid, stderr };
}

/** Asks pinfold and the kernel where the server's processes are, and that both say the same. */
async function whereItLives(server, session, pid, owner) {
  const tree = await eventually(DEADLINE, `the tree is ${server.tree.join(' → ')}`, () => {
    const found = treeBelow(pid);
    assert.deepEqual(found.map(roleOf), server.tree);
    return found;
  });
  const listed = await eventually(DEADLINE, `pinfold ls counts ${tree.length} processes of ${server.name}`, async () => {
    const found = await pinfold.session(session);
    assert.equal(found.servers.find(({ leader_pid }) => leader_pid === pid)?.processes, tree.length);
    return found;
  });
  const shown = listed.servers.find(({ leader_pid }) => leader_pid === pid);
  assert.equal(shown.name, server.name, 'it is called by what was launched');
  assert.equal(listed.owner_pid, owner, 'the session belongs to the process that launched it');
  assert.ok(path.isAbsolute(listed.cgroup) && listed.cgroup.startsWith(`${pinfold.root}/`), listed.cgroup);
  assert.ok(shown.cgroup.startsWith(`${listed.cgroup}/`), `${shown.cgroup} is below ${listed.cgroup}`);
  assert.ok(shown.memory.rss_bytes > 0 || shown.memory.current_bytes > 0, 'its memory is known');

  // The kernel's word: in the leaf is the tree, the whole tree, and nothing but the tree.
  const inside = processesIn(shown.cgroup);
  assert.deepEqual(inside.map(({ pid }) => pid).sort(), tree.map(({ pid }) => pid).sort());
  const places = tree.map(({ pid }) => cgroupsOf(pid));
  for (const place of places) assert.equal(place.get(''), shown.cgroup, '/proc/PID/cgroup names the leaf');
  return { tree, cgroups: [shown.cgroup, listed.cgroup, ...companions(places)] };
}

/**
 * On a hybrid machine: the v1 cgroups that the tree is in and the ring is not, each with those between it and the
 * ring's own. The topmost is shared by all sessions, and only has to be gone when the daemon is.
 */
function companions(places) {
  const own = cgroupsOf(process.pid);
  const found = new Set();
  for (const [hierarchy, leaf] of places.flatMap((place) => [...place])) {
    if (hierarchy === '' || leaf === own.get(hierarchy)) continue;
    assert.ok(leaf.startsWith(`${own.get(hierarchy)}/`), `${leaf} is below the caller's own cgroup`);
    let above = leaf;
    for (; path.dirname(above) !== own.get(hierarchy); above = path.dirname(above)) found.add(above);
    sharedCompanions.add(above);
  }
  return [...found];
}

async function nothingIsLeft(session, { tree, cgroups }) {
  await eventually(DEADLINE, 'no process of the tree is alive', () => {
    assert.deepEqual(tree.filter(isAlive).map(roleOf), []);
    return true;
  });
  await eventually(DEADLINE, 'no cgroup of the session is left', () => {
    assert.deepEqual(cgroups.filter((directory) => fs.existsSync(directory)), []);
    return true;
  });
  await eventually(DEADLINE, `pinfold ls no longer lists ${session}`, async () => !(await pinfold.session(session)));
}

for (const [index, server] of servers.entries()) {
  for (const ending of endingsOf(server, index)) {
    test(`${server.name} is contained whole, and nothing is left after: ${ending}`, async (t) => {
      const setting = hostFor(t);
      const session = `agent:ring:${server.name}:${ending}`;
      const { connection, pid } = await useContained(t, setting, server, session);
      const life = await whereItLives(server, session, pid, setting.host.pid);
      if (server.helper) {
        const helper = life.tree.find(({ argv }) => server.helper.test(argv.join(' ')));
        assert.notEqual(helper.session, identify(pid).session, 'its helper left the session and yet not the leaf');
      }

      await endings[ending]({ session, host: setting.host, connection });

      await nothingIsLeft(session, life);
      assert.deepEqual(await pinfold.ls(), [], 'pinfold ls is empty');
    });
  }
}

test('the servers of one session end together, and those of another go on', async (t) => {
  const setting = hostFor(t);
  const named = (name) => servers.find((server) => server.name === name);
  const [memory, filesystem, everything] = ['server-memory', 'server-filesystem', 'server-everything'].map(named);
  const lives = [];
  for (const server of [memory, filesystem]) {
    const { pid } = await useContained(t, setting, server, 'agent:ring:one');
    lives.push(await whereItLives(server, 'agent:ring:one', pid, setting.host.pid));
  }
  const other = await useContained(t, setting, everything, 'agent:ring:other');
  const otherLife = await whereItLives(everything, 'agent:ring:other', other.pid, setting.host.pid);

  await pinfold.end('agent:ring:one');
  for (const life of lives) await nothingIsLeft('agent:ring:one', life);

  assert.deepEqual(otherLife.tree.filter(isAlive), otherLife.tree, 'the other session is untouched');
  const [echo] = everything.calls();
  assert.match(await setting.host.callTool(other.connection, echo), everything.answer);
  await pinfold.end('agent:ring:other', '--now');
  await nothingIsLeft('agent:ring:other', otherLife);
  assert.deepEqual(await pinfold.ls(), []);
});

for (const confine of ['yes', 'strict']) {
  test(`server-filesystem answers while it is confined: ${confine}`, async (t) => {
    const setting = hostFor(t);
    const session = `agent:ring:confined:${confine}`;
    const server = servers.find(({ name }) => name === 'server-filesystem');
    const { pid } = await useContained(t, setting, server, session, [`--confine=${confine}`]);
    const life = await whereItLives(server, session, pid, setting.host.pid);
    for (const { pid } of life.tree) {
      const status = fs.readFileSync(`/proc/${pid}/status`, 'utf8');
      assert.match(status, /^NoNewPrivs:\t1$/m);
      if (confine === 'strict') assert.match(status, /^CapBnd:\t0{16}$/m);
    }
    const [shown] = (await pinfold.session(session)).servers;
    assert.deepEqual([shown.confine, shown.escaped], [confine, false]);
    await pinfold.end(session);
    await nothingIsLeft(session, life);
  });
}
