// A host with the launch shape of Claude Code's kind: its server is started through a shell in a process group of its own,
// with the host's whole environment and stderr in a pipe, and is ended by signals to that process group.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { ReadBuffer, serializeMessage } from '@modelcontextprotocol/sdk/shared/stdio.js';
import { Connection, serveOrders } from './host.mjs';

const quoted = (word) => `'${word.replaceAll("'", `'\\''`)}'`;

class GroupTransport {
  #read = new ReadBuffer();

  constructor(launch) {
    const line = [launch.command, ...launch.args].map(quoted).join(' ');
    const env = { ...process.env, ...launch.env };
    this._process = spawn('sh', ['-c', line], { cwd: launch.cwd, env, detached: true, stdio: 'pipe' });
    this.exited = once(this._process, 'exit');
    this.stderr = this._process.stderr;
  }

  get pid() {
    return this._process.pid;
  }

  async start() {
    this._process.on('error', (error) => this.onerror?.(error));
    this._process.stdin.on('error', (error) => this.onerror?.(error));
    this._process.on('close', () => this.onclose?.());
    this._process.stdout.on('data', (chunk) => {
      this.#read.append(chunk);
      for (let message = this.#next(); message !== null; message = this.#next()) this.onmessage?.(message);
    });
  }

  #next() {
    try {
      return this.#read.readMessage();
    } catch (error) {
      this.onerror?.(error);
      return null;
    }
  }

  async send(message) {
    this._process.stdin.write(serializeMessage(message));
  }

  async close() {
    for (const signal of ['SIGTERM', 'SIGKILL']) {
      try {
        process.kill(-this.pid, signal);
      } catch (error) {
        if (error.code !== 'ESRCH') throw error;
      }
      await Promise.race([this.exited, pause(2_000, undefined, { ref: false })]);
    }
  }
}

serveOrders(
  class extends Connection {
    transportFor(launch) {
      return new GroupTransport(launch);
    }
  },
);
