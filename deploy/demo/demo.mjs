// A host in small: it launches one MCP server through `pinfold run`, speaks MCP to it, and ends its session. It takes the
// daemon that every launch takes: the one that runs, or one that the launch starts, as a service where systemd is.
// What it prints is read back from pinfold and from the kernel. DEMO_SERVER names another server than the one from npm.

import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';

const pinfold = process.env.PINFOLD;
const session = 'demo';
const runsAlready = listens();
setTimeout(() => fail('not done within three minutes'), 180_000);

function fail(why) {
  console.error(`the demo failed: ${why}`);
  process.exit(1);
}

function tell(...args) {
  return execFileSync(pinfold, args, { encoding: 'utf8' });
}

// The system's daemon, or whichever PINFOLD_SOCKET names.
function listens() {
  const socket = process.env.PINFOLD_SOCKET ?? '/run/pinfold/pinfold.sock';
  return fs.readFileSync('/proc/net/unix', 'utf8').includes(` ${path.resolve(socket)}\n`);
}

function show(...args) {
  console.log(`\n$ pinfold ${args.join(' ')}`);
  process.stdout.write(tell(...args));
}

function alive(pid) {
  try {
    return !/\) Z/.test(fs.readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

// The server's command, as a host has it in its configuration; and beside it what tools leave behind: a process that has
// left the process group and the session of its terminal, and that no signal of the host reaches.
const real = process.env.DEMO_SERVER ?? 'npx -y @modelcontextprotocol/server-everything';
const command = ['sh', '-c', `setsid sleep 1000 & exec ${real}`];
console.log(`\n$ pinfold run --session ${session} --server everything -- ${command[0]} -c '${command[2]}'`);
const server = spawn(pinfold, ['run', '--session', session, '--server', 'everything', '--', ...command], {
  stdio: ['pipe', 'pipe', 'pipe'],
});
let stderr = '';
server.stderr.on('data', (chunk) => (stderr += chunk));
server.on('exit', (code) => code && fail(`pinfold run left with status ${code}: ${stderr}`));

const waiting = new Map();
readline.createInterface({ input: server.stdout }).on('line', (line) => {
  const { id, result } = JSON.parse(line);
  waiting.get(id)?.(result);
});
let last = 0;
function request(method, params = {}) {
  const id = ++last;
  server.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', id, method, params })}\n`);
  return new Promise((resolve) => waiting.set(id, resolve));
}

const { serverInfo } = await request('initialize', {
  protocolVersion: '2025-06-18',
  capabilities: {},
  clientInfo: { name: 'pinfold-demo', version: '1.0.0' },
});
server.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', method: 'notifications/initialized' })}\n`);
const { tools } = await request('tools/list');
const { content } = await request('tools/call', { name: 'echo', arguments: { message: 'hello from inside' } });
console.log(`  ${serverInfo.name} answers: ${tools.length} tools; echo says ${JSON.stringify(content[0].text)}`);

show('ls');
const [{ cgroup, servers, memory }] = JSON.parse(tell('ls', '--json'));
const pids = fs.readFileSync(path.join(servers[0].cgroup, 'cgroup.procs'), 'utf8').trim().split('\n').map(Number);
console.log('\nIn its leaf, the kernel says:');
for (const pid of pids) {
  const argv = fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').join(' ').trim();
  console.log(`  ${String(pid).padStart(7)}  ${argv.slice(0, 90)}`);
}

server.removeAllListeners('exit');
const began = performance.now();
show('end', session);
const took = Math.round(performance.now() - began);
show('ls');
const left = pids.filter(alive);
console.log(`
${pids.length} processes before, ${left.length} after; cgroup ${fs.existsSync(cgroup) ? 'STILL THERE' : 'gone'}; \
${Math.round((memory.current_bytes ?? 0) / 2 ** 20)} MiB given back; the end took ${took} ms.`);

// One that this demo started on demand would leave by itself a minute from now.
if (!runsAlready) {
  process.kill(JSON.parse(tell('doctor', '--json')).daemon.pid, 'SIGTERM');
  while (listens()) await new Promise((resolve) => setTimeout(resolve, 10));
}
if (left.length > 0 || fs.existsSync(cgroup)) fail('something was left');
process.exit(0);
