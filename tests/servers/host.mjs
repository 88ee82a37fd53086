// A host: the process that owns MCP clients, as an agent's gateway does. Nothing here knows of pinfold; what it launches
// is given to it. It is a process of its own so that it can be killed, and so that it is somebody's parent.
//
// Run as itself it takes orders from the test, a line of JSON each, on descriptor 3; imported, it gives the test `Host` to
// order with. Hosts of another kind, or in another language, take the same orders.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { DEADLINE, within } from './deadline.mjs';

const here = fileURLToPath(import.meta.url);

/** The test's side. */
export class Host {
  #child;
  #orders = 0;
  #waiting = new Map();
  #exited;

  constructor({ command = process.execPath, args = [here], env = {} } = {}) {
    const stdio = ['ignore', 'inherit', 'inherit', 'pipe'];
    this.#child = spawn(command, args, { stdio, env: { ...process.env, ...env } });
    this.#exited = once(this.#child, 'exit');
    // An order to a host that is gone fails by the exit below.
    this.#channel.on('error', () => {});
    readline.createInterface({ input: this.#channel }).on('line', (line) => {
      const { order, answer, failure } = JSON.parse(line);
      const { resolve, reject } = this.#waiting.get(order);
      this.#waiting.delete(order);
      if (failure) reject(new Error(failure));
      else resolve(answer);
    });
    this.#child.on('exit', () => {
      for (const { what, reject } of this.#waiting.values()) reject(new Error(`the host was gone before: ${what}`));
    });
  }

  get #channel() {
    return this.#child.stdio[3];
  }

  get pid() {
    return this.#child.pid;
  }

  #order(what, connection, details) {
    const order = ++this.#orders;
    const answered = new Promise((resolve, reject) => {
      this.#waiting.set(order, { what, resolve, reject });
      this.#channel.write(`${JSON.stringify({ order, what, connection, details })}\n`);
    });
    return within(DEADLINE, `${what} (${connection})`, answered);
  }

  /** Launches a server and initializes it. Gives the direct child's pid and who the server says it is. */
  connect(connection, launch) {
    return this.#order('connect', connection, launch);
  }

  /** The names of the server's tools. */
  listTools(connection) {
    return this.#order('listTools', connection);
  }

  /** The text of a tool's result. */
  callTool(connection, call) {
    return this.#order('callTool', connection, call);
  }

  /** From here on the server's stdin stays open whatever happens to the direct child. See `holdStdin` below. */
  holdStdin(connection) {
    return this.#order('holdStdin', connection);
  }

  signal(connection, signal) {
    return this.#order('signal', connection, signal);
  }

  close(connection) {
    return this.#order('close', connection);
  }

  /** Resolves when the host has seen the server's connection end. */
  closed(connection) {
    return this.#order('closed', connection);
  }

  /** What the server wrote on stderr, and what on stdout was no MCP message. */
  heard(connection) {
    return this.#order('heard', connection);
  }

  async kill() {
    this.#child.kill('SIGKILL');
    await this.#exited;
  }
}

/** The host's side: one of these for each connection. */
export class Connection {
  stderr = '';
  errors = [];

  constructor(launch) {
    this.transport = this.transportFor(launch);
    this.transport.stderr.on('data', (chunk) => (this.stderr += chunk));
    this.client = new Client({ name: 'pinfold-ring', version: '1.0.0' });
    this.client.onerror = (error) => this.errors.push(error.message);
    this.ended = new Promise((resolve) => (this.client.onclose = resolve));
  }

  /** How this kind of host starts a server, and how it ends one. */
  transportFor(launch) {
    return new StdioClientTransport({ ...launch, stderr: 'pipe' });
  }

  async connect() {
    const spawned = this.client.connect(this.transport);
    // The SDK forgets its child when a close begins. The pid stays worth knowing, and the handle `holdStdin` needs.
    this.child = this.transport._process;
    try {
      await spawned;
    } catch (error) {
      throw new Error(`${error.message}\n${this.stderr}`, { cause: error });
    }
    return { pid: this.transport.pid, server: this.client.getServerVersion() };
  }

  async listTools() {
    return (await this.client.listTools()).tools.map(({ name }) => name);
  }

  async callTool(call) {
    const { content, isError } = await this.client.callTool(call);
    const text = content.map((part) => part.text ?? '').join('\n');
    if (isError) throw new Error(text);
    return text;
  }

  // Node closes a child's stdin the moment that child exits. Hosts in other languages do not, nor is it closed for a
  // server whose stdin somebody else holds as well, and then what the direct child leaves behind never sees an end.
  holdStdin() {
    this.child.stdin.destroy = () => this.child.stdin;
  }

  signal(signal) {
    process.kill(this.child.pid, signal);
  }

  async close() {
    await this.client.close();
  }

  async closed() {
    await this.ended;
  }

  heard() {
    return { stderr: this.stderr, errors: this.errors };
  }
}

/** Does what the test orders until the test is gone. */
export function serveOrders(Kind) {
  const channel = new net.Socket({ fd: 3 });
  const connections = new Map();
  readline.createInterface({ input: channel }).on('line', async (line) => {
    const { order, what, connection, details } = JSON.parse(line);
    const reply = (outcome) => channel.write(`${JSON.stringify({ order, ...outcome })}\n`);
    try {
      if (what === 'connect') connections.set(connection, new Kind(details));
      const answer = await connections.get(connection)[what](details);
      reply({ answer: answer ?? null });
    } catch (error) {
      reply({ failure: error.message });
    }
  });
  channel.on('close', () => process.exit());
}

if (process.argv[1] === here) serveOrders(Connection);
