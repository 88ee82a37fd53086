// A real Prometheus scrapes a real pinfold, to which everything happens that can be made to happen. Then each question of each
// dashboard and each rule is asked of it, and has to have an answer.
//
// All of it, with everything it needs:  tests/run metrics
// PINFOLD names the program to test; else it is the newest in target/.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { DEADLINE, eventually } from '../servers/deadline.mjs';
import { isAlive, unifiedMount } from '../servers/kernel.mjs';
import { launchOf, servers } from '../servers/catalog.mjs';
import {
  dashboards,
  documented,
  family,
  filledIn,
  metricsIn,
  questionsOf,
  read,
  rules,
  variablesOf,
} from './dashboards.mjs';
import { Prometheus, freePort, promtool } from './prometheus.mjs';
import { Scene } from './scene.mjs';

/** The session that is looked at on its dashboard: everything that ends a server ends one in it, and it lives on. */
const SESSION = 'agent run 1';
/** Rates look back so far. Scrapes come each second, and on a loaded machine later. */
const RATE_INTERVAL = 15;

let pinfold;
let prometheus;
let address;
let key;
let began;
const scene = new Scene('metrics');
const launch = scene.launch.bind(scene);
const running = scene.running.bind(scene);

/** What the kernel of this machine does not offer, so that nothing can tell of it: the metrics, and why. */
function missingHere() {
  const controllers = fs.readFileSync(path.join(unifiedMount(), 'cgroup.controllers'), 'utf8').split(/\s/);
  const missing = new Map();
  const because = (why, names) => names.forEach((name) => missing.set(name, why));
  if (!controllers.includes('io')) {
    const levels = ['session', 'server'];
    because(
      'cgroup v2 has no io controller here',
      levels.flatMap((level) => ['read', 'written'].map((way) => `pinfold_${level}_io_${way}_bytes_total`)),
    );
  }
  if (!fs.existsSync('/proc/pressure/memory')) {
    const names = ['session', 'server'].map((level) => `pinfold_${level}_pressure_seconds_total`);
    because('the kernel tells no pressure here', names);
  }
  return missing;
}

/** Questions that rightly have no answer in some circumstances, which are asked for first. */
const unanswered = [
  // The column of a table that counts limits which do not hold.
  { part: /pinfold_limit_held\{.*\} == 0/, unless: 'pinfold_limit_held == 0' },
];

/** Waits until Prometheus has an answer. */
async function answered(query) {
  return eventually(DEADLINE, `Prometheus has an answer to ${query}`, async () => {
    const series = await prometheus.query(query);
    return series.length > 0 && series;
  });
}

async function told(accept) {
  const reply = await fetch(`http://${address}/metrics`, { headers: accept ? { accept } : {} });
  assert.equal(reply.status, 200);
  return reply.text();
}

before(async () => {
  began = Date.now() / 1000;
  address = `127.0.0.1:${await freePort()}`;
  pinfold = await scene.start(
    [
      '[metrics]',
      `listen = "${address}"`,
      'session_ids = true',
      '[launches]',
      'burst = 12',
      'every = "1min"',
      'wait_max = "500ms"',
      '',
    ].join('\n'),
  );
  launch(SESSION, 'cat', ['cat']);
  await running(SESSION, 'cat');
  // The next daemon adopts it. Nobody scrapes yet, so no series is broken off.
  await pinfold.restart();
  prometheus = await Prometheus.start(address);
  for (const name of ['server-everything', 'server-filesystem']) {
    const { command, args, env, cwd } = launchOf(servers.find((server) => server.name === name), scene.scratch);
    launch(name === 'server-everything' ? SESSION : 'agent run 2', name, [command, ...args], { env, cwd });
  }
  key = (await pinfold.session(SESSION)).key;
  await answered(`pinfold_session_info{session="${key}"}`);
  await answered(`pinfold_server_info{server="server-everything"}`);
  // What Prometheus saw for a while, so that what changes now is a change.
  await answered(`pinfold_build_info offset ${RATE_INTERVAL}s`);
});

after(() => scene.clear(prometheus));

// ---- What happens to a server, and how it is told

test('an end that was asked for is told with its cause', async () => {
  launch(SESSION, 'ended', ['cat']);
  await running(SESSION, 'ended');
  await answered(`pinfold_server_info{server="ended"}`);
  await pinfold.end('--server', `${SESSION}/ended`);
  await answered(`pinfold_ends_total{cause="requested", host="codex", server="ended"} == 1`);
  await answered(`pinfold_end_duration_seconds_count > 0`);
  const its = 'pinfold_server_info{server="ended"}';
  await answered(`${its} offset ${RATE_INTERVAL}s unless ${its}`);
});

test('a server that has to be killed is told as killed', async () => {
  const stubborn = 'trap "" TERM; while :; do sleep 1; done';
  launch(SESSION, 'stubborn', ['sh', '-c', stubborn], { options: ['--grace', '100ms'] });
  await running(SESSION, 'stubborn');
  await pinfold.end('--server', `${SESSION}/stubborn`);
  await answered(`pinfold_kills_total{host="codex", server="stubborn"} == 1`);
});

test('a memory kill is told with the level whose limit it was, and of its session', async () => {
  const eat = 'process.stdin.once("data", () => { const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1)); })';
  const child = launch(SESSION, 'glutton', ['node', '-e', eat], { options: ['--memory-max', '128M'] });
  await running(SESSION, 'glutton');
  await answered(`pinfold_server_memory_limit_bytes{server="glutton"} == ${128 * 1024 * 1024}`);
  child.stdin.write('eat\n');
  await child.ended;
  await answered(`pinfold_memory_kills_total{level="server", host="codex", server="glutton"} >= 1`);
  await answered(`pinfold_ends_total{cause="memory", server="glutton"} == 1`);
  await answered(`pinfold_session_memory_kills_total{session="${key}"} > 0`);
});

test('a process limit that is reached is told', async () => {
  // Its own processes and threads are within the limit, and 16 more are not.
  const fork = 'read -r go; for each in $(seq 16); do sleep 100 & done; wait';
  const child = launch(SESSION, 'forker', ['bash', '-c', fork], { options: ['--pids-max', '8'] });
  await running(SESSION, 'forker');
  child.stdin.write('go\n');
  await answered(`pinfold_pids_limits_reached_total{level="server", host="codex", server="forker"} == 1`);
});

test('a launch that is refused and runs all the same is told as uncontained', async () => {
  const child = launch(SESSION, 'loose', ['true'], { options: ['--memory-max', '1K', '--uncontained'] });
  const [status] = await child.ended;
  assert.equal(status, 0, child.said);
  await answered(`pinfold_launches_total{result="uncontained"} == 1`);
});

test('a storm of launches is told, with those that wait and those that are refused', async () => {
  const statuses = [];
  while (statuses.filter((status) => status === 125).length === 0 && statuses.length < 30) {
    const [status] = await launch('agent run 3', 'crashing', ['true'], { host: 'storming' }).ended;
    statuses.push(status);
  }
  assert.ok(statuses.includes(125), `none of ${statuses.length} launches was refused`);
  await answered(`pinfold_launches_total{result="refused"} > 0`);
  await answered(`pinfold_launch_storms_total > 0`);
  await answered(`pinfold_launches_delayed_total > 0`);
});

test('a server that leaves its cgroup is told as an escape', async () => {
  launch('agent run 2', 'escaping', ['cat']);
  const { leader_pid } = await running('agent run 2', 'escaping');
  scene.escape(leader_pid);
  await eventually(DEADLINE, 'somebody who looks sees it', async () => {
    const env = { ...process.env, PINFOLD_SOCKET: pinfold.socket };
    await promisify(execFile)(pinfold.program, ['status', 'agent run 2'], { env, timeout: DEADLINE });
    return (await prometheus.query('pinfold_escapes_total > 0')).length > 0;
  });
});

// ---- What is exported, and how

test('promtool finds nothing wrong with what is exported', async () => {
  assert.equal(await promtool(['check', 'metrics'], await told()), '');
});

test('each documented metric is exported, and each exported one is documented', async () => {
  const exported = new Set([...(await told()).matchAll(/^# TYPE (\w+) /gm)].map(([, name]) => name));
  const missing = missingHere();
  const known = documented();
  assert.deepEqual([...exported].filter((name) => !known.has(name)), [], 'exported, and not in docs/metrics.md');
  assert.deepEqual(
    [...known].filter((name) => !exported.has(name) && !missing.has(name)),
    [],
    'in docs/metrics.md, and not exported where all of this happened',
  );
});

test('the same metrics come as OpenMetrics to whoever asks for that', async () => {
  const text = await told('application/openmetrics-text; version=1.0.0');
  assert.ok(text.endsWith('# EOF\n'));
  const names = (exposition) => new Set([...exposition.matchAll(/^([a-z_]+)(?:\{| )/gm)].map(([, name]) => name));
  assert.deepEqual([...names(text)].sort(), [...names(await told())].sort());
});

// ---- What is asked

/** Whether there is a number among the answers. */
function hasNumbers(series) {
  return series.some(({ value, values }) => (values ?? [value]).some(([, each]) => each !== 'NaN'));
}

for (const dashboard of dashboards) {
  test(`every question of the dashboard ${dashboard.uid} has an answer`, async (t) => {
    const missing = missingHere();
    const values = {
      datasource: 'prometheus',
      job: 'pinfold',
      instance: 'this-machine',
      session: key,
      __rate_interval: `${RATE_INTERVAL}s`,
      __range: '1h',
    };
    const failed = [];
    for (const { where, expr, instant } of questionsOf(dashboard)) {
      const query = filledIn(expr, values);
      const now = Date.now() / 1000;
      const step = Math.max(1, Math.ceil((now - began) / 5000));
      const answer = instant ? await prometheus.query(query) : await prometheus.queryRange(query, began, now, step);
      if (hasNumbers(answer)) continue;
      const reasons = new Set(metricsIn(expr).flatMap((metric) => missing.get(metric) ?? []));
      for (const { part, unless } of unanswered) {
        if (part.test(query) && (await prometheus.query(unless)).length === 0) reasons.add(`nothing answers ${unless}`);
      }
      if (reasons.size > 0) t.diagnostic(`${where}: no answer, because ${[...reasons].join(', ')}`);
      else failed.push(`${where}: ${query}`);
    }
    for (const { where, series, label } of variablesOf(dashboard)) {
      const found = await prometheus.labelValues(label, filledIn(series, values));
      if (!found.includes(values[label])) failed.push(`${where}: ${found}`);
    }
    assert.deepEqual(failed, [], 'questions without an answer');
  });
}

test('every rule is evaluated, on metrics that are there, and what is recorded has data', async () => {
  const recorded = await eventually(DEADLINE, 'every rule was evaluated without an error', async () => {
    const all = await prometheus.rules();
    assert.deepEqual(all.filter(({ health }) => health !== 'ok').map(({ name, lastError }) => [name, lastError]), []);
    return all;
  });
  assert.equal(recorded.length, read(rules).match(/^ +- (?:alert|record): /gm).length);
  for (const metric of new Set(recorded.flatMap(({ query }) => metricsIn(query)).map(family))) {
    const series = await prometheus.query(`count(last_over_time({__name__=~"${metric}(_bucket)?"}[1h]))`);
    assert.notEqual(series.length, 0, `${metric} is there`);
  }
  for (const { name } of recorded.filter(({ type }) => type === 'recording')) {
    assert.ok(hasNumbers(await prometheus.query(`last_over_time(${name}[1h])`)), `${name} has data`);
  }
});

test('what happened here lets the alerts on it fire, and those on what did not happen keep still', async () => {
  const events = ['Escape', 'LaunchRefused', 'LaunchStorm', 'MemoryKill', 'Uncontained'];
  const happened = events.map((event) => `Pinfold${event}`);
  // Where swap is not accounted, every launch is one with a limit that gives way.
  const depends = ['PinfoldLaunchedWithUnheldLimit'];
  await eventually(DEADLINE, `these alerts fire: ${happened.join(', ')}`, async () => {
    const firing = (await prometheus.rules()).filter(({ state }) => state === 'firing').map(({ name }) => name);
    assert.deepEqual(firing.filter((name) => !depends.includes(name)).sort(), happened);
    return true;
  });
  const kills = (await prometheus.rules()).find(({ name }) => name === 'PinfoldMemoryKill').alerts;
  assert.deepEqual(
    kills.map(({ labels }) => [labels.server, labels.level, labels.host]),
    [['glutton', 'server', 'codex']],
  );
});

test('the series of a session vanish with it', async () => {
  const [{ metric }] = await prometheus.query('pinfold_session_info{id="agent run 2"}');
  await pinfold.end('agent run 2', '--now');
  await eventually(DEADLINE, 'nothing is told of it any more', async () => !(await told()).includes(metric.session));
  assert.ok(isAlive(scene.launched[0]), 'another session lives on');
});
