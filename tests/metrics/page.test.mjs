// The page at `/` in a real Chromium, over a real pinfold with real servers: what it shows, and what it never does.
//
// All of it, with everything it needs:  tests/run metrics
// PINFOLD_WRITE_SCREENS names a directory for pictures of what was seen.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { DEADLINE, eventually } from '../servers/deadline.mjs';
import { launchOf, servers } from '../servers/catalog.mjs';
import { Chromium } from './chromium.mjs';
import { freePort } from './prometheus.mjs';
import { Scene } from './scene.mjs';

const MIB = 1 << 20;
/** Wide and narrow, and where the layout changes. */
const WIDTHS = [320, 390, 600, 768, 1024, 1087, 1088, 1089, 1280, 1281, 1920];

let pinfold;
let chromium;
let url;
let origin;
const scene = new Scene('page');
const pages = [];

const launch = scene.launch.bind(scene);
const running = scene.running.bind(scene);

async function real(session, name, rest) {
  const { command, args, env, cwd } = launchOf(servers.find((server) => server.name === name), scene.scratch);
  launch(session, name, [command, ...args], { env, cwd, ...rest });
  await running(session, name);
}

/** The page, opened. */
async function opened({ javascript = true, ...look } = {}) {
  const page = await chromium.page();
  pages.push(page);
  await page.look(look);
  if (!javascript) await page.withoutJavaScript();
  await page.open(url);
  return page;
}

/** The rows of a table, each by its columns. */
function rows(page, table) {
  return page.evaluate((id) => {
    const whole = document.getElementById(id);
    if (!whole) return [];
    const columns = [...whole.tHead.rows[0].cells].map((cell) => cell.textContent);
    return [...whole.tBodies[0].rows].map((row) =>
      Object.fromEntries(columns.map((column, index) => [column, row.cells[index].textContent])),
    );
  }, table);
}

/** The row of a server, by its name without the number of its launch. */
async function rowOf(page, server) {
  return (await rows(page, 'living')).find(({ Name }) => Name.startsWith(`${server}.`));
}

const appears = (page, server) => eventually(DEADLINE, `${server} is on the page`, () => rowOf(page, server));
const goes = (page, server) => eventually(DEADLINE, `${server} is gone`, async () => !(await rowOf(page, server)));

/** An amount as the page tells it, in bytes. */
function bytes(text) {
  const [, number, unit] = text.match(/^([\d.]+)([BKMGT])$/) ?? assert.fail(`${text} is no amount`);
  return Number(number) * 1024 ** 'BKMGT'.indexOf(unit);
}

async function screen(page, name) {
  const directory = process.env.PINFOLD_WRITE_SCREENS;
  if (directory) fs.writeFileSync(path.join(directory, `${name}.png`), await page.picture());
}

/** It asked for itself only, and nobody complained. */
function assertQuiet(page) {
  assert.deepEqual(page.requests.filter((each) => new URL(each).origin !== origin), [], 'asked of others');
  assert.deepEqual(page.complaints, []);
}

before(async () => {
  const address = `127.0.0.1:${await freePort()}`;
  origin = `http://${address}`;
  url = `${origin}/`;
  pinfold = await scene.start(`[metrics]\nlisten = "${address}"\nsession_ids = true\n`);
  chromium = await Chromium.start();
});

after(() => scene.clear(chromium));

test('a daemon that contains nothing says so', async () => {
  const page = await opened();
  assert.match(await page.evaluate(() => document.querySelector('main').innerText), /Nothing is contained\./);
  await screen(page, 'empty');
  assertQuiet(page);
});

// ---- A busy machine, for all that follows

test('servers of every kind of trouble live', async () => {
  await real('refactor the parser', 'server-everything');
  await real('refactor the parser', 'server-filesystem');
  // tail keeps what it reads until its stdin ends.
  const keep = `(head -c ${59 * MIB} /dev/zero; exec cat) | tail -c ${59 * MIB}`;
  launch('nightly review', 'nearly-full', ['sh', '-c', keep], { host: 'openclaw', options: ['--memory-max', '64M'] });
  launch('nightly review', 'stubborn', ['sh', '-c', 'trap "" TERM; while :; do sleep 1; done'], {
    host: 'openclaw',
    options: ['--grace', '10min'],
  });
  launch('nightly review', 'escaping', ['cat'], { host: 'openclaw' });
  launch('nightly review', 'ended', ['cat'], { host: 'openclaw' });
  const { leader_pid } = await running('nightly review', 'escaping');
  scene.escape(leader_pid);
  await running('nightly review', 'ended');
  await pinfold.end('--server', 'nightly review/ended');
  const eat = 'process.stdin.once("data", () => { const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1)); })';
  const glutton = launch('nightly review', 'glutton', ['node', '-e', eat], { options: ['--memory-max', '96M'] });
  await running('nightly review', 'glutton');
  glutton.stdin.write('eat\n');
  await glutton.ended;
  await running('nightly review', 'stubborn');
  // It takes its time; what ends everything at last does not.
  pinfold.end('--server', 'nightly review/stubborn').catch(() => {});
});

test('without JavaScript all of it stands there', async () => {
  const page = await opened({ javascript: false });
  await eventually(DEADLINE, 'all is as the kernel has it', async () => {
    await page.open(url);
    const sessions = await pinfold.ls();
    const shown = await rows(page, 'living');
    const every = sessions.flatMap((session) => [
      { ...session, name: session.id, host: `${session.host} uid ${session.uid}` },
      ...session.servers.map((server) => ({ ...server, name: server.leaf, host: '' })),
    ]);
    assert.deepEqual(shown.map(({ Name }) => Name).sort(), every.map(({ name }) => name).sort());
    for (const { name, host, memory, processes, owner_pid } of every) {
      const row = shown.find(({ Name }) => Name === name);
      assert.equal(row.Host.replaceAll('\u00a0', ' '), host, name);
      assert.equal(row.Processes, `${processes}`, name);
      assert.equal(row.Owner, `${owner_pid}`, name);
      if (memory.rss_bytes === null) assert.equal(row.RSS, '–', name);
      else assert.ok(Math.abs(bytes(row.RSS) - memory.rss_bytes) <= 0.1 * memory.rss_bytes + MIB, `${name}: ${row.RSS}`);
    }
    return true;
  });
  const full = await rowOf(page, 'nearly-full');
  assert.match(full['In use, of the limit'], /^ *9\d\u00a0% of 64M$/);
  assert.ok(bytes(full.RSS) >= 59 * MIB && bytes(full.RSS) <= 64 * MIB, full.RSS);
  const ends = await rows(page, 'ended');
  const why = (server) => ends.find(({ Server }) => Server === server)?.Why;
  assert.match(why('ended'), /its end was requested/);
  assert.match(why('glutton'), /memory ran out: the server's own memory limit was reached/);
  const { loads } = page;
  await eventually(DEADLINE, 'it is loaded again', () => page.loads > loads);
  assertQuiet(page);
});

test('what needs somebody is seen at a glance', async () => {
  const page = await opened();
  const states = await eventually(DEADLINE, 'every trouble is shown', async () => {
    const found = {};
    for (const name of ['escaping', 'stubborn', 'server-everything']) found[name] = (await rowOf(page, name)).State;
    return /ending/.test(found.stubborn) && found;
  });
  assert.match(states.escaping, /left its cgroup: process \d+/);
  assert.match(states['server-everything'], /^running/);
  const above = await page.evaluate(() => ({
    title: document.title,
    text: document.getElementById('look').innerText,
    links: [...document.querySelectorAll('#look a')].map(({ hash }) => Boolean(document.getElementById(hash.slice(1)))),
  }));
  assert.match(above.text, /escaping\.\S+ has left its cgroup: process \d+\./);
  assert.match(above.text, /nearly-full\.\S+ is at 9\d\s% of its memory limit\./);
  assert.equal(above.title, `(${above.links.length}) pinfold on ${os.hostname()}`);
  assert.ok(above.links.every(Boolean), 'each leads to its row');
  assert.match((await rows(page, 'living')).find(({ Name }) => Name === 'nightly review').State, /killed for memory/);
  assertQuiet(page);
});

test('pictures of it', async () => {
  await screen(await opened({ width: 1280 }), 'light');
  await screen(await opened({ width: 1280, scheme: 'dark' }), 'dark');
  await screen(await opened({ width: 390, height: 844, scale: 2 }), 'narrow');
  await screen(await opened({ width: 390, height: 844, scale: 2, scheme: 'dark' }), 'narrow-dark');
});

// ---- It refreshes itself

test('what comes and goes is seen without a reload, and whoever reads is not disturbed', async () => {
  const page = await opened({ width: 1280, height: 300 });
  await page.evaluate(() => {
    window.marker = 'the same document';
    document.querySelector('#look a').focus();
    document.querySelector('#living details')?.setAttribute('open', '');
    getSelection().selectAllChildren(document.querySelector('#living tbody th'));
    scrollTo(0, 200);
  });
  const reader = () =>
    page.evaluate(() => ({
      marker: window.marker,
      focus: document.activeElement.getAttribute('href'),
      unfolded: document.querySelectorAll('details[open]').length,
      details: Math.min(1, document.querySelectorAll('details').length),
      selected: getSelection().toString().trim(),
      scrolled: scrollY,
    }));
  const was = await reader();
  assert.ok(was.focus && was.selected && was.scrolled === 200 && was.unfolded === was.details, JSON.stringify(was));
  launch('refactor the parser', 'latecomer', ['cat']);
  await appears(page, 'latecomer');
  assert.deepEqual(await reader(), was);
  await pinfold.end('--server', 'refactor the parser/latecomer');
  await goes(page, 'latecomer');
  const last = (await rows(page, 'ended')).find(({ Server }) => Server === 'latecomer');
  assert.match(last.Why, /its end was requested/);
  assert.deepEqual(await reader(), was);
  assert.equal(page.loads, 1);
  assertQuiet(page);
});

test('after many refreshes the page is what a fresh one would be', async () => {
  const page = await opened();
  launch('a short one', 'passing', ['cat']);
  await appears(page, 'passing');
  await pinfold.end('a short one', '--now');
  await goes(page, 'passing');
  const fresh = await opened();
  await eventually(DEADLINE, 'both show the same', async () => {
    await fresh.open(url);
    // Numbers move between two readings; what stands where does not.
    const shape = (each) =>
      each.evaluate(() => document.querySelector('main').innerHTML.replace(/>[^<]*</g, '><').replace(/ value="[^"]*"/g, ''));
    assert.equal(await shape(page), await shape(fresh));
    return true;
  });
  assertQuiet(page);
});

test('another version of pinfold is loaded anew', async () => {
  const page = await opened();
  await page.evaluate(() => {
    window.marker = 'the old document';
    document.querySelector('main').dataset.version = '0.0.0';
  });
  await eventually(DEADLINE, 'it is loaded', () => page.evaluate(() => typeof window.marker === 'undefined'));
  assertQuiet(page);
});

// ---- Whoever looks at it

test('it fits every width, in light and in dark, and all of its text can be read', async () => {
  launch(`${'long'.repeat(49)}-id`, 'unbroken', ['cat'], { host: 'h'.repeat(64) });
  await running(`${'long'.repeat(49)}-id`, 'unbroken');
  const page = await opened();
  for (const scheme of ['light', 'dark']) {
    for (const width of WIDTHS) {
      await page.look({ width, scheme });
      await page.evaluate(() => document.querySelectorAll('details').forEach((each) => (each.open = true)));
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= width, `${scheme}: ${wide} in a window of ${width}`);
    }
    await page.evaluate(() => (document.getElementById('away').textContent = 'The daemon is not there.'));
    const { poor, count } = await page.evaluate(contrasts);
    assert.ok(count > 50, `${count} texts`);
    assert.deepEqual(poor, [], `${scheme}: less than 4.5:1`);
  }
  assertQuiet(page);
});

/** The texts of a page whose contrast with what is behind them is less than WCAG 2 asks for; runs in the page. */
function contrasts() {
  const channels = (colour) => {
    const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
    return { rgb: [red, green, blue], alpha };
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const { rgb, alpha } = channels(getComputedStyle(at).backgroundColor);
      if (alpha === 1) return rgb;
      if (alpha !== 0) throw new Error(`half transparent: ${at.outerHTML}`);
    }
    throw new Error(`nothing is behind ${element.outerHTML}`);
  };
  const luminance = (rgb) => {
    const [red, green, blue] = rgb.map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const poor = [];
  let count = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    count += 1;
    const [darker, lighter] = [channels(getComputedStyle(element).color).rgb, behind(element)]
      .map(luminance)
      .sort((one, other) => one - other);
    const ratio = (lighter + 0.05) / (darker + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)}: ${element.outerHTML}`);
  }
  return { poor, count };
}

test('a screen reader is told a table with its name, columns and rows, on a wide screen and a narrow one', async () => {
  for (const width of [1280, 390]) {
    const page = await opened({ width });
    const told = await page.told();
    const named = (role) => told.filter((node) => node.role === role).map(({ name }) => name);
    assert.deepEqual(named('table'), ['Sessions and their servers, by resident memory', 'The last ends'], `${width}`);
    const columns = named('columnheader');
    for (const column of ['Name', 'RSS', 'In use, of the limit', 'Why']) {
      assert.ok(columns.includes(column), `${width}: ${column} is not among ${columns}`);
    }
    assert.ok(named('rowheader').includes('nightly review'), `${width}: ${named('rowheader')}`);
    assert.ok(named('meter').some((name) => /^Memory of nearly-full\./.test(name)), `${width}: ${named('meter')}`);
    assert.ok(named('link').some((name) => /^escaping\./.test(name)), `${width}`);
    assert.equal(named('status').length, 1, `${width}`);
  }
});

// ---- Whoever means harm

test('a session that is called like HTML is shown as text, and runs nothing', async () => {
  const ids = [
    '<script>document.title = "taken"; window.taken = 1</script>',
    '"><img src="x" onerror="window.taken = 1">',
    "'><svg onload='window.taken = 1'>",
    '</title></style></script><script>window.taken = 1</script>',
  ];
  const page = await opened();
  for (const [index, id] of ids.entries()) launch(id, `hostile-${index}`, ['cat']);
  for (const index of ids.keys()) await appears(page, `hostile-${index}`);
  const fresh = await opened();
  for (const each of [page, fresh]) {
    const names = (await rows(each, 'living')).map(({ Name }) => Name);
    for (const id of ids) assert.ok(names.includes(id), `${id} is not among ${names}`);
    const found = await each.evaluate(() => ({
      taken: typeof window.taken,
      scripts: document.scripts.length,
      others: document.querySelectorAll('img, svg, iframe, object').length,
    }));
    assert.deepEqual(found, { taken: 'undefined', scripts: 1, others: 0 });
  }
  for (const id of ids) await pinfold.end(id, '--now');
  await eventually(DEADLINE, 'their ends are listed', async () => {
    const ended = (await rows(page, 'ended')).map(({ Session }) => Session);
    return ids.every((id) => ended.includes(id));
  });
  assert.equal(await page.evaluate(() => typeof window.taken), 'undefined');
  for (const each of [page, fresh]) assertQuiet(each);
});

test('even what was smuggled in runs nothing and reaches nobody', async (t) => {
  const reached = [];
  const other = http.createServer((request, reply) => {
    reached.push(request.url);
    reply.end();
  });
  other.listen(0, '127.0.0.1');
  await once(other, 'listening');
  t.after(() => other.close());
  const page = await opened();
  await page.evaluate((address) => {
    document.body.insertAdjacentHTML(
      'beforeend',
      `<img src="${address}/image" onerror="window.taken = 1"><link rel="stylesheet" href="${address}/style">`,
    );
    const script = document.createElement('script');
    script.src = `${address}/script`;
    document.body.append(script);
    return fetch(`${address}/fetch`).catch(() => {});
  }, `http://127.0.0.1:${other.address().port}`);
  await eventually(DEADLINE, 'the policy forbids all four', () => {
    const forbidden = page.complaints.join('\n');
    return ['img-src', 'style-src-elem', 'script-src-elem', 'connect-src'].every((each) => forbidden.includes(each));
  });
  assert.deepEqual(reached, []);
  assert.equal(await page.evaluate(() => typeof window.taken), 'undefined');
});

// ---- The daemon goes, and with it what it remembers of ends

test('a daemon that goes away is told, and its return is seen', async () => {
  const page = await opened();
  const said = () => page.evaluate(() => ({ text: document.getElementById('away').innerText, title: document.title }));
  assert.equal((await said()).text, '');
  await pinfold.restart(async () => {
    const { text, title } = await eventually(DEADLINE, 'it is told', async () => (await said()).text && said());
    assert.match(text, /^The daemon is not there since .+ What stands here is from before\.$/);
    assert.match(title, /^\(no answer\) .*pinfold on /);
    assert.ok(await rowOf(page, 'server-everything'), 'what was seen before still stands there');
    await screen(page, 'away');
  });
  await eventually(DEADLINE, 'its return is seen', async () => (await said()).text === '');
  assert.doesNotMatch((await said()).title, /no answer/);
  launch('refactor the parser', 'after-the-return', ['cat']);
  await appears(page, 'after-the-return');
});

test('a daemon that stands still is told too', async () => {
  const page = await opened();
  const text = () => page.evaluate(() => document.getElementById('away').innerText);
  process.kill(pinfold.daemon.pid, 'SIGSTOP');
  try {
    await eventually(DEADLINE, 'it is told', async () => /does not answer in time/.test(await text()));
  } finally {
    process.kill(pinfold.daemon.pid, 'SIGCONT');
  }
  await eventually(DEADLINE, 'it goes on', async () => (await text()) === '');
});
