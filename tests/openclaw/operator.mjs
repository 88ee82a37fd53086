// One connection to a gateway that stays, by the client that its own version brings: to start a program for each order, as its
// command line does, takes longer than what is ordered.
//
// Run as itself it passes orders on that come over Node's own channel; imported, it gives `Operator` to order with. It is a
// process of its own because two versions in one would share what they keep in the global object.

import { fork } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { eventually, within } from '../servers/deadline.mjs';

const here = fileURLToPath(import.meta.url);

/** The test's side. */
export class Operator {
  #child;
  #orders = 0;
  #waiting = new Map();

  /** `program` is the version's directory, and `environment` the gateway's own. */
  constructor({ program, environment, url, token }) {
    this.#child = fork(here, [program, url, token], { env: environment, stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    this.#child.on('message', ({ order, answer, failure }) => {
      const { resolve, reject } = this.#waiting.get(order);
      this.#waiting.delete(order);
      if (failure) reject(new Error(failure));
      else resolve(answer);
    });
    this.#child.on('exit', () => {
      for (const { method, reject } of this.#waiting.values()) reject(new Error(`the operator was gone before: ${method}`));
    });
    process.once('exit', () => this.#child.kill('SIGKILL'));
  }

  call(method, params, deadline) {
    const order = ++this.#orders;
    const answered = new Promise((resolve, reject) => {
      this.#waiting.set(order, { method, resolve, reject });
      this.#child.send({ order, method, params, deadline });
    });
    return within(deadline + 5_000, `the gateway answers ${method}`, answered);
  }

  stop() {
    this.#child.kill('SIGKILL');
  }
}

if (process.argv[1] === here) {
  const [, , program, url, token] = process.argv;
  const { GatewayClient } = await import(pathToFileURL(path.join(program, 'dist', 'plugin-sdk', 'gateway-runtime.js')));
  let connected = false;
  const client = new GatewayClient({
    url,
    token,
    clientName: 'cli',
    mode: 'cli',
    role: 'operator',
    scopes: ['operator.admin', 'operator.read', 'operator.write', 'operator.approvals', 'operator.pairing'],
    onHelloOk: () => (connected = true),
    onClose: () => (connected = false),
    // It tries again by itself, for as long as a gateway starts.
    onConnectError: () => {},
  });
  client.start();
  process.on('message', async ({ order, method, params, deadline }) => {
    try {
      await eventually(deadline, 'the gateway lets the operator in', () => connected);
      const answer = await client.request(method, params, { expectFinal: method === 'agent', timeoutMs: deadline });
      process.send({ order, answer: answer ?? null });
    } catch (error) {
      process.send({ order, failure: error.message });
    }
  });
  process.on('disconnect', () => process.exit());
}
