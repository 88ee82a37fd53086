// What stands in `grafana`, `deploy/prometheus` and `docs`: read here, and taken apart into what can be asked of Prometheus.

import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const repository = fileURLToPath(new URL('../..', import.meta.url));

export const rules = path.join(repository, 'deploy/prometheus/pinfold.rules.yml');
export const ruleTests = path.join(repository, 'deploy/prometheus/pinfold.rules.test.yml');
export const scrapeConfiguration = path.join(repository, 'deploy/prometheus/prometheus.yml');

export function read(file) {
  return fs.readFileSync(path.resolve(repository, file), 'utf8');
}

export function exists(file) {
  return fs.existsSync(path.resolve(repository, file));
}

/** Every dashboard, with the text that it was read from. */
export const dashboards = fs
  .readdirSync(path.join(repository, 'grafana'))
  .filter((file) => file.endsWith('.json'))
  .map((file) => {
    const text = read(path.join('grafana', file));
    return { file, text, ...JSON.parse(text) };
  });

/** Panels that show something, those inside of rows included. */
export function panelsOf({ panels }) {
  return panels.flatMap((panel) => (panel.type === 'row' ? panel.panels : [panel]));
}

/** Each question that a dashboard asks of Prometheus: where it stands, and whether it is about one moment or a range. */
export function questionsOf(dashboard) {
  const found = [];
  for (const panel of panelsOf(dashboard)) {
    for (const { refId, expr, instant } of panel.targets) {
      found.push({ where: `${dashboard.uid}: panel "${panel.title}", ${refId}`, expr, instant });
    }
  }
  for (const { name, expr } of dashboard.annotations.list.filter(({ builtIn }) => !builtIn)) {
    found.push({ where: `${dashboard.uid}: annotation "${name}"`, expr, instant: false });
  }
  return found;
}

/** The questions behind a dashboard's variables: label_values(SERIES, LABEL). */
export function variablesOf(dashboard) {
  return dashboard.templating.list
    .filter(({ type }) => type === 'query')
    .map(({ name, query }) => {
      const [, series, label] = query.query.match(/^label_values\((.+), (\w+)\)$/);
      return { where: `${dashboard.uid}: variable ${name}`, series, label };
    });
}

/** The expression as Grafana sends it: with values in place of its variables. */
export function filledIn(expr, values) {
  return expr.replace(/\$(?:\{(\w+)\}|(\w+))/g, (whole, braced, bare) => {
    const name = braced ?? bare;
    if (!(name in values)) throw new Error(`the variable ${whole} has no value here: ${expr}`);
    return values[name];
  });
}

/** The metrics of pinfold that an expression reads, without what rules record of them. */
export function metricsIn(expr) {
  const words = expr.replaceAll(/"[^"]*"/g, '""').match(/[a-zA-Z_:][\w:]*/g) ?? [];
  return words.filter((word) => /^(?:pinfold|process)_\w+$/.test(word)).map(family);
}

/** A histogram's name without what its series add to it. */
export function family(name) {
  return name.replace(/_(?:bucket|sum|count)$/, '');
}

/** The names that docs/metrics.md tells. */
export function documented() {
  return new Set((read('docs/metrics.md').match(/\b(?:pinfold|process)_\w+\b/g) ?? []).map(family));
}
