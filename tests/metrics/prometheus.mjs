// A real Prometheus for one test: its own port on loopback, its own directory, the configuration that is shipped.

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { DEADLINE, eventually, within } from '../servers/deadline.mjs';
import { rules, scrapeConfiguration } from './dashboards.mjs';

/** A port of loopback that is free at the moment. */
export async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** Runs promtool, and returns what it prints. What it finds wrong is an error that tells it. */
export async function promtool(args, input = '') {
  const running = promisify(execFile)('promtool', args, { timeout: DEADLINE });
  running.child.stdin.end(input);
  try {
    const { stdout, stderr } = await running;
    return stdout + stderr;
  } catch (error) {
    throw new Error(`promtool ${args.join(' ')}: ${error.stdout ?? ''}${error.stderr ?? error.message}`);
  }
}

/** The shipped configuration, but for the address and for how often: a test has no 15 seconds. */
function configurationFor(target) {
  let text = fs.readFileSync(scrapeConfiguration, 'utf8');
  for (const [from, to] of [
    [/^( *scrape_interval:) .*$/m, '$1 1s'],
    [/^( *scrape_timeout:) .*$/m, '$1 1s'],
    [/^( *evaluation_interval:) .*$/m, '$1 1s'],
    [/^( *- targets:) .*$/m, `$1 ["${target}"]`],
  ]) {
    if (!from.test(text)) throw new Error(`${scrapeConfiguration} has no ${from}`);
    text = text.replace(from, to);
  }
  return text;
}

export class Prometheus {
  /** Starts it on the target, with the rules, and waits until it is ready. */
  static async start(target) {
    const prometheus = new Prometheus();
    prometheus.directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pinfold-prometheus-'));
    const inside = (name) => path.join(prometheus.directory, name);
    fs.writeFileSync(inside('prometheus.yml'), configurationFor(target));
    fs.copyFileSync(rules, inside(path.basename(rules)));
    const address = `127.0.0.1:${await freePort()}`;
    prometheus.url = `http://${address}/api/v1/`;
    const log = fs.openSync(inside('log'), 'w');
    prometheus.process = spawn(
      'prometheus',
      [
        `--config.file=${inside('prometheus.yml')}`,
        `--storage.tsdb.path=${inside('data')}`,
        `--web.listen-address=${address}`,
        '--log.level=warn',
      ],
      { stdio: ['ignore', log, log] },
    );
    prometheus.exited = once(prometheus.process, 'exit');
    fs.closeSync(log);
    process.on('exit', () => prometheus.process.kill('SIGKILL'));
    await eventually(DEADLINE, 'Prometheus is ready', async () => {
      if (prometheus.process.exitCode !== null) throw new Error(fs.readFileSync(inside('log'), 'utf8'));
      return (await fetch(`http://${address}/-/ready`)).ok;
    });
    return prometheus;
  }

  async #ask(endpoint, parameters) {
    const url = new URL(endpoint, this.url);
    for (const [name, value] of Object.entries(parameters)) url.searchParams.append(name, value);
    const reply = await (await fetch(url, { signal: AbortSignal.timeout(DEADLINE) })).json();
    if (reply.status !== 'success') throw new Error(`${reply.error}: ${parameters.query ?? url}`);
    return reply.data;
  }

  /** The series of an expression at this moment, each with its value. */
  async query(query) {
    const { resultType, result } = await this.#ask('query', { query });
    if (resultType === 'scalar') return [{ metric: {}, value: result }];
    return result;
  }

  /** The same over a span, in steps. */
  async queryRange(query, start, end, step) {
    return (await this.#ask('query_range', { query, start, end, step })).result;
  }

  async labelValues(label, series) {
    return this.#ask(`label/${label}/values`, { 'match[]': series });
  }

  /** Every rule, with what became of its last evaluation. */
  async rules() {
    return (await this.#ask('rules', {})).groups.flatMap((group) => group.rules);
  }

  async stop() {
    this.process.kill('SIGTERM');
    await within(DEADLINE, 'Prometheus stops', this.exited);
    fs.rmSync(this.directory, { recursive: true });
  }
}
