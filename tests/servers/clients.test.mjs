// Hosts of several kinds, each with its own way to start a server and to let go of it: the official SDKs for TypeScript and
// for Python, and what is like Claude Code and like Codex. Each starts a real server that has a helper in a session of its
// own, which none of their signals reaches.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { launchOf, python, servers } from './catalog.mjs';
import { DEADLINE, eventually } from './deadline.mjs';
import { Host } from './host.mjs';
import { identify, isAlive, killEach, processesIn, roleOf, treeBelow } from './kernel.mjs';
import { Pinfold } from './pinfold.mjs';

const file = (name) => fileURLToPath(new URL(name, import.meta.url));
const server = servers.find(({ name }) => name === 'server-memory');

/** A host is recognised by what its program is called. */
function calledAs(scratch, name, target) {
  const link = path.join(scratch, name);
  fs.symlinkSync(target, link);
  return link;
}

/**
 * start: the host's process, which is to have this `id` in its session's name where it gives one. named: the session as
 * the launch itself names it; where it does not, pinfold finds it. found: how the session is called.
 * own: what of process group and kernel session the host does not share with what it starts. tells: whether the server's
 * environment has what the host's has.
 */
const kinds = {
  'the TypeScript SDK': {
    start: () => ({}),
    named: (id) => `agent:typescript:${id}`,
    found: (id) => `agent:typescript:${id}`,
    own: [],
  },
  'the Python SDK': {
    start: () => ({ command: python, args: [file('host.py'), 'sdk'] }),
    named: (id) => `agent:python:${id}`,
    found: (id) => `agent:python:${id}`,
    own: ['group', 'session'],
  },
  'a claude-like host': {
    start: (id, scratch) => ({
      args: [calledAs(scratch, 'claude', file('claude.mjs'))],
      env: { CLAUDE_CODE_SESSION_ID: id },
    }),
    found: (id) => id,
    own: ['group', 'session'],
    tells: true,
  },
  'a codex-like host': {
    start: (id, scratch) => ({
      command: calledAs(scratch, 'codex', fs.realpathSync(python)),
      args: [file('host.py'), 'codex'],
      // It is no session of this host's, and does not get through to the server either.
      env: { CLAUDE_CODE_SESSION_ID: id },
    }),
    found: (_, pid) => new RegExp(`^codex-${pid}-\\d+$`),
    own: ['group'],
  },
};

// A server that reads the end of its stdin leaves at once, and one fact may be seen before the other.
const closed = ['stdin_closed', 'leader_exited'];

let pinfold;

before(async () => {
  pinfold = await Pinfold.start();
});

after(async () => {
  if (!pinfold) return;
  try {
    const left = await pinfold.stop();
    assert.deepEqual(left, { processes: [], cgroups: [] }, 'the daemon leaves its subtree as it found it');
  } catch (error) {
    console.error(pinfold.logged());
    throw error;
  } finally {
    await pinfold.clear();
  }
});

/** A host of this kind, and what of it is to be cleared away should the test fail half-way. */
function hostOf(t, kind) {
  const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'pinfold-scratch-'));
  const id = path.basename(scratch);
  const host = new Host(kind.start(id, scratch));
  const started = [];
  t.after(async () => {
    await host.kill();
    killEach(started);
    fs.rmSync(scratch, { recursive: true });
  });
  return { host, id, scratch, started, kind };
}

/** The server as it is, but for a helper that has left its process group and its session, and would live for minutes. */
const withHelper = 'setsid sleep 300 & exec "$@"';

/** The same, started by a shell that neither the server's end nor a SIGTERM makes leave. */
const stubborn = `trap '' TERM; setsid sleep 300 & sleep 300 & "$@"; wait`;

/** Starts the server by that script, in front of which `through` puts what it wants, and uses it. */
async function use({ host, scratch, started }, connection, script, through) {
  const own = path.join(scratch, connection);
  fs.mkdirSync(own);
  const { command, args, ...rest } = launchOf(server, own);
  const launch = { command: 'sh', args: ['-c', script, 'sh', command, ...args], ...rest };
  const { pid } = await host.connect(connection, through(launch));
  const { tree, helper } = await eventually(DEADLINE, 'the server stands, and a helper with a session of its own', () => {
    const tree = treeBelow(pid);
    const roles = tree.map(roleOf);
    for (const role of ['npm exec', 'sh', 'node']) assert.ok(roles.includes(role), roles.join(' '));
    const helper = tree.find((each) => roleOf(each) === 'sleep' && each.session !== tree[0].session);
    return helper && { tree, helper };
  });
  started.push(...tree);
  const tools = await host.listTools(connection);
  const texts = [];
  for (const call of server.calls(own)) texts.push(await host.callTool(connection, call));
  assert.match(texts.at(-1), server.answer);
  return { connection, pid, tree, helper, answers: { tools, texts } };
}

/** The launch really has the shape that its kind stands for. */
function startedAsItsKind({ host, id, kind }, pid) {
  const [child, parent] = [identify(pid), identify(host.pid)];
  assert.deepEqual(['group', 'session'].filter((each) => child[each] !== parent[each]), kind.own);
  const environment = fs.readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
  assert.equal(environment.includes(`CLAUDE_CODE_SESSION_ID=${id}`), kind.tells ?? false);
}

/** The same through pinfold, which has to have all of it in one leaf of the right session. */
async function useContained(setting, connection, script = withHelper) {
  const { host, id, kind } = setting;
  const life = await use(setting, connection, script, (launch) => pinfold.inFrontOf(launch, kind.named?.(id)));
  const { session, leaf } = await eventually(DEADLINE, 'pinfold lists the server', async () => {
    for (const session of await pinfold.ls()) {
      const found = session.servers.find(({ leader_pid }) => life.tree.some(({ pid }) => pid === leader_pid));
      if (found) return { session, leaf: found.cgroup };
    }
    return null;
  });
  assert.equal(session.owner_pid, host.pid, 'the session belongs to the host');
  const expected = kind.found(id, host.pid);
  if (expected instanceof RegExp) assert.match(session.id, expected);
  else assert.equal(session.id, expected);
  startedAsItsKind(setting, life.pid);
  const inside = processesIn(leaf).map(({ pid }) => pid);
  // A shell through which the host launches is the host's own, and stays outside.
  const server = life.tree.filter(({ pid }) => pid !== life.pid || inside.includes(pid));
  assert.deepEqual(inside.toSorted(), server.map(({ pid }) => pid).toSorted(), 'in the leaf is the tree, and nothing else');
  return { ...life, session: session.id, leaf };
}

/** The kernel's word that nothing is left, and pinfold's why. */
async function nothingIsLeft({ tree, leaf, session }, causes) {
  await eventually(DEADLINE, 'no process of the tree is alive', () => {
    assert.deepEqual(tree.filter(isAlive).map(roleOf), []);
    return true;
  });
  await eventually(DEADLINE, 'the leaf is gone', () => {
    assert.deepEqual(processesIn(leaf).map(roleOf), []);
    return !fs.existsSync(leaf);
  });
  const told = await eventually(DEADLINE, 'pinfold history tells of the end', async () => {
    return (await pinfold.history(session)).find((end) => end.leaf === path.basename(leaf));
  });
  assert.ok(causes.includes(told.cause), `its cause is ${causes.join(' or ')}: ${JSON.stringify(told)}`);
}

async function closeUnseen({ host }, { connection }) {
  await host.close(connection);
  const { errors } = await host.heard(connection);
  assert.deepEqual(errors, [], `the client sees no errors (${connection})`);
}

for (const [name, kind] of Object.entries(kinds)) {
  test(`${name} works through pinfold as without, and only without does its close leave the helper behind`, async (t) => {
    const setting = hostOf(t, kind);
    const bare = await use(setting, 'bare', withHelper, (launch) => launch);
    const contained = await useContained(setting, 'contained');
    assert.deepEqual(contained.answers, bare.answers);

    for (const life of [bare, contained]) await closeUnseen(setting, life);
    await nothingIsLeft(contained, closed);
    await eventually(DEADLINE, 'npm exec, started bare, is gone', () => !isAlive(bare.tree[0]));
    assert.ok(isAlive(bare.helper), 'this close does not reach a helper in a session of its own');
  });

  test(`nothing is left of a server after ${name} was SIGKILLed without a close`, async (t) => {
    const setting = hostOf(t, kind);
    const life = await useContained(setting, 'contained');
    await setting.host.kill();
    await nothingIsLeft(life, ['owner_gone', ...closed]);
  });
}

for (const name of ['the TypeScript SDK', 'the Python SDK']) {
  test(`what ${name} forgets to close stays until pinfold end, while its host lives and closes another`, async (t) => {
    const setting = hostOf(t, kinds[name]);
    const forgotten = await useContained(setting, 'forgotten');
    const other = await useContained(setting, 'other');
    assert.equal(other.session, forgotten.session);
    await closeUnseen(setting, other);
    await nothingIsLeft(other, closed);

    assert.deepEqual(forgotten.tree.filter(isAlive), forgotten.tree, 'the one that nobody closed is whole');
    assert.deepEqual(await setting.host.listTools('forgotten'), forgotten.answers.tools);
    await pinfold.end(forgotten.session);
    await nothingIsLeft(forgotten, ['requested']);
    const toldSo = ({ message }) => !message.startsWith('not within');
    await assert.rejects(setting.host.listTools('forgotten'), toldSo, 'its client is told that it is gone');
  });

  test(`nothing is left of a server that lets ${name} come to its last resort`, async (t) => {
    const setting = hostOf(t, kinds[name]);
    const life = await useContained(setting, 'stubborn', stubborn);
    await closeUnseen(setting, life);
    await nothingIsLeft(life, closed);
  });
}
