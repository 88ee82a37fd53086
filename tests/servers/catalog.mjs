// The servers of the ring, unmodified as npm and PyPI have them, and how users start them.

import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const directory = path.dirname(fileURLToPath(import.meta.url));
const cache = path.join(directory, '..', '.cache');
const venv = path.join(cache, 'servers-venv');

/** The Python that has what `requirements.txt` names, the official SDK among it. */
export const python = path.join(venv, 'bin', 'python');

// `npx -y PACKAGE` in this directory finds what `npm ci` installed and asks no network. It still is the whole tree.
const NPX = ['npm exec', 'sh', 'node'];

function npx(specification, { args = () => [], ...rest }) {
  return { command: 'npx', args: (scratch) => ['-y', specification, ...args(scratch)], tree: NPX, ...rest };
}

const timeInTokyo = {
  name: 'convert_time',
  arguments: { source_timezone: 'UTC', time: '12:00', target_timezone: 'Asia/Tokyo' },
};

// What `tests/run` has put into the cache is enough: no network, and the same versions each time.
const uv = {
  UV_CACHE_DIR: path.join(cache, 'uv'),
  UV_CONSTRAINT: path.join(directory, 'requirements.txt'),
  UV_OFFLINE: '1',
  UV_PYTHON: python,
  UV_PYTHON_DOWNLOADS: 'never',
};

/**
 * name: what pinfold has to call it. tree: what runs, from the leader down, named as `roleOf` in kernel.mjs does.
 * call and answer: a tool that needs no network, and what its result says.
 * prepare: puts something into the scratch directory. env: beside the six variables a host gives.
 * helper: a process that the server starts in a session of its own.
 */
export const servers = [
  npx('@modelcontextprotocol/server-filesystem', {
    name: 'server-filesystem',
    args: (scratch) => [scratch],
    prepare: (scratch) => fs.writeFileSync(path.join(scratch, 'hay.txt'), 'hay\n'),
    calls: (scratch) => [{ name: 'list_directory', arguments: { path: scratch } }],
    answer: /\[FILE\] hay\.txt/,
  }),
  npx('@modelcontextprotocol/server-everything', {
    name: 'server-everything',
    calls: () => [{ name: 'echo', arguments: { message: 'is anybody in?' } }],
    answer: /is anybody in\?/,
  }),
  npx('@modelcontextprotocol/server-sequential-thinking', {
    name: 'server-sequential-thinking',
    calls: () => [
      {
        name: 'sequentialthinking',
        arguments: { thought: 'the gate is shut', nextThoughtNeeded: false, thoughtNumber: 1, totalThoughts: 1 },
      },
    ],
    answer: /"thoughtHistoryLength": 1/,
  }),
  npx('@modelcontextprotocol/server-memory', {
    name: 'server-memory',
    env: (scratch) => ({ MEMORY_FILE_PATH: path.join(scratch, 'memory.jsonl') }),
    calls: () => [
      {
        name: 'create_entities',
        arguments: { entities: [{ name: 'stray', entityType: 'animal', observations: ['was found at dawn'] }] },
      },
      { name: 'read_graph', arguments: {} },
    ],
    answer: /was found at dawn/,
  }),
  npx('@modelcontextprotocol/server-github', { name: 'server-github' }),
  npx('@upstash/context7-mcp', { name: 'context7-mcp', env: () => ({ OTEL_SDK_DISABLED: 'true' }) }),
  npx('mcp-server-sqlite-npx', {
    name: 'mcp-server-sqlite-npx',
    args: (scratch) => [path.join(scratch, 'animals.db')],
    calls: () => [
      { name: 'create_table', arguments: { query: 'CREATE TABLE animals (name TEXT)' } },
      { name: 'write_query', arguments: { query: "INSERT INTO animals VALUES ('goat')" } },
      { name: 'read_query', arguments: { query: 'SELECT name FROM animals' } },
    ],
    answer: /goat/,
  }),
  // Its package has one program, and that is called otherwise.
  npx('mcp-deepwiki', { name: 'mcp-deepwiki' }),
  // Its usage statistics are sent by a detached watchdog. That one is wanted here, and sends to a closed local port.
  npx('chrome-devtools-mcp', {
    name: 'chrome-devtools-mcp',
    args: () => ['--clearcut-endpoint=http://127.0.0.1:9/'],
    env: () => ({ CHROME_DEVTOOLS_MCP_NO_UPDATE_CHECKS: '1' }),
    tree: ['npm exec', 'sh', 'chrome-devtools-mcp', 'node'],
    helper: /telemetry\/watchdog/,
  }),
  {
    name: 'mcp_server_time',
    command: python,
    args: () => ['-m', 'mcp_server_time', '--local-timezone=UTC'],
    tree: ['python'],
    calls: () => [timeInTokyo],
    answer: /21:00/,
  },
  {
    name: 'mcp-server-time',
    command: path.join(venv, 'bin', 'uvx'),
    args: () => ['mcp-server-time', '--local-timezone=UTC'],
    tree: ['uv', 'python'],
    env: () => uv,
    calls: () => [timeInTokyo],
    answer: /21:00/,
  },
];

/** What a host is told to launch, with nothing of ours in front. */
export function launchOf(server, scratch) {
  server.prepare?.(scratch);
  return { command: server.command, args: server.args(scratch), env: server.env?.(scratch) ?? {}, cwd: directory };
}
