// The host of parked servers: the official client, the servers it launches through pinfold, and what the kernel and pinfold
// tell of them. park.mjs uses it in the guest.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';

export const pinfold = process.env.PINFOLD;
export const DEADLINE = 240_000;
/** What a parked server holds at most. */
export const PARKED_MOST = 4 << 20;
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'park-'));

const module = (name) => path.resolve('node_modules/@modelcontextprotocol', name, 'dist/index.js');
/**
 * Each with a call whose answer tells that it is the answer to this call. Some answer in the order of the calls; and one
 * takes one call at a time, because what it writes down for a call it reads for the next.
 */
export const kinds = {
  everything: {
    command: [process.execPath, module('server-everything')],
    call: (mark) => ({ name: 'echo', arguments: { message: mark } }),
    inOrder: true,
  },
  filesystem: {
    command: [process.execPath, module('server-filesystem'), scratch],
    call: (mark) => {
      fs.writeFileSync(path.join(scratch, mark), mark);
      return { name: 'read_text_file', arguments: { path: path.join(scratch, mark) } };
    },
  },
  memory: {
    oneByOne: true,
    command: [process.execPath, module('server-memory')],
    call: (mark) => ({
      name: 'create_entities',
      arguments: { entities: [{ name: mark, entityType: 'mark', observations: [mark] }] },
    }),
  },
};

/** Runs pinfold beside all that goes on here, and gives how it ended. */
export function run(...args) {
  return new Promise((resolve) => {
    execFile(pinfold, args, { encoding: 'utf8', timeout: DEADLINE, maxBuffer: 64 << 20 }, (error, stdout, stderr) =>
      resolve({ status: error ? (error.code ?? error.signal) : 0, stdout, stderr }),
    );
  });
}

async function json(...args) {
  const { status, stdout, stderr } = await run(...args, '--json');
  assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
  return JSON.parse(stdout);
}

export const shell = promisify(execFile);
export const sessions = () => json('ls');
export const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
export const milliseconds = (value) => `${value.toFixed(1)} ms`;
export const pressure = (file, kind) =>
  Number(fs.readFileSync(`/proc/pressure/${file}`, 'utf8').match(new RegExp(`^${kind} avg10=([\\d.]+)`, 'm'))[1]);

export const within = (what, promise) => {
  const late = new AbortController();
  const deadline = sleep(DEADLINE, null, { signal: late.signal }).then(() => assert.fail(`not in time: ${what}`));
  deadline.catch(() => {});
  return Promise.race([promise, deadline]).finally(() => late.abort());
};

export async function eventually(what, condition, deadline = DEADLINE) {
  const until = performance.now() + deadline;
  while (performance.now() < until) {
    const last = await condition();
    if (last) return last;
    await sleep(100);
  }
  assert.fail(`not in time: ${what}`);
}

/** What happened in a session, in its order. */
export async function events(session) {
  const { stdout } = await run('events', '--json', '--session', session);
  return stdout.split('\n').filter(Boolean).map((line) => JSON.parse(line));
}

/** The leaf of one server, as the kernel shows it. */
class Leaf {
  constructor(directory) {
    this.directory = directory;
  }

  read(file) {
    return fs.readFileSync(path.join(this.directory, file), 'utf8').trim();
  }

  get held() {
    return Number(this.read('memory.current'));
  }

  get swapped() {
    return Number(this.read('memory.swap.current'));
  }

  get swapLimit() {
    return this.read('memory.swap.max');
  }

  get isFrozen() {
    return this.read('cgroup.events').includes('frozen 1');
  }

  get isGone() {
    return !fs.existsSync(this.directory);
  }

  /** Pages that had to be fetched from a disk when they were touched. */
  get majorFaults() {
    return Number(this.read('memory.stat').match(/^pgmajfault (\d+)/m)[1]);
  }
}

/** No two calls have the same mark, also not those of a server that was launched again. */
let calls = 0;

/** One MCP connection as a host has it. What was sent and what was answered is kept, and compared when it is closed. */
export class Connection {
  constructor(session, kind) {
    Object.assign(this, { session, kind, heard: 0 });
  }

  async open() {
    Object.assign(this, { asked: [], answered: [], garbled: [] });
    const args = ['run', '--session', this.session, '--server', this.kind, '--', ...kinds[this.kind].command];
    this.transport = new StdioClientTransport({
      command: pinfold,
      args,
      env: { HOME: scratch, PATH: process.env.PATH, MEMORY_FILE_PATH: path.join(scratch, `${this.session}.json`) },
      stderr: 'ignore',
    });
    this.client = new Client({ name: 'park', version: '1' });
    this.client.onerror = (error) => this.garbled.push(error.message);
    await within(`${this.kind} starts`, this.client.connect(this.transport, { timeout: DEADLINE }));
    this.process = this.transport._process;
    this.listen();
    const server = await this.shown();
    this.leaf = new Leaf(server.cgroup);
    return this;
  }

  /** Keeps the numbers of the requests and of the answers, in the order in which they go through the pipes. */
  listen() {
    const { transport } = this;
    const [send, deliver] = [transport.send.bind(transport), transport.onmessage];
    transport.send = (message, ...more) => {
      if (message.method && message.id !== undefined) this.asked.push(message.id);
      return send(message, ...more);
    };
    transport.onmessage = (message, ...more) => {
      if (!message.method) this.answered.push(message.id);
      deliver(message, ...more);
    };
  }

  /** As pinfold's commands call its server. */
  get name() {
    return `${this.session}/${this.kind}`;
  }

  /** What happened to its server, in its order. */
  async events() {
    return (await events(this.session)).filter(({ server }) => server === this.kind);
  }

  /** As pinfold shows its server. */
  async shown() {
    const session = (await sessions()).find(({ id }) => id === this.session);
    return session.servers.find(({ name }) => name === this.kind);
  }

  /** Calls its tool, and gives how long the right answer took, in milliseconds. */
  async call() {
    const mark = `${this.session}-${this.kind}-${++calls}`.replaceAll('/', '-');
    const request = kinds[this.kind].call(mark);
    const began = performance.now();
    const result = await within(`${mark} is answered`, this.client.callTool(request, undefined, { timeout: DEADLINE }));
    const took = performance.now() - began;
    const text = result.content.map((part) => part.text ?? '').join('');
    assert.ok(text.includes(mark), `${mark}: ${text}`);
    return took;
  }

  /** Writes several requests at once, all of which are in the pipe before any is answered. */
  callAtOnce(count) {
    return Promise.all(Array.from({ length: kinds[this.kind].oneByOne ? 1 : count }, () => this.call()));
  }

  /** Parks it as soon as it has done what it was doing, and waits until its memory is given back. */
  async park() {
    let last;
    await eventually(`${this.name} is parked`, async () => {
      last = await park(this.name);
      return last.parked.length === 1;
    }).catch((error) => assert.fail(`${error.message}: ${JSON.stringify(last)}`));
    assert.ok(this.leaf.isFrozen);
    // Who was parked before may have had the disk busy.
    await eventually(`${this.name} gives its memory back`, () => this.leaf.held < PARKED_MOST);
  }

  /** What this connection heard is whole. */
  expectAllAnswered() {
    assert.deepEqual(this.garbled, [], `${this.name}: what it heard`);
    const { asked, answered } = this;
    const inOrder = kinds[this.kind].inOrder ? answered : [...answered].sort((one, other) => one - other);
    assert.deepEqual(inOrder, asked, `${this.name}: each request has its one answer`);
  }

  /** Closes it as the SDK does, and gives by what signal its server died: none, where it left by itself. */
  async close() {
    await within('it is closed', this.client.close());
    this.expectAllAnswered();
    this.heard += this.answered.length;
    await eventually('its process is gone', () => this.process.exitCode !== null || this.process.signalCode !== null);
    return this.process.signalCode;
  }
}

/** What of a session was parked and what was not, at one order. */
export async function park(...wish) {
  const { stdout, stderr } = await run('park', ...wish, '--json');
  assert.ok(stdout, stderr);
  const { parked, refused } = JSON.parse(stdout);
  return { parked, refused };
}

/** Splitmix64, so that a seed tells a whole run. */
export function dice(seed) {
  let state = BigInt(seed);
  return (most) => {
    state = (state + 0x9e3779b97f4a7c15n) & 0xffffffffffffffffn;
    let mixed = state;
    mixed = ((mixed ^ (mixed >> 30n)) * 0xbf58476d1ce4e5b9n) & 0xffffffffffffffffn;
    mixed = ((mixed ^ (mixed >> 27n)) * 0x94d049bb133111ebn) & 0xffffffffffffffffn;
    return Number((mixed ^ (mixed >> 31n)) % BigInt(most));
  };
}
