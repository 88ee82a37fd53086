// A host: the process that owns MCP clients, as an agent's gateway does. Nothing here knows of pinfold; what it launches
// is given to it. It is a process of its own so that it can be killed, and so that it is somebody's parent.
//
// Run as itself it takes orders from the test over Node's own channel; imported, it gives the test `Host` to order with.

import { fork } from 'node:child_process';
import { once } from 'node:events';
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

  constructor() {
    this.#child = fork(here, [], { stdio: 'inherit' });
    this.#exited = once(this.#child, 'exit');
    this.#child.on('message', ({ order, answer, failure }) => {
      const { resolve, reject } = this.#waiting.get(order);
      this.#waiting.delete(order);
      if (failure) reject(new Error(failure));
      else resolve(answer);
    });
    this.#child.on('exit', () => {
      for (const { what, reject } of this.#waiting.values()) reject(new Error(`the host was gone before: ${what}`));
    });
  }

  get pid() {
    return this.#child.pid;
  }

  #order(what, connection, details) {
    const order = ++this.#orders;
    const answered = new Promise((resolve, reject) => {
      this.#waiting.set(order, { what, resolve, reject });
      this.#child.send({ order, what, connection, details });
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
class Connection {
  stderr = '';
  errors = [];

  constructor(launch) {
    this.transport = new StdioClientTransport({ ...launch, stderr: 'pipe' });
    this.transport.stderr.on('data', (chunk) => (this.stderr += chunk));
    this.client = new Client({ name: 'pinfold-ring', version: '1.0.0' });
    this.client.onerror = (error) => this.errors.push(error.message);
    this.ended = new Promise((resolve) => (this.client.onclose = resolve));
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

if (process.argv[1] === here) {
  const connections = new Map();
  process.on('message', async ({ order, what, connection, details }) => {
    try {
      if (what === 'connect') connections.set(connection, new Connection(details));
      const answer = await connections.get(connection)[what](details);
      process.send({ order, answer: answer ?? null });
    } catch (error) {
      process.send({ order, failure: error.message });
    }
  });
  process.on('disconnect', () => process.exit());
}
