// The real OpenClaw from npm, its gateway led through the same day twice: as it is, and with pinfold. What is left after each
// phase stands side by side in the end.
//
// All of it, with everything it needs:  tests/run openclaw-all
// Only the days with pinfold:           tests/run openclaw
// Only one version, once that has run:  PINFOLD_OPENCLAW=2026.9.6 node --test ring.test.mjs
// PINFOLD names the program to test; else it is the newest in target/. The node that runs this runs the gateway as well.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { after, before, test } from 'node:test';
import { DEADLINE, eventually } from '../servers/deadline.mjs';
import { cgroupsBelow, cgroupsOf, identify, isAlive, processesIn } from '../servers/kernel.mjs';
import { Pinfold } from '../servers/pinfold.mjs';
import { day, table } from './day.mjs';
import { configurationIn, Gateway, homeOf, mannersOf } from './gateway.mjs';
import { Model } from './model.mjs';

/** What is over is gone within this: OpenClaw's own disposal of what it still uses comes first. */
const ENDS = 120_000;

const versions = (process.env.PINFOLD_OPENCLAW ?? '2026.4.15 2026.9.6').split(/[ ,]+/);

let model;
before(async () => (model = await Model.start()));
after(() => model.stop());

/** What runs of a gateway's servers: by session, by server, each process. Read from the processes themselves. */
function living(gateway) {
  const found = {};
  for (const it of gateway.started().servers) {
    const session = /^agent:main:(.*)#/.exec(it.session ?? '')?.[1] ?? 'without a session';
    ((found[session] ??= {})[it.server] ??= []).push(it);
  }
  return found;
}

const numbers = (processes) => processes.map(({ pid, started }) => `${pid}@${started}`).sort();

/** What pinfold must hold of a gateway, whatever it says itself. */
class Promised {
  #before = {};
  #gateway;
  #pinfold;
  #bystander;

  constructor(gateway, pinfold, unnamed) {
    this.#gateway = gateway;
    this.#pinfold = pinfold;
    this.#bystander = unnamed;
  }

  /** Just these sessions live, each with all servers of the configuration, and those that lived before are untouched. */
  expect = async (alive, { name }) => {
    const found = await eventually(ENDS, `${name}: what lives is of [${alive}]`, () => this.#asPromised(alive));
    for (const session of alive.filter((session) => this.#before[session])) {
      for (const [server, processes] of Object.entries(found[session])) {
        const were = this.#before[session][server];
        if (were) assert.deepEqual(numbers(processes), numbers(were), `${name}: ${session} keeps its ${server}`);
      }
    }
    this.#before = found;
    if (alive.length > 0) await this.#stillAnswers(alive.at(-1), name);
  };

  #asPromised(alive) {
    const gateway = this.#gateway;
    const found = living(gateway);
    assert.deepEqual(Object.keys(found).sort(), [...alive].sort());
    for (const session of alive) {
      assert.deepEqual(Object.keys(found[session]).sort(), Object.keys(gateway.servers).sort(), `the servers of ${session}`);
      for (const [server, processes] of Object.entries(found[session])) this.#standsInOneLeaf(session, server, processes);
    }
    if (alive.length === 0) {
      assert.deepEqual(gateway.started().all, [], 'nor is a helper of the gateway left');
      assert.deepEqual(this.#leaves(), [], 'nor a cgroup');
    }
    return found;
  }

  /** The kernel's word: a leaf below pinfold's root holds the server, its whole tree and whoever left it, and nothing else. */
  #standsInOneLeaf(session, server, processes) {
    const [leaf, ...others] = new Set(processes.map(({ pid }) => cgroupsOf(pid)?.get('')));
    assert.deepEqual(others, [], `${session}/${server} is in one place`);
    assert.ok(leaf?.startsWith(`${this.#pinfold.root}/`), `${session}/${server} is in a leaf, not in ${leaf}`);
    assert.deepEqual(numbers(processesIn(leaf)), numbers(processes), `${leaf} holds ${session}/${server}`);
  }

  /** The cgroups below the root, but those that the daemon and the bystander stand in. */
  #leaves() {
    const others = [this.#pinfold.daemon.pid, this.#bystander.pid];
    const holdsOthers = (directory) => processesIn(directory).some(({ pid }) => others.includes(pid));
    return cgroupsBelow(this.#pinfold.root).filter((each) => each !== this.#pinfold.root && !holdsOthers(each));
  }

  async #stillAnswers(session, name) {
    const were = numbers(Object.values(this.#before[session]).flat());
    await this.#gateway.turn(session);
    const are = numbers(Object.values(living(this.#gateway)[session]).flat());
    assert.deepEqual(are, were, `${name}: ${session} was answered by the servers that it had`);
  }
}

/** A server that no host has named a session for: no event of any session is about it. */
async function bystander(pinfold) {
  const launch = ['run', '--host', 'openclaw', '--server', 'filesystem', '--', 'sh', '-c', 'echo up; exec cat'];
  const env = { PATH: process.env.PATH, PINFOLD_SOCKET: pinfold.socket };
  const child = spawn(pinfold.program, launch, { env, stdio: ['pipe', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  return { child, ...identify(child.pid) };
}

/** The day as it is without pinfold. Something is left in the end, or there were no trouble to end. */
async function bareDay(version) {
  const gateway = await Gateway.start({ version, model });
  try {
    const measured = await day(gateway);
    for (const { phase, processes } of measured.slice(-2)) assert.ok(processes > 0, phase);
    return measured;
  } finally {
    await gateway.clear();
  }
}

/** The day with pinfold in front of each server and its plug-in in the gateway, with all that it promises. */
async function containedDay(version) {
  const home = homeOf();
  const pinfold = await Pinfold.start(`[[host]]\nname = 'openclaw'\nfiles = ['${configurationIn(home)}']\n`);
  let gateway;
  try {
    const wrap = (name, { command, args, env, ...rest }) => ({
      command: pinfold.program,
      args: ['run', '--host', 'openclaw', '--server', name, '--', command, ...args],
      env: { ...env, PINFOLD_SOCKET: pinfold.socket },
      ...rest,
    });
    gateway = await Gateway.start({ version, model, home, wrap, plugin: { socket: pinfold.socket } });
    const unnamed = await bystander(pinfold);
    const measured = await day(gateway, new Promised(gateway, pinfold, unnamed).expect);

    assert.ok(isAlive(unnamed), 'a server without a session outlives the ends of all sessions');
    unnamed.child.stdin.end();
    await eventually(DEADLINE, 'and ends with its stdin', async () => (await pinfold.ls()).length === 0);
    assert.deepEqual(await pinfold.stop(), { processes: [], cgroups: [] }, 'the daemon leaves its subtree as it found it');
    return measured;
  } catch (error) {
    console.error(`${pinfold.logged().slice(-8000)}\n${gateway?.logged().slice(-8000)}`);
    throw error;
  } finally {
    await gateway?.clear();
    await pinfold.clear();
  }
}

for (const version of versions) {
  let bare;
  if (process.env.PINFOLD_OPENCLAW_DAYS !== 'contained') {
    test(`OpenClaw ${version}: without pinfold, what is over stays`, async () => {
      bare = await bareDay(version);
    });
  }
  test(`OpenClaw ${version}: with pinfold nothing is left of what is over, and what lives is untouched`, async (t) => {
    const contained = await containedDay(version);
    for (const line of table(version, bare, contained)) t.diagnostic(line);
    for (const manner of Object.values(mannersOf(version))) t.diagnostic(`${version} ${manner}`);
  });
}
