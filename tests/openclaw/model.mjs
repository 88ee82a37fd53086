// A model that needs no network: speaks chat completions as OpenAI does, and calls the tools that the user's message names.
//
// In a message, each line `call TOOL {JSON}` is a tool to be called, one after the other. Once all have answered, the model
// says what the last of them said.

import http from 'node:http';

const textOf = (content) =>
  typeof content === 'string' ? content : (content ?? []).map((part) => part.text ?? '').join('\n');

/** What the model does next: a tool to call, or a text to say. */
export function answerTo({ messages }) {
  const asked = messages.findLastIndex(({ role, content }) => role === 'user' && /^call /m.test(textOf(content)));
  if (asked < 0) return { text: 'nothing was asked for' };
  const calls = [...textOf(messages[asked].content).matchAll(/^call (\S+) (\{.*\})$/gm)];
  const results = messages.slice(asked).filter(({ role }) => role === 'tool');
  const next = calls[results.length];
  if (next) return { call: { name: next[1], arguments: next[2] } };
  return { text: `all called: ${results.map(({ content }) => textOf(content)).join(' | ')}` };
}

export class Model {
  #server = http.createServer((request, response) => this.#serve(request, response));
  #said = [];
  asked = 0;

  static async start() {
    const model = new Model();
    await new Promise((resolve) => model.#server.listen(0, '127.0.0.1', resolve));
    return model;
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}/v1`;
  }

  /** How often it has said something like this. */
  said(pattern) {
    return this.#said.filter((text) => pattern.test(text)).length;
  }

  async #serve(request, response) {
    let body = '';
    for await (const chunk of request) body += chunk;
    if (!request.url.endsWith('/chat/completions')) {
      response.writeHead(404).end();
      return;
    }
    this.asked += 1;
    const { model, messages, stream } = JSON.parse(body);
    const { text, call } = answerTo({ messages });
    if (text !== undefined) this.#said.push(text);
    const tool = call && { index: 0, id: `call_${this.asked}`, type: 'function', function: call };
    const said = { role: 'assistant', content: text ?? null, ...(tool && { tool_calls: [tool] }) };
    const finish_reason = call ? 'tool_calls' : 'stop';
    const usage = { prompt_tokens: 10, completion_tokens: 10, total_tokens: 20 };
    const head = { id: `answer_${this.asked}`, created: 1, model };
    if (!stream) {
      response.writeHead(200, { 'content-type': 'application/json' });
      const choices = [{ index: 0, message: said, finish_reason }];
      response.end(JSON.stringify({ ...head, object: 'chat.completion', choices, usage }));
      return;
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    const chunk = (choices, more = {}) =>
      response.write(`data: ${JSON.stringify({ ...head, object: 'chat.completion.chunk', choices, ...more })}\n\n`);
    chunk([{ index: 0, delta: said, finish_reason: null }]);
    chunk([{ index: 0, delta: {}, finish_reason }]);
    chunk([], { usage });
    response.end('data: [DONE]\n\n');
  }

  stop() {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}
