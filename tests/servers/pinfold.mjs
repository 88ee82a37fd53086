// The pinfold under test: one daemon for a whole ring, in a cgroup subtree that the ring makes and removes.

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { DEADLINE, eventually, within } from './deadline.mjs';
import { cgroupsBelow, identify, processesIn, removeCgroup, unifiedMount } from './kernel.mjs';

const repository = fileURLToPath(new URL('../..', import.meta.url));

/** The program to test: what `PINFOLD` says, else the newest one built. */
function program() {
  if (process.env.PINFOLD) return path.resolve(process.env.PINFOLD);
  const target = path.resolve(repository, process.env.CARGO_TARGET_DIR ?? 'target');
  const built = ['debug', 'release']
    .map((profile) => path.join(target, profile, 'pinfold'))
    .filter((file) => fs.existsSync(file))
    .sort((one, other) => fs.statSync(other).mtimeMs - fs.statSync(one).mtimeMs);
  if (built.length === 0) throw new Error(`no pinfold in ${target}: build it, or name it by PINFOLD`);
  return built[0];
}

export class Pinfold {
  /** Makes the subtree, starts the daemon with this text as its configuration, and waits until it answers. */
  static async start(configuration = '') {
    if (process.getuid() !== 0) throw new Error('this ring makes cgroups: run it as root');
    const pinfold = new Pinfold();
    fs.mkdirSync(pinfold.root);
    fs.writeFileSync(pinfold.configuration, configuration);
    // A run that is broken off leaves no daemon behind.
    process.on('exit', () => pinfold.daemon?.kill('SIGKILL'));
    await pinfold.#serve();
    return pinfold;
  }

  async #serve() {
    const log = fs.openSync(this.log, 'a');
    const where = ['--config', this.configuration, '--socket', this.socket, '--root', this.root];
    this.daemon = spawn(this.program, ['serve', '--backend', 'cgroupfs', ...where], { stdio: ['ignore', log, log] });
    this.exited = once(this.daemon, 'exit');
    fs.closeSync(log);
    const state = await eventually(DEADLINE, 'the daemon answers', async () => {
      if (this.daemon.exitCode !== null || this.daemon.signalCode !== null) return 'gone';
      return (await this.ls()) && 'answering';
    });
    if (state === 'gone') {
      const said = this.logged();
      await this.clear();
      throw new Error(`the daemon left at once: ${said}`);
    }
  }

  /** Stops the daemon and starts another one, which adopts what lives; in between, `meanwhile`. */
  async restart(meanwhile = async () => {}) {
    this.daemon.kill('SIGTERM');
    await within(DEADLINE, 'the daemon stops', this.exited);
    await meanwhile();
    await this.#serve();
  }

  constructor() {
    this.program = program();
    this.directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pinfold-servers-'));
    this.socket = path.join(this.directory, 'pinfold.sock');
    this.log = path.join(this.directory, 'daemon.log');
    this.configuration = path.join(this.directory, 'pinfold.toml');
    this.root = path.join(unifiedMount(), `pinfold-servers-${process.pid}`);
  }

  get #environment() {
    return { ...process.env, PINFOLD_SOCKET: this.socket };
  }

  /** The same launch with pinfold in front: all that changes in a host's configuration. Without a session, pinfold finds it. */
  inFrontOf({ command, args, env, ...rest }, session, options = []) {
    return {
      command: this.program,
      args: ['run', ...(session ? ['--session', session] : []), ...options, '--', command, ...args],
      env: { ...env, PINFOLD_SOCKET: this.socket },
      ...rest,
    };
  }

  async #tell(...args) {
    const options = { env: this.#environment, timeout: DEADLINE };
    return promisify(execFile)(this.program, args, options);
  }

  async ls() {
    return JSON.parse((await this.#tell('ls', '--json')).stdout);
  }

  async session(id) {
    return (await this.ls()).find((session) => session.id === id);
  }

  /** What ended of the session, and why. */
  async history(session) {
    return JSON.parse((await this.#tell('history', '--json', '--session', session)).stdout);
  }

  async end(...args) {
    return (await this.#tell('end', ...args)).stdout;
  }

  logged() {
    return fs.readFileSync(this.log, 'utf8');
  }

  /** Stops the daemon, which has no sessions left, and insists that it leaves the subtree as it found it. */
  async stop() {
    const own = identify(this.daemon.pid);
    this.daemon.kill('SIGTERM');
    await within(DEADLINE, 'the daemon stops', this.exited);
    const left = processesIn(this.root).filter(({ pid }) => pid !== own?.pid);
    const cgroups = cgroupsBelow(this.root).filter((directory) => directory !== this.root);
    return { processes: left, cgroups };
  }

  /** Removes what the ring made, and whatever a failed test left in it. */
  async clear() {
    this.daemon?.kill('SIGKILL');
    await eventually(DEADLINE, `${this.root} is removed`, () => removeCgroup(this.root));
    fs.rmSync(this.directory, { recursive: true });
  }
}
