// A day of a gateway, the same whether pinfold is there or not: sessions are opened, used, deleted and reset, cron jobs run, a
// server leaves the configuration, and in the end the gateway is killed. What lives is read from the kernel after each phase.

import { performance } from 'node:perf_hooks';
import { eventually } from '../servers/deadline.mjs';
import { PATIENCE } from './gateway.mjs';

/** What nobody ends is seen only by that it stays: for so long nothing has come or gone. */
const STILL = 8_000;

const key = (session) => `agent:main:${session}`;

/** Who lives in the end of each phase. All the rest is over. */
const phases = [
  {
    name: 'three sessions, each has asked its four servers',
    alive: () => ['one', 'two', 'three'],
    async run({ gateway }) {
      for (const session of this.alive()) await gateway.turn(session);
    },
  },
  {
    name: 'two isolated cron jobs have run',
    alive: () => ['one', 'two', 'three'],
    async run({ gateway }) {
      await gateway.cron('first');
      await gateway.cron('second');
    },
  },
  {
    name: 'a sub-agent has run in one of them',
    alive: () => ['one', 'two', 'three'],
    run: ({ gateway }) => gateway.subagent('one'),
  },
  {
    name: 'one session is deleted',
    alive: () => ['two', 'three'],
    run: ({ gateway }) => gateway.call('sessions.delete', { key: key('one') }),
  },
  {
    name: 'one is reset',
    alive: () => ['three'],
    run: ({ gateway }) => gateway.call('sessions.reset', { key: key('two') }),
  },
  {
    name: 'and goes on, with servers of its own',
    // They have answered: an end of the session's that came too late would have hit them.
    alive: (gateway) => (gateway.manners.retiresWhatWasReset ? ['three'] : ['two', 'three']),
    run: ({ gateway }) => gateway.turn('two'),
  },
  {
    name: 'a server is removed from the configuration',
    alive: (gateway) => (gateway.manners.retiresWhatWasReset ? ['three'] : ['two', 'three']),
    async run({ gateway, expect }) {
      await gateway.remove('everything');
      if (!gateway.manners.beginsAnew) return;
      await expect([], this);
      for (const session of this.alive(gateway)) await gateway.turn(session);
    },
  },
  {
    name: 'all sessions are deleted: nothing is alive',
    alive: () => [],
    async run({ gateway }) {
      for (const session of ['two', 'three']) await gateway.call('sessions.delete', { key: key(session) });
    },
  },
  {
    name: 'one more session, and the gateway is killed',
    alive: () => [],
    async run({ gateway }) {
      await gateway.turn('four');
      await gateway.kill();
    },
  },
];

/**
 * Leads the gateway through its day. `expect(alive, phase)` waits until just that lives; without it, what lives is taken once
 * it has come to rest. Returns what was measured after each phase.
 */
export async function day(gateway, expect = () => atRest(gateway)) {
  const measured = [];
  for (const phase of phases) {
    await phase.run({ gateway, expect });
    await expect(phase.alive(gateway), phase);
    measured.push({ phase: phase.name, ...gateway.measured() });
  }
  return measured;
}

async function atRest(gateway) {
  const look = () => JSON.stringify(gateway.started().all.map(({ pid, started }) => [pid, started]));
  let last = look();
  let since = performance.now();
  await eventually(PATIENCE, 'nothing comes or goes any more', () => {
    const now = look();
    if (now !== last) [last, since] = [now, performance.now()];
    return performance.now() - since > STILL;
  });
}

/** The days side by side, for a person to read; the one without pinfold may be missing. */
export function table(version, bare, contained) {
  const columns = Object.entries({ 'without pinfold': bare, 'with pinfold': contained }).filter(([, day]) => day);
  const left = Math.max(...contained.map(({ phase }) => phase.length));
  const cells = (values) => values.map((value) => `${value}`.padStart(11)).join('');
  const line = (head, make) => head.padEnd(left) + columns.map(([name, day]) => make(name, day)).join('  ');
  return [
    line(`OpenClaw ${version}`, (name) => name.padStart(33)),
    line('', () => cells(['processes', 'RSS', 'PSS'])),
    ...contained.map(({ phase }, index) =>
      line(phase, (_name, day) => cells([day[index].processes, `${day[index].rss} MB`, `${day[index].pss} MB`])),
    ),
  ];
}
