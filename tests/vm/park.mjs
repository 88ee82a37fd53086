// What parking does to real servers with a real client, on cgroup v2 with swap: run by park.sh in the guest.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  Connection, DEADLINE, PARKED_MOST, dice, events, eventually, kinds, mebibytes, milliseconds, park, pinfold, pressure, run,
  sessions, shell,
} from './park-host.mjs';

const [turns, count] = process.argv.slice(2, 4).map(Number);
const wanted = process.argv.slice(4);
const names = Object.keys(kinds);

let passed = 0;
const began = performance.now();
const elapsed = () => ((performance.now() - began) / 1000).toFixed(0);
const ok = (what) => {
  passed += 1;
  console.log(`ok    ${what} [${elapsed()} s]`);
};

/** One session of three servers, with which all parts go on: to start one takes longer than all that is done to it. */
const kept = new Map();

async function connected(kind) {
  if (!kept.has(kind)) kept.set(kind, await new Connection('kept', kind).open());
  return kept.get(kind);
}

/** What is given back of one idle server of each kind, and what its first answer costs. */
async function figures() {
  const all = await Promise.all(names.map(connected));
  const rows = [];
  for (const connection of all) {
    const { kind, leaf } = connection;
    await connection.call();
    const warm = Math.min(await connection.call(), await connection.call(), await connection.call());
    const before = leaf.held;
    await connection.park();
    assert.equal(leaf.swapLimit, '0', 'its own limit on swap is what it was');
    const [after, swap, faults] = [leaf.held, leaf.swapped, leaf.majorFaults];
    const wrote = performance.timeOrigin + performance.now();
    const first = await connection.call();
    assert.ok(!leaf.isFrozen);
    const [again, fetched] = [leaf.held, leaf.majorFaults - faults];
    const second = await connection.call();
    const thawed = await eventually('its thaw is told', async () =>
      (await connection.events()).findLast(({ event }) => event === 'thawed'),
    );
    assert.equal(thawed.reason, 'input');
    const thaw = thawed.thaw_seconds * 1000;
    // It is told when the kernel says that all of it runs.
    const wake = Date.parse(thawed.at.replace(/(\.\d{3})\d*/, '$1')) - wrote - thaw;
    rows.push({ kind, before, after, swap, again, warm, first, wake, thaw, fetched, second });
    assert.ok(after <= before * 0.1, `${kind} gave back ${before} → ${after}`);
    ok(`${kind}: ${mebibytes(before)} → ${mebibytes(after)} when parked, ${mebibytes(again)} after its first answer`);
  }
  console.log('server | held | parked | in swap | after one answer');
  for (const { kind, before, after, swap, again } of rows) {
    console.log([kind, ...[before, after, swap, again].map(mebibytes)].join(' | '));
  }
  // What is left of the first answer, without what an answer takes anyway, is what was fetched from swap and files for it.
  console.log('server | warm answer | first answer | of it wake-up | thaw | page-in | pages | second answer');
  for (const { kind, warm, first, wake, thaw, fetched, second } of rows) {
    const times = [warm, first, wake, thaw, first - wake - thaw - warm].map(milliseconds);
    console.log([kind, ...times, fetched, milliseconds(second)].join(' | '));
  }
}

/** A host closes its server as the SDK does: stdin first. That thaws it, and it leaves by itself. */
async function closing() {
  const connection = await connected('filesystem');
  await connection.call();
  await connection.park();
  const start = performance.now();
  const signal = await connection.close();
  kept.delete('filesystem');
  const took = performance.now() - start;
  const told = await eventually('its end is told', async () => {
    const all = await connection.events();
    return all.some(({ event }) => event === 'ended') && all;
  });
  assert.ok(told.some(({ event, reason }) => event === 'thawed' && reason === 'closed'));
  assert.ok(connection.leaf.isGone);
  ok(`its client closes a parked server, which leaves in ${took.toFixed(0)} ms, by ${signal ?? 'itself'}`);
}

/** A session of parked servers is ended: each is awake for it, and nothing is left. */
async function ending() {
  const all = await Promise.all(['everything', 'memory'].map(connected));
  await Promise.all(all.map((connection) => connection.call()));
  for (const connection of all) await connection.park();
  const ended = await run('end', 'kept');
  assert.equal(ended.status, 0, ended.stderr);
  assert.ok(all.every(({ leaf }) => leaf.isGone));
  const told = await events('kept');
  assert.equal(told.filter(({ event, reason }) => event === 'thawed' && reason === 'ending').length, all.length);
  const causes = told.filter(({ event }) => event === 'ended').map(({ cause }) => cause);
  assert.deepEqual(causes.slice(-all.length), all.map(() => 'requested'));
  await Promise.all(all.map((connection) => connection.close()));
  kept.clear();
  ok(`the end of a session of ${all.length} parked servers wakes them, and leaves nothing`);
}

/** The daemon dies with requests in the pipe of a parked server: its unit thaws it, and starts the daemon again. */
async function killed() {
  const connection = await connected('everything');
  const { leaf } = connection;
  await connection.call();
  await connection.park();
  const { stdout } = await shell('systemctl', ['show', '--value', '--property=MainPID', 'pinfold.service']);
  // It is stopped first, or it would hear of them before it dies.
  process.kill(Number(stdout), 'SIGSTOP');
  const answers = connection.callAtOnce(5);
  await sleep(500);
  assert.ok(leaf.isFrozen && connection.answered.length < connection.asked.length, 'the requests are in its pipe');
  process.kill(Number(stdout), 'SIGKILL');
  await answers;
  connection.expectAllAnswered();
  await eventually('the daemon is back', async () => (await run('status', 'kept')).status === 0);
  assert.equal(leaf.swapLimit, '0');
  ok('a killed daemon leaves nobody frozen, and five requests in the pipe are answered in their order');

  await connection.park();
  await shell('systemctl', ['stop', 'pinfold.service']);
  assert.ok(!leaf.isFrozen);
  await connection.callAtOnce(5);
  await shell('systemctl', ['start', 'pinfold.service']);
  ok('nor does one that is stopped');
}

/** Another server dies of its memory: whoever is parked is not touched. */
async function neighbour() {
  const connection = await connected('everything');
  await connection.call();
  await connection.park();
  const { held } = connection.leaf;
  const hog = 'x = []\nwhile True: x.append(bytearray(8 << 20))';
  const died = await run('run', '--session', 'hog', '--memory-max', '150M', '--', 'python3', '-c', hog);
  assert.notEqual(died.status, 0);
  assert.match(died.stderr, /memory/);
  const ended = await eventually('its end is told', async () =>
    (await events('hog')).find(({ event }) => event === 'ended'),
  );
  assert.equal(ended.cause, 'memory');
  assert.ok(connection.leaf.isFrozen && connection.leaf.held <= held + (1 << 20));
  await connection.callAtOnce(3);
  connection.expectAllAnswered();
  ok('a neighbour that runs out of memory touches nobody who is parked');
}

/** Holds memory that it never touches again, and answers each line with itself. */
const HOLDS = `
import os, sys
held = bytearray(48 << 20)
for at in range(0, len(held), 4096): held[at] = 1
sys.stdout.write('up\\n'); sys.stdout.flush()
while line := os.read(0, 4096): os.write(1, line)
`;

/** A server that needs no client, for what is about its memory. */
async function holder(session) {
  const child = spawn(pinfold, ['run', '--session', session, '--server', 'holds', '--', 'python3', '-c', HOLDS], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  let heard = '';
  child.stdout.setEncoding('utf8').on('data', (text) => (heard += text));
  await eventually(`${session} starts`, () => heard.includes('up\n'));
  const [{ cgroup }] = (await sessions()).find(({ id }) => id === session).servers;
  const call = async (text) => {
    child.stdin.write(`${text}\n`);
    await eventually(`${text} is answered`, () => heard.endsWith(`${text}\n`));
  };
  return { session, child, cgroup, call };
}

/** While the machine waits for memory nothing is given back, which would be one more to wait for; afterwards it is. */
async function pressed() {
  const configuration = '/etc/pinfold/pinfold.toml';
  const rules = ['trim', 'park'].map((what) => `[[rule]]\nwhen.session = "to-${what}"\nserver.${what}_after = "2s"\n`);
  // What grows beyond its MemoryHigh= and has nowhere to put it is held up for ever, and the machine has room all the while.
  const grows = 'x = []\nwhile True: x.append(bytearray(1 << 20))';
  const limits = ['--property=MemoryHigh=24M', '--property=MemoryMax=200M', '--property=MemorySwapMax=0'];
  await shell('systemd-run', ['--quiet', '--unit=pressing', ...limits, 'python3', '-c', grows]);
  await eventually('the machine is pressed', () => pressure('memory', 'some') >= 40);
  fs.writeFileSync(configuration, rules.join(''));
  assert.equal((await run('reload')).status, 0);
  const all = await Promise.all(['to-trim', 'to-park', 'by-hand'].map(holder));
  const held = ({ cgroup }) => Number(fs.readFileSync(`${cgroup}/memory.current`, 'utf8'));
  const isFrozen = ({ cgroup }) => fs.readFileSync(`${cgroup}/cgroup.events`, 'utf8').includes('frozen 1');
  const [trims, parks, byHand] = all;
  await eventually('one is frozen meanwhile', () => isFrozen(parks));
  await eventually('another by hand', async () => (await park('by-hand')).parked.length === 1);
  let least = 100;
  for (let tenths = 0; tenths < 60; tenths += 1) {
    least = Math.min(least, pressure('memory', 'some'));
    assert.ok(all.every((server) => held(server) > 40 << 20), `they hold ${all.map(held).map(mebibytes)}`);
    await sleep(100);
  }
  assert.ok(least >= 20, `the machine was pressed all the while: ${least} %`);
  assert.ok(!isFrozen(trims));
  assert.ok(!(await events('to-trim')).some(({ event }) => event === 'trimmed'));
  ok(`a machine that waits for memory in ${least} % of its time gives back nothing of idle servers`);

  await shell('systemctl', ['stop', 'pressing.service']);
  await eventually('all of them give back', () => all.every((server) => held(server) < 8 << 20));
  assert.ok(!isFrozen(trims) && isFrozen(parks) && isFrozen(byHand));
  await eventually('that is told', async () => (await events('to-trim')).some(({ event }) => event === 'trimmed'));
  for (const server of all) {
    await server.call(`to ${server.session}`);
    server.child.stdin.end();
  }
  fs.writeFileSync(configuration, '');
  assert.equal((await run('reload')).status, 0);
  ok('as soon as it waits no more it does, those that were frozen meanwhile as well');
}

/** What may happen to a server, in turns of chance: parked, thawed, called and closed. */
async function take(connection, roll) {
  switch (roll(8)) {
    case 0:
    case 1:
    case 2: {
      // Calls come before it is frozen, while it is being frozen or reclaimed, when it is parked, or in another turn.
      const [calls, wait] = [roll(3), roll(2500)];
      if (calls === 0) return connection.park().then(() => 1);
      const [{ parked }] = await Promise.all([
        park(connection.name),
        sleep(wait).then(() => connection.callAtOnce(calls)),
      ]);
      return parked.length;
    }
    case 3:
      assert.equal((await run('thaw', connection.name)).status, 0);
      return 0;
    case 4:
      await connection.close();
      await connection.open();
      return 0;
    case 5:
      await connection.callAtOnce(2 + roll(5));
      return 0;
    default:
      await connection.call();
      return 0;
  }
}

/** Parked, thawed, called and closed in any order: every answer comes, and is the one to its call. */
async function cycles() {
  const seed = process.env.PINFOLD_TEST_SEED ?? String(Date.now());
  console.log(`PINFOLD_TEST_SEED=${seed}`);
  const all = await Promise.all(names.map(connected));
  let [taken, parks, answers] = [0, 0, 0];
  await Promise.all(
    all.map(async (connection, lane) => {
      // Each has dice of its own, or the seed would not tell what happens to it.
      const roll = dice(BigInt(seed) + BigInt(lane));
      for (let turn = lane; turn < turns; turn += all.length) {
        const parked = await take(connection, roll);
        parks += parked;
        connection.expectAllAnswered();
        taken += 1;
        if (taken % 50 === 0) console.log(`${taken} turns, ${parks} times parked [${elapsed()} s]`);
      }
      await connection.call();
      connection.expectAllAnswered();
      answers += connection.heard + connection.answered.length;
    }),
  );
  assert.ok(taken === turns && parks > 0);
  ok(`${turns} random turns, ${parks} times parked, ${answers} answers: none lost, wrong or out of order`);
}

const meminfo = () => {
  const text = fs.readFileSync('/proc/meminfo', 'utf8');
  const amount = (key) => Number(text.match(new RegExp(`^${key}: +(\\d+) kB`, 'm'))[1]) * 1024;
  return { used: amount('MemTotal') - amount('MemAvailable'), swap: amount('SwapTotal') - amount('SwapFree') };
};

/** Many sessions that do nothing: what the machine has of it. */
async function many() {
  const start = meminfo();
  const all = [];
  // Some at a time: they would be too slow to start, all at once.
  const starts = Array.from({ length: count }, (_, number) => names.map((kind) => [`many-${number}`, kind])).flat();
  await Promise.all(
    Array.from({ length: 4 }, async () => {
      for (let next = starts.shift(); next; next = starts.shift()) {
        const connection = await new Connection(...next).open();
        await connection.call();
        all.push(connection);
        if (all.length % 30 === 0) console.log(`${all.length} servers run [${elapsed()} s]`);
      }
    }),
  );
  const sum = () => all.reduce((total, { leaf }) => total + leaf.held, 0);
  const [awake, held] = [meminfo(), sum()];
  const order = performance.now();
  const deadline = DEADLINE + 10_000 * all.length;
  await eventually('all are parked', async () => (await park('--all')).refused.length === 0, deadline);
  const frozen = (performance.now() - order) / 1000;
  await eventually('all give back', () => all.every(({ leaf }) => leaf.isFrozen && leaf.held < PARKED_MOST), deadline);
  const took = (performance.now() - order) / 1000;
  const [end, after] = [meminfo(), sum()];
  console.log(`${all.length} idle servers | charged to them | used in the machine | in swap`);
  for (const [when, charged, { used, swap }] of [['awake', held, awake], ['parked', after, end]]) {
    console.log(`${when} | ${mebibytes(charged)} | ${mebibytes(used - start.used)} | ${mebibytes(swap - start.swap)}`);
  }
  assert.ok(after < held * 0.1, `${held} → ${after}`);
  const first = [await all[0].call(), await all.at(-1).call()];
  assert.equal((await run('end', '--all')).status, 0);
  await Promise.all(all.map((connection) => connection.close()));
  ok(`${all.length} servers that do nothing hold ${mebibytes(after)} of ${mebibytes(held)}, all of them frozen in \
${frozen.toFixed(0)} s, given back in ${took.toFixed(0)} s; two that are wanted again answer in ${first.map(milliseconds)}`);
}

/** What there is to know of a failure, before all that goes with this process. */
async function tell(error) {
  console.log(error);
  console.log((await run('ls')).stdout);
  console.log((await run('events')).stdout.split('\n').slice(-40).join('\n'));
  console.log((await shell('journalctl', ['--no-pager', '--lines=40', '--unit=pinfold.service'])).stdout);
  process.exit(1);
}

const parts = { figures, neighbour, killed, cycles, closing, ending, pressed, many };
try {
  for (const part of wanted.length ? wanted : Object.keys(parts)) await parts[part]();
  await Promise.all([...kept.values()].map((connection) => connection.close()));
  await eventually('no session is left', async () => (await sessions()).length === 0);
} catch (error) {
  await tell(error);
}
console.log(`${passed} passed`);
process.exit(0);
