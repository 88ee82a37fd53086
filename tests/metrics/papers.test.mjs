// What can be told of dashboards, rules and runbook without running anything: shape, links, and that nothing is missing.

import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import {
  dashboards,
  documented,
  exists,
  filledIn,
  metricsIn,
  panelsOf,
  questionsOf,
  read,
  ruleTests,
  rules,
  scrapeConfiguration,
  variablesOf,
} from './dashboards.mjs';
import { promtool } from './prometheus.mjs';

const dataSource = { type: 'prometheus', uid: '${datasource}' };
/** The schema that Grafana 12 writes; it reads older ones, and moves them on. */
const schemas = [39, 40, 41];

const alerts = [...read(rules).matchAll(/^ +- alert: (\w+)$/gm)].map(([, name]) => name);

function unique(values, what) {
  const twice = values.filter((value, index) => values.indexOf(value) !== index);
  assert.deepEqual(twice, [], `${what} are there once`);
}

/** Every place in the document where the key stands, with its value. */
function valuesOf(document, key) {
  if (document === null || typeof document !== 'object') return [];
  return Object.entries(document).flatMap(([name, value]) => [
    ...(name === key ? [value] : []),
    ...valuesOf(value, key),
  ]);
}

for (const dashboard of dashboards) {
  const name = dashboard.file;

  test(`${name} is a dashboard that is provisioned by file, in one stable form`, () => {
    const { file, text, ...document } = dashboard;
    assert.equal(text, `${JSON.stringify(document, null, 2)}\n`, 'two spaces, as JSON.stringify writes it');
    assert.equal(document.id, null);
    assert.equal(`${document.uid}.json`, file);
    assert.ok(document.title && document.description);
    assert.ok(schemas.includes(document.schemaVersion), `${document.schemaVersion}`);
    assert.deepEqual(document.tags, ['pinfold']);
    assert.ok(document.time.from && document.time.to && document.refresh);
    assert.ok(document.links.some(({ type, includeVars, keepTime }) => type === 'dashboards' && includeVars && keepTime));
  });

  test(`${name} has panels that are complete and lie side by side`, () => {
    const all = dashboard.panels.flatMap((panel) => [panel, ...(panel.panels ?? [])]);
    unique(all.map(({ id }) => id), 'ids');
    const taken = new Map();
    for (const { title, gridPos } of all) {
      const { x, y, w, h } = gridPos;
      assert.ok(title && w > 0 && h > 0 && x >= 0 && x + w <= 24, `${title}: ${JSON.stringify(gridPos)}`);
      for (let row = y; row < y + h; row += 1) {
        for (let column = x; column < x + w; column += 1) {
          const cell = `${column},${row}`;
          assert.equal(taken.get(cell), undefined, `"${title}" lies over "${taken.get(cell)}"`);
          taken.set(cell, title);
        }
      }
    }
    for (const { title, type, description, datasource, fieldConfig, options, targets } of panelsOf(dashboard)) {
      assert.ok(['stat', 'table', 'timeseries', 'bargauge'].includes(type), `${title}: ${type}`);
      assert.ok(description && options, `${title} says what it shows`);
      assert.ok(fieldConfig.defaults.unit, `${title} has a unit`);
      assert.ok(fieldConfig.defaults.thresholds, `${title} has thresholds`);
      assert.deepEqual(datasource, dataSource, title);
      assert.notEqual(targets.length, 0, title);
      unique(targets.map(({ refId }) => refId), `${title}: refIds`);
      for (const target of targets) assert.deepEqual(target.datasource, dataSource, title);
    }
    assert.equal(dashboard.panels[0].type, 'stat', 'the first row tells the most important figures');
  });

  test(`${name} asks by its variables, and by no data source of its own`, () => {
    const [first, ...others] = dashboard.templating.list;
    assert.deepEqual([first.name, first.type, first.query], ['datasource', 'datasource', 'prometheus']);
    for (const variable of others) assert.deepEqual(variable.datasource, dataSource, variable.name);
    for (const reference of valuesOf(dashboard, 'datasource')) {
      if (reference.type !== 'grafana') assert.deepEqual(reference, dataSource);
    }
    const own = ['__rate_interval', '__range'];
    const values = Object.fromEntries([...others.map((variable) => variable.name), ...own].map((each) => [each, 'x']));
    for (const { expr } of questionsOf(dashboard)) filledIn(expr, values);
    for (const { series } of variablesOf(dashboard)) filledIn(series, values);
  });

  test(`${name} marks ends and memory kills`, () => {
    const asked = dashboard.annotations.list.flatMap(({ expr }) => (expr ? metricsIn(expr) : []));
    assert.ok(asked.some((metric) => metric.endsWith('memory_kills_total')), `${asked}`);
    assert.ok(asked.includes('pinfold_ends_total'), `${asked}`);
  });

  test(`${name} links to dashboards and variables that exist`, () => {
    const urls = valuesOf(dashboard, 'url').filter((url) => url !== '');
    for (const url of urls) {
      const [, uid, query] = url.match(/^\/d\/([\w-]+)\?(.+)$/) ?? assert.fail(url);
      const target = dashboards.find((other) => other.uid === uid) ?? assert.fail(`there is no dashboard ${uid}`);
      const known = target.templating.list.map((variable) => `var-${variable.name}`);
      const given = query.split('&').map((part) => part.split('=')[0]);
      assert.deepEqual(given.filter((part) => part.startsWith('var-')).sort(), known.sort(), url);
      assert.ok(given.includes('${__url_time_range}'), `${url} keeps the time`);
    }
    if (dashboard.uid !== 'pinfold-session') assert.notEqual(urls.length, 0);
  });
}

test('dashboards have names of their own', () => {
  assert.deepEqual(dashboards.map(({ uid }) => uid).sort(), ['pinfold-fleet', 'pinfold-machine', 'pinfold-session']);
  unique(dashboards.map(({ title }) => title), 'titles');
});

test('dashboards and rules ask for metrics that are documented', () => {
  const known = documented();
  const expressions = dashboards.flatMap((dashboard) => [
    ...questionsOf(dashboard).map(({ expr }) => expr),
    ...variablesOf(dashboard).map(({ series }) => series),
  ]);
  // Of the rules everything but their texts is asked; that these are not expressions does no harm.
  const asked = new Set([...expressions, read(rules)].flatMap(metricsIn));
  assert.deepEqual([...asked].filter((metric) => !known.has(metric)), []);
});

test('promtool finds nothing wrong with the rules and the configuration', async () => {
  assert.match(await promtool(['check', 'rules', rules]), /SUCCESS: \d+ rules found/);
  assert.match(await promtool(['check', 'config', scrapeConfiguration]), /is valid prometheus config file/);
});

test('every alert fires in its cases and keeps still in the healthy ones, with all of its text', async () => {
  assert.match(await promtool(['test', 'rules', ruleTests]), /SUCCESS/);
  const cases = read(ruleTests).split(/^ {2}- name: /m).slice(1);
  const tried = (alert, outcome) =>
    cases.some((text) => text.includes(`- alertname: ${alert}\n`) && outcome.test(text));
  assert.deepEqual(alerts.filter((alert) => !tried(alert, /exp_labels:/)), [], 'alerts that no case lets fire');
  assert.deepEqual(alerts.filter((alert) => !tried(alert, /exp_alerts: \[\]/)), [], 'alerts without a healthy case');
});

test('every alert has its section in the runbook, which has no others', () => {
  const sections = [...read('docs/runbook.md').matchAll(/^## (\w+)$/gm)].map(([, title]) => title);
  assert.deepEqual(sections.sort(), [...alerts].sort());
  const named = [...read(rules).matchAll(/^ +runbook: docs\/runbook\.md#(\w+)$/gm)].map(([, anchor]) => anchor);
  assert.deepEqual(named, alerts.map((alert) => alert.toLowerCase()));
  const text = read('docs/runbook.md').split(/^## /m).slice(1);
  for (const section of text) {
    for (const part of ['**Means.**', '**Look.**', '**Do.**', '**Let it be**']) {
      assert.ok(section.includes(part), `${section.split('\n')[0]} has ${part}`);
    }
  }
});

test('the shipped configuration looks where the system daemon listens', () => {
  const [, address] = read('deploy/pinfold.toml').match(/"auto" is (127\.0\.0\.1:\d+)/);
  assert.ok(read(scrapeConfiguration).includes(`targets: ["${address}"]`), address);
  const [, interval] = read(scrapeConfiguration).match(/scrape_interval: (\w+)/);
  assert.match(read('grafana/provisioning/datasources/pinfold.yml'), new RegExp(`timeInterval: ${interval}$`, 'm'));
});

test('the compose file mounts what exists, read-only, and pins its images', () => {
  const compose = read('deploy/compose/compose.yaml');
  const mounted = [...compose.matchAll(/^ +- (\.\.[^:]*):([^:\n]+)(:ro)?$/gm)];
  assert.ok(mounted.length >= 4, `${mounted}`);
  for (const [line, source, , mode] of mounted) {
    assert.equal(mode, ':ro', line);
    assert.ok(exists(path.join('deploy/compose', source)), source);
  }
  for (const [, image] of compose.matchAll(/^ +image: (.+)$/gm)) assert.match(image, /:v?\d+\.\d+\.\d+$/);
  const [, directory] = compose.match(/- \.\.\/\.\.\/grafana:([^:]+):ro/);
  assert.ok(read('grafana/provisioning/dashboards/pinfold.yml').includes(`path: ${directory}\n`), directory);
});
