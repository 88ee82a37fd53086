// A real OpenClaw gateway from npm: offline, with a state directory of its own, a model that the ring brings, and four MCP
// servers as its users have them. What it starts carries a mark in its environment, and is found by that.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { eventually, within } from '../servers/deadline.mjs';
import { identify, isAlive, killEach } from '../servers/kernel.mjs';
import { Operator } from './operator.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const cache = path.join(here, '..', '.cache');
const pluginDirectory = path.join(here, '..', '..', 'deploy', 'openclaw');
const npmServers = path.join(here, '..', 'servers');

/** A gateway starts, and four servers are installed and asked, within this on a machine that builds something meanwhile. */
export const PATIENCE = 240_000;

const MARK = 'PINFOLD_RING';
const SERVER_MARK = 'PINFOLD_RING_SERVER';

export const homeOf = () => fs.mkdtempSync(path.join(os.tmpdir(), 'pinfold-openclaw-'));
export const configurationIn = (home) => path.join(home, 'openclaw.json');

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  return port;
}

const npx = (name, ...args) => ({ command: 'npx', args: ['-y', `@modelcontextprotocol/server-${name}`, ...args] });

/** The servers by the name of their entry, and a call of each with what its answer must say. */
export const serversIn = (scratch) => ({
  filesystem: npx('filesystem', scratch),
  everything: npx('everything'),
  memory: npx('memory'),
  escapee: { command: process.execPath, args: [path.join(here, 'escapee.mjs')] },
});

export const callsIn = (scratch) => ({
  filesystem: [`call filesystem__list_directory ${JSON.stringify({ path: scratch })}`, /\[FILE\] hay\.txt/],
  everything: ['call everything__echo {"message":"is anybody in?"}', /is anybody in\?/],
  memory: ['call memory__read_graph {}', /"entities"/],
  escapee: ['call escapee__where {}', /escapee \d+ and \d+/],
});

/** The environment of a process, or nothing once it is gone or when it is not ours to read. */
function environmentOf(pid) {
  try {
    const words = fs.readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
    return Object.fromEntries(words.map((word) => [word.split('=', 1)[0], word.slice(word.indexOf('=') + 1)]));
  } catch {
    return {};
  }
}

/** Resident and proportional memory of a process, in kB. */
function memoryOf({ pid }) {
  try {
    const text = fs.readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
    const read = (name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0);
    return { rss: read('Rss'), pss: read('Pss') };
  } catch {
    return { rss: 0, pss: 0 };
  }
}

/** What a version does that a day has to make allowance for, in words. */
export const mannersOf = (version) =>
  version.startsWith('2026.4.')
    ? {
        beginsAnew: 'begins anew in its own process when a server leaves the configuration: all end, and turns launch others',
      }
    : {
        retiresWhatWasReset: 'ends the servers of a session that was once reset after each of its turns, also without pinfold',
      };

export class Gateway {
  /** `wrap` puts something in front of a server's command; `plugin` is the configuration of pinfold's plug-in, if it is used. */
  static async start({ version, model, home = homeOf(), wrap = (_name, entry) => entry, plugin }) {
    const gateway = new Gateway();
    gateway.version = version;
    gateway.manners = mannersOf(version);
    gateway.wrap = wrap;
    gateway.home = home;
    gateway.model = model;
    gateway.mark = path.basename(gateway.home);
    gateway.scratch = path.join(gateway.home, 'hay');
    gateway.log = path.join(gateway.home, 'gateway.log');
    gateway.configuration = configurationIn(home);
    gateway.port = await freePort();
    fs.mkdirSync(gateway.scratch);
    fs.writeFileSync(path.join(gateway.scratch, 'hay.txt'), 'hay\n');
    gateway.servers = serversIn(gateway.scratch);
    gateway.calls = callsIn(gateway.scratch);
    gateway.plugin = plugin;
    gateway.configure();
    await gateway.#run();
    return gateway;
  }

  get #old() {
    return this.version.startsWith('2026.4.');
  }

  /** Writes the configuration before the gateway starts, which then makes additions of its own. */
  configure() {
    const { model, plugin } = this;
    const entry = (name) => ({
      cwd: npmServers,
      ...this.servers[name],
      env: { [MARK]: this.mark, [SERVER_MARK]: name, MEMORY_FILE_PATH: path.join(this.scratch, 'memory.jsonl') },
    });
    const servers = Object.keys(this.servers).map((name) => [name, this.wrap(name, entry(name))]);
    const cost = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 };
    const fake = { id: 'fake', name: 'fake', reasoning: false, input: ['text'], cost, contextWindow: 200000, maxTokens: 4096 };
    const access = this.#old ? {} : { hooks: { allowConversationAccess: true } };
    const configuration = {
      gateway: {
        mode: 'local',
        port: this.port,
        bind: 'loopback',
        auth: { mode: 'token', token: this.mark },
        controlUi: { enabled: false },
      },
      agents: {
        defaults: {
          model: { primary: 'fake/fake' },
          workspace: path.join(this.home, 'workspace'),
          skipBootstrap: true,
          heartbeat: { every: '0m' },
        },
      },
      models: {
        mode: 'replace',
        providers: { fake: { baseUrl: model.url, apiKey: 'none', api: 'openai-completions', models: [fake] } },
      },
      mcp: { servers: Object.fromEntries(servers) },
      update: { checkOnStart: false },
      discovery: { mdns: { mode: 'off' } },
      plugins: plugin
        ? {
            allow: ['pinfold'],
            load: { paths: [pluginDirectory] },
            entries: { pinfold: { enabled: true, ...access, config: plugin } },
          }
        : { enabled: true },
      // Tools are offered as they are.
      ...(this.#old ? {} : { tools: { toolSearch: false } }),
    };
    this.#write(configuration);
  }

  #write(configuration) {
    const temporary = `${this.configuration}.new`;
    fs.writeFileSync(temporary, JSON.stringify(configuration, null, 2));
    fs.renameSync(temporary, this.configuration);
  }

  /** Takes a server out of the configuration, and waits until the gateway has taken note. */
  async remove(name) {
    const configuration = JSON.parse(fs.readFileSync(this.configuration, 'utf8'));
    delete configuration.mcp.servers[name];
    delete this.servers[name];
    const noted = this.#old ? /\[gateway\] ready/g : /config hot reload applied/g;
    const often = () => this.logged().match(noted)?.length ?? 0;
    const before = often();
    this.#write(configuration);
    await eventually(PATIENCE, 'the gateway reads its configuration anew', () => often() > before);
  }

  get #environment() {
    return {
      PATH: process.env.PATH,
      HOME: this.home,
      LANG: 'C.UTF-8',
      [MARK]: this.mark,
      OPENCLAW_STATE_DIR: path.join(this.home, 'state'),
      OPENCLAW_CONFIG_PATH: this.configuration,
      OPENCLAW_GATEWAY_TOKEN: this.mark,
      // As in a container: a restart happens inside the same process.
      OPENCLAW_NO_RESPAWN: '1',
      OPENCLAW_NO_AUTO_UPDATE: '1',
      OPENCLAW_OFFLINE: '1',
      OPENCLAW_TELEMETRY: '0',
      OPENCLAW_DISABLE_BONJOUR: '1',
      OPENCLAW_SKIP_CHANNELS: '1',
      OPENCLAW_SKIP_GMAIL_WATCHER: '1',
      OPENCLAW_SKIP_CANVAS_HOST: '1',
      OPENCLAW_SKIP_BROWSER_CONTROL_SERVER: '1',
      OPENCLAW_SKIP_ACPX_RUNTIME: '1',
      npm_config_offline: 'true',
      npm_config_update_notifier: 'false',
    };
  }

  get #program() {
    return path.join(cache, `openclaw-${this.version}`, 'node_modules', 'openclaw');
  }

  async #run() {
    const log = fs.openSync(this.log, 'a');
    const run = ['gateway', 'run', '--port', `${this.port}`, '--bind', 'loopback', '--allow-unconfigured'];
    const program = path.join(this.#program, 'openclaw.mjs');
    const options = { env: this.#environment, cwd: this.home, stdio: ['ignore', log, log] };
    this.child = spawn(process.execPath, [program, ...run], options);
    this.exited = once(this.child, 'exit');
    fs.closeSync(log);
    process.once('exit', () => this.child.kill('SIGKILL'));
    const url = `ws://127.0.0.1:${this.port}`;
    this.operator = new Operator({ program: this.#program, environment: this.#environment, url, token: this.mark });
    await this.answers();
  }

  get pid() {
    return this.child.pid;
  }

  logged() {
    return fs.readFileSync(this.log, 'utf8');
  }

  /** Waits until it answers. */
  async answers() {
    await eventually(PATIENCE, `the gateway answers\n${this.logged().slice(-3000)}`, async () => {
      if (this.child.exitCode !== null) throw new Error(`the gateway left: ${this.logged().slice(-3000)}`);
      return this.call('health', {});
    });
  }

  /** A method of the gateway. */
  call(method, params, deadline = 30_000) {
    return this.operator.call(method, params, deadline);
  }

  #ask(session, lines) {
    const sessionKey = `agent:main:${session}`;
    const idempotencyKey = `${session}-${Math.random()}`;
    const message = ['Please:', ...lines].join('\n');
    return this.call('agent', { agentId: 'main', sessionKey, message, idempotencyKey }, PATIENCE);
  }

  /** One turn in a session, in which these servers are called. Returns what the model said in the end. */
  async turn(session, names = Object.keys(this.servers)) {
    const answer = await this.#ask(session, names.map((name) => this.calls[name][0]));
    const said = JSON.stringify(answer.result?.payloads ?? answer).replaceAll('\\"', '"').replaceAll('\\\\', '\\');
    const silent = names.filter((name) => !this.calls[name][1].test(said.replaceAll('\\"', '"')));
    if (silent.length > 0) throw new Error(`${session}: no answer of ${silent}: ${said.slice(0, 2000)}`);
    return said;
  }

  /** A cron job of its own session runs once, and is over. */
  async cron(name) {
    const message = ['Please:', ...Object.values(this.calls).map(([line]) => line)].join('\n');
    const schedule = { kind: 'at', at: new Date(Date.now() + 86_400_000).toISOString() };
    const job = {
      name,
      schedule,
      sessionTarget: 'isolated',
      wakeMode: 'now',
      payload: { kind: 'agentTurn', message },
      delivery: { mode: 'none' },
      deleteAfterRun: false,
    };
    const { id } = await this.call('cron.add', job);
    await this.call('cron.run', { id, mode: 'force' }, PATIENCE);
    const run = await eventually(PATIENCE, `the cron job ${name} is over`, async () => {
      const { entries } = await this.call('cron.runs', { scope: 'job', id });
      return entries.find(({ action }) => action === 'finished');
    });
    if (run.status !== 'ok') throw new Error(`the cron job ${name}: ${JSON.stringify(run)}`);
    return run;
  }

  /** A session has a sub-agent made, which calls its servers and is over. */
  async subagent(session) {
    const task = `Please:\n${this.calls.filesystem[0]}`;
    const asked = `call sessions_spawn ${JSON.stringify({ task, cleanup: 'delete' })}`;
    const before = this.model.said(this.calls.filesystem[1]);
    await this.#ask(session, [asked]);
    await eventually(PATIENCE, 'the sub-agent has had its answer', () => this.model.said(this.calls.filesystem[1]) > before);
  }

  /** What it started and what descends from that, without itself: servers, what they left, and its own helpers for them. */
  started() {
    const pids = fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number);
    const found = { servers: [], helpers: [], all: [] };
    for (const pid of pids) {
      const environment = environmentOf(pid);
      if (environment[MARK] !== this.mark) continue;
      const it = identify(pid);
      if (!it || !isAlive(it) || pid === this.pid) continue;
      const { [SERVER_MARK]: server, PINFOLD_SESSION: session } = environment;
      if (server) found.servers.push({ ...it, server, session });
      else if (/service-child-(relay|group-anchor)/.test(it.argv.join(' '))) found.helpers.push(it);
    }
    found.all.push(...found.servers, ...found.helpers);
    return found;
  }

  /** How many of them there are and how much memory they use. */
  measured() {
    const all = this.started().all.map(memoryOf);
    const sum = (which) => Math.round(all.reduce((total, each) => total + each[which], 0) / 1024);
    return { processes: all.length, rss: sum('rss'), pss: sum('pss') };
  }

  async kill(signal = 'SIGKILL') {
    this.operator.stop();
    this.child.kill(signal);
    await within(PATIENCE, 'the gateway exits', this.exited);
  }

  /** Ends it, and whatever a run without pinfold left behind. */
  async clear() {
    if (this.child.exitCode === null && this.child.signalCode === null) await this.kill();
    await eventually(PATIENCE, 'all that the gateway started is gone', () => {
      const { all } = this.started();
      killEach(all);
      return all.length === 0;
    });
    if (!process.env.PINFOLD_RING_KEEP) fs.rmSync(this.home, { recursive: true, force: true });
  }
}
