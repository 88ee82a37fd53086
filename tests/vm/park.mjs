// What parking does to real servers with a real client, on cgroup v2 with swap: run by park.sh in the guest.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';

const [turns, sessions] = process.argv.slice(2).map(Number);
const pinfold = process.env.PINFOLD;
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'park-'));
fs.writeFileSync(path.join(scratch, 'hay.txt'), 'hay\n');
const DEADLINE = 120_000;

const module = (name) => path.resolve('node_modules/@modelcontextprotocol', name, 'dist/index.js');
/** Each with a call whose answer tells that it is the answer to this call. */
const kinds = {
  everything: {
    command: [module('server-everything')],
    call: (mark) => ({ name: 'echo', arguments: { message: mark } }),
    answers: (text, mark) => text.includes(mark),
  },
  filesystem: {
    command: [module('server-filesystem'), scratch],
    call: (mark) => {
      fs.writeFileSync(path.join(scratch, mark), mark);
      return { name: 'read_text_file', arguments: { path: path.join(scratch, mark) } };
    },
    answers: (text, mark) => text.includes(mark),
  },
  memory: {
    command: [module('server-memory')],
    call: (mark) => ({
      name: 'create_entities',
      arguments: { entities: [{ name: mark, entityType: 'mark', observations: [mark] }] },
    }),
    answers: (text, mark) => text.includes(mark),
  },
};

const run = (...args) => spawnSync(pinfold, args, { encoding: 'utf8' });
const json = (...args) => JSON.parse(execFileSync(pinfold, [...args, '--json'], { encoding: 'utf8' }));
const events = (session) =>
  execFileSync(pinfold, ['events', '--json', '--session', session], { encoding: 'utf8' })
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
const shown = (session) => json('status', session)[0]?.servers ?? json('status', session).sessions[0].servers;
const held = (server) => Number(fs.readFileSync(path.join(server.cgroup, 'memory.current'), 'utf8'));
const swapped = (server) => Number(fs.readFileSync(path.join(server.cgroup, 'memory.swap.current'), 'utf8'));
const limit = (server) => fs.readFileSync(path.join(server.cgroup, 'memory.swap.max'), 'utf8').trim();
const isFrozen = (server) => fs.readFileSync(path.join(server.cgroup, 'cgroup.events'), 'utf8').includes('frozen 1');
const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const within = (what, promise) =>
  Promise.race([promise, sleep(DEADLINE, null, { ref: false }).then(() => assert.fail(`not in time: ${what}`))]);

let passed = 0;
const ok = (what) => {
  passed += 1;
  console.log(`ok    ${what}`);
};

/** No two calls have the same mark, also not those of a server that was launched again. */
let calls = 0;

/** One MCP connection as a host has it. */
class Connection {
  constructor(session, kind) {
    Object.assign(this, { session, kind });
  }

  async open() {
    const { command } = kinds[this.kind];
    const args = ['run', '--session', this.session, '--server', this.kind, '--', process.execPath, ...command];
    this.transport = new StdioClientTransport({
      command: pinfold,
      args,
      env: { HOME: scratch, PATH: process.env.PATH, MEMORY_FILE_PATH: path.join(scratch, `${this.session}.json`) },
      stderr: 'ignore',
    });
    this.client = new Client({ name: 'park', version: '1' });
    await within(`${this.kind} starts`, this.client.connect(this.transport, { timeout: DEADLINE }));
    return this;
  }

  /** Calls its tool, and gives how long the right answer took, in milliseconds. */
  async call() {
    const mark = `${this.session}-${this.kind}-${++calls}`;
    const began = performance.now();
    const result = await within(`${mark} is answered`, this.client.callTool(kinds[this.kind].call(mark), undefined, { timeout: DEADLINE }));
    const took = performance.now() - began;
    const text = result.content.map((part) => part.text ?? '').join('');
    assert.ok(kinds[this.kind].answers(text, mark), `${mark}: ${text}`);
    return took;
  }

  get server() {
    return shown(this.session).find(({ name }) => name === this.kind);
  }
}

const park = (session) => {
  const { parked, refused } = JSON.parse(run('park', session, '--json').stdout);
  return { parked, refused };
};

/** Parks the only server of a session as soon as it has done what it was doing. */
async function parked(session) {
  let last;
  await eventually(`${session} is parked`, () => {
    last = park(session);
    return last.parked.length === 1;
  }).catch((error) => assert.fail(`${error.message}: ${JSON.stringify(last)}`));
}

async function eventually(what, condition) {
  const until = performance.now() + DEADLINE;
  let last;
  while (performance.now() < until) {
    last = await condition();
    if (last) return last;
    await sleep(100);
  }
  assert.fail(`not in time: ${what}`);
}

/** What is given back of one idle server of each kind, and what its first answer costs. */
async function figures() {
  const rows = [];
  for (const kind of Object.keys(kinds)) {
    const connection = await new Connection(`figures-${kind}`, kind).open();
    await connection.call();
    const warm = Math.min(await connection.call(), await connection.call(), await connection.call());
    await sleep(3000);
    const before = held(connection.server);
    await parked(connection.session);
    assert.ok(isFrozen(connection.server));
    assert.equal(limit(connection.server), '0', 'its own limit on swap is what it was');
    const [after, swap] = [held(connection.server), swapped(connection.server)];
    const first = await connection.call();
    assert.ok(!isFrozen(connection.server));
    const thawed = events(connection.session).find(({ event }) => event === 'thawed');
    assert.equal(thawed.reason, 'input');
    const again = held(connection.server);
    const second = await connection.call();
    rows.push({ kind, before, after, swap, again, warm, first, second, thaw: thawed.thaw_seconds * 1000 });
    assert.ok(after <= before * 0.1, `${kind} gave back ${before} → ${after}`);
    await connection.client.close();
    ok(`${kind}: ${mebibytes(before)} → ${mebibytes(after)} when parked, ${mebibytes(again)} after its first answer`);
  }
  console.log('server | held | parked | in swap | after one answer | warm answer | first answer | of it thaw | second');
  for (const row of rows) {
    const ms = (value) => `${value.toFixed(1)} ms`;
    const sizes = [row.before, row.after, row.swap, row.again].map(mebibytes).join(' | ');
    console.log(`${row.kind} | ${sizes} | ${ms(row.warm)} | ${ms(row.first)} | ${ms(row.thaw)} | ${ms(row.second)}`);
  }
}

/** Splitmix64, so that a seed tells a whole run. */
function dice(seed) {
  let state = BigInt(seed);
  return (most) => {
    state = (state + 0x9e3779b97f4a7c15n) & 0xffffffffffffffffn;
    let mixed = state;
    mixed = ((mixed ^ (mixed >> 30n)) * 0xbf58476d1ce4e5b9n) & 0xffffffffffffffffn;
    mixed = ((mixed ^ (mixed >> 27n)) * 0x94d049bb133111ebn) & 0xffffffffffffffffn;
    return Number((mixed ^ (mixed >> 31n)) % BigInt(most));
  };
}

/** Parked, thawed, called and closed in any order: every answer comes, and is the one to its call. */
async function cycles() {
  const seed = process.env.PINFOLD_TEST_SEED ?? String(Date.now());
  console.log(`PINFOLD_TEST_SEED=${seed}`);
  const roll = dice(seed);
  const names = Object.keys(kinds);
  const all = await Promise.all(names.map((kind) => new Connection(`cycles-${kind}`, kind).open()));
  let parks = 0;
  for (let turn = 0; turn < turns; turn += 1) {
    const at = roll(all.length);
    switch (roll(8)) {
      case 0:
      case 1:
      case 2:
        // Calls may come while it is frozen.
        await Promise.all([
          (async () => (parks += park(all[at].session).parked.length))(),
          roll(2) ? sleep(roll(800)).then(() => all[at].call()) : undefined,
        ]);
        break;
      case 3:
        assert.equal(run('thaw', all[at].session).status, 0);
        break;
      case 4:
        await within('it is closed', all[at].client.close());
        all[at] = await new Connection(all[at].session, all[at].kind).open();
        break;
      case 5:
        await Promise.all([all[at].call(), all[at].call(), all[at].call()]);
        break;
      default:
        await all[at].call();
    }
  }
  await Promise.all(all.map((connection) => connection.call()));
  await Promise.all(all.map((connection) => within('it is closed', connection.client.close())));
  assert.ok(parks > 0);
  ok(`${turns} random turns, ${parks} times parked: no answer lost, wrong or out of order`);
}

/** A host closes its server as the SDK does, and finds it gone without a signal. */
async function closing() {
  const connection = await new Connection('closing', 'everything').open();
  await connection.call();
  await parked('closing');
  const began = performance.now();
  await within('it is closed', connection.client.close());
  const took = performance.now() - began;
  await eventually('it is told', () => events('closing').some(({ event }) => event === 'ended'));
  assert.ok(events('closing').some(({ event, reason }) => event === 'thawed' && reason === 'closed'));
  ok(`its client closes a parked server, in ${took.toFixed(0)} ms`);
}

/** The daemon dies with a request in the pipe of a parked server: its unit thaws it, and starts the daemon again. */
async function killed() {
  const connection = await new Connection('killed', 'filesystem').open();
  await connection.call();
  await parked('killed');
  const pid = execFileSync('systemctl', ['show', '--value', '--property=MainPID', 'pinfold.service'], { encoding: 'utf8' });
  process.kill(Number(pid), 'SIGKILL');
  await connection.call();
  await eventually('the daemon is back', () => run('status', 'killed').status === 0);
  assert.equal(limit(connection.server), '0');
  ok('a killed daemon leaves nobody frozen, and a request in the pipe is answered');

  await parked('killed');
  execFileSync('systemctl', ['stop', 'pinfold.service']);
  await connection.call();
  execFileSync('systemctl', ['start', 'pinfold.service']);
  ok('nor does one that is stopped');
  await connection.client.close();
}

/** Another server dies of its memory: whoever is parked is not touched. */
async function neighbour() {
  const connection = await new Connection('neighbour', 'everything').open();
  await connection.call();
  await parked('neighbour');
  const hog = 'const all = []; for (;;) all.push(Buffer.alloc(8 << 20, 1));';
  const args = ['run', '--session', 'hog', '--memory-max', '150M', '--', process.execPath, '-e', hog];
  const died = spawnSync(pinfold, args, { encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] });
  assert.match(died.stderr, /memory/);
  assert.ok(isFrozen(connection.server));
  await connection.call();
  await connection.client.close();
  ok('a neighbour that runs out of memory touches nobody who is parked');
}

/** Many sessions that do nothing: what the machine has of it. */
async function many() {
  const available = () => {
    const text = fs.readFileSync('/proc/meminfo', 'utf8');
    const amount = (key) => Number(text.match(new RegExp(`^${key}: +(\\d+) kB`, 'm'))[1]) * 1024;
    return { available: amount('MemAvailable'), swap: amount('SwapTotal') - amount('SwapFree') };
  };
  const start = available();
  const all = [];
  let sum = 0;
  for (let number = 0; number < sessions; number += 1) {
    for (const kind of Object.keys(kinds)) {
      const connection = await new Connection(`many-${number}`, kind).open();
      await connection.call();
      all.push(connection);
    }
    await sleep(500);
    // One after the other, as they would become idle: the machine need not hold all of them awake.
    sum += shown(`many-${number}`).reduce((total, server) => total + held(server), 0);
    await eventually('the session is parked', () => {
      const { refused } = park(`many-${number}`);
      return refused.length === 0;
    });
  }
  const end = available();
  const after = json('ls').reduce((total, { servers }) => total + servers.reduce((sum, server) => sum + held(server), 0), 0);
  console.log(`${all.length} idle servers | held | parked | MemAvailable less | swap`);
  const less = start.available - end.available;
  console.log(`${sessions} × 3 | ${mebibytes(sum)} | ${mebibytes(after)} | ${mebibytes(less)} | ${mebibytes(end.swap - start.swap)}`);
  assert.ok(after < sum * 0.1, `${sum} → ${after}`);
  await all[0].call();
  await all.at(-1).call();
  assert.equal(run('end', '--all').status, 0);
  await Promise.all(all.map((connection) => connection.client.close()));
  ok(`${all.length} servers that do nothing hold ${mebibytes(after)} of ${mebibytes(sum)}`);
}

await figures();
await closing();
await killed();
await neighbour();
await cycles();
await many();
await eventually('no session is left', () => json('ls').length === 0);
console.log(`${passed} passed`);
process.exit(0);
