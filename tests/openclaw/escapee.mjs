// An MCP server that leaves a process behind: in a session of its own, with none of the server's descriptors, so that neither
// a signal to the process group nor a closed stdin reaches it.

import { spawn } from 'node:child_process';
import readline from 'node:readline';

// Bounded: what a broken-off run forgets is gone after a while.
const escaped = spawn('sleep', ['1200'], { detached: true, stdio: 'ignore' });
escaped.unref();

const tools = [{ name: 'where', description: 'Tells its process.', inputSchema: { type: 'object', properties: {} } }];

const answers = {
  initialize: ({ protocolVersion }) => ({
    protocolVersion,
    capabilities: { tools: {} },
    serverInfo: { name: 'escapee', version: '1.0.0' },
  }),
  ping: () => ({}),
  'tools/list': () => ({ tools }),
  'tools/call': () => ({ content: [{ type: 'text', text: `escapee ${process.pid} and ${escaped.pid}` }] }),
};

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const { id, method, params } = JSON.parse(line);
  if (id === undefined) return;
  const answer = answers[method];
  const said = answer ? { result: answer(params) } : { error: { code: -32601, message: 'method not found' } };
  process.stdout.write(`${JSON.stringify({ jsonrpc: '2.0', id, ...said })}\n`);
});
