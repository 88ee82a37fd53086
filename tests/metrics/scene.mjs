// What the tests of this ring are played in: a pinfold of their own, servers that a host would launch, and a cgroup outside
// of it that one can escape to. It leaves nothing behind.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { DEADLINE, eventually } from '../servers/deadline.mjs';
import { identify, killEach, removeCgroup, unifiedMount } from '../servers/kernel.mjs';
import { Pinfold } from '../servers/pinfold.mjs';

export class Scene {
  constructor(name) {
    this.name = name;
    this.launched = [];
    this.elsewhere = path.join(unifiedMount(), `pinfold-${name}-elsewhere-${process.pid}`);
  }

  /** Starts its pinfold, with this as its configuration. */
  async start(configuration) {
    this.scratch = fs.mkdtempSync(path.join(os.tmpdir(), `pinfold-${this.name}-`));
    this.pinfold = await Pinfold.start(configuration);
    return this.pinfold;
  }

  /** Launches a server in a session, as a host does, and holds its stdin. */
  launch(session, server, command, { host = 'codex', options = [], env = {}, cwd } = {}) {
    const args = ['run', '--session', session, '--server', server, '--host', host, ...options, '--', ...command];
    const child = spawn(this.pinfold.program, args, {
      cwd,
      env: { ...process.env, ...env, PINFOLD_SOCKET: this.pinfold.socket },
      stdio: ['pipe', 'ignore', 'pipe'],
    });
    child.stdin.on('error', () => {});
    child.said = '';
    child.stderr.on('data', (data) => (child.said += data));
    child.ended = once(child, 'exit');
    this.launched.push(identify(child.pid));
    return child;
  }

  /** The server as pinfold lists it, once it runs. */
  async running(session, server) {
    return eventually(DEADLINE, `${server} runs in ${session}`, async () =>
      (await this.pinfold.session(session))?.servers.find(({ name, state }) => name === server && state === 'running'),
    );
  }

  /** Moves a process out of its leaf. */
  escape(pid) {
    fs.mkdirSync(this.elsewhere);
    fs.writeFileSync(path.join(this.elsewhere, 'cgroup.procs'), `${pid}`);
  }

  /** Ends all of it, after this other program that looked at it, and sees that the daemon left nothing. */
  async clear(other) {
    try {
      killEach(this.launched.filter(Boolean));
      await other?.stop();
      if (this.pinfold) {
        await this.pinfold.end('--all', '--now');
        const left = await this.pinfold.stop();
        assert.deepEqual(left, { processes: [], cgroups: [] }, 'the daemon leaves its subtree as it found it');
      }
    } catch (error) {
      if (this.pinfold) console.error(this.pinfold.logged());
      throw error;
    } finally {
      await this.pinfold?.clear();
      await eventually(DEADLINE, `${this.elsewhere} is removed`, () => removeCgroup(this.elsewhere));
      if (this.scratch) fs.rmSync(this.scratch, { recursive: true });
    }
  }
}
