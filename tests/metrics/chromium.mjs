// A real Chromium without a screen, driven through the pipe of its DevTools protocol: what a page shows, asks for and says.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { DEADLINE, within } from '../servers/deadline.mjs';

const flags = [
  '--headless',
  '--remote-debugging-pipe',
  // The ring runs as root, where Chromium has no sandbox; what it opens is our own.
  '--no-sandbox',
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-extensions',
  '--disable-sync',
  '--no-first-run',
  '--no-default-browser-check',
];

export class Chromium {
  #number = 0;
  #waiting = new Map();
  #pages = new Map();
  #rest = '';

  static async start() {
    const chromium = new Chromium();
    chromium.directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pinfold-chromium-'));
    const log = fs.openSync(path.join(chromium.directory, 'log'), 'w');
    const args = [...flags, `--user-data-dir=${path.join(chromium.directory, 'profile')}`, 'about:blank'];
    // Its processes have a group of their own, which goes as a whole.
    chromium.process = spawn('chromium', args, { detached: true, stdio: ['ignore', log, log, 'pipe', 'pipe'] });
    chromium.exited = once(chromium.process, 'exit');
    fs.closeSync(log);
    process.on('exit', () => chromium.#kill());
    const [, , , orders, answers] = chromium.process.stdio;
    orders.on('error', () => {});
    answers.setEncoding('utf8').on('data', (text) => chromium.#take(text));
    chromium.exited.then(() => {
      const said = chromium.directory && fs.readFileSync(path.join(chromium.directory, 'log'), 'utf8');
      for (const { reject } of chromium.#waiting.values()) reject(new Error(`Chromium is gone: ${said}`));
    });
    chromium.version = (await chromium.send('Browser.getVersion')).product;
    return chromium;
  }

  #kill() {
    try {
      process.kill(-this.process.pid, 'SIGKILL');
    } catch (error) {
      if (error.code !== 'ESRCH') throw error;
    }
  }

  /** Messages are JSON, each with a NUL at its end. */
  #take(text) {
    const messages = (this.#rest + text).split('\0');
    this.#rest = messages.pop();
    for (const message of messages) {
      const { id, result, error, method, params, sessionId } = JSON.parse(message);
      if (id === undefined) {
        this.#pages.get(sessionId)?.take(method, params);
        continue;
      }
      const { resolve, reject, what } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error) reject(new Error(`${what}: ${error.message}`));
      else resolve(result);
    }
  }

  /** Gives an order, and returns what came of it. */
  async send(method, params = {}, sessionId = undefined) {
    const id = ++this.#number;
    const answer = new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject, what: method }));
    this.process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return within(DEADLINE, `Chromium answers ${method}`, answer);
  }

  /** A page that shares nothing with any other. */
  async page() {
    const { browserContextId } = await this.send('Target.createBrowserContext');
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank', browserContextId });
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page(this, sessionId, browserContextId);
    this.#pages.set(sessionId, page);
    for (const domain of ['Page', 'Runtime', 'Network', 'Log', 'Audits']) await page.send(`${domain}.enable`);
    return page;
  }

  async stop() {
    this.#kill();
    await within(DEADLINE, 'Chromium is gone', this.exited);
    fs.rmSync(this.directory, { recursive: true, maxRetries: 10 });
  }
}

export class Page {
  #chromium;
  #session;
  #context;
  /** Addresses that it asked for. */
  requests = [];
  /** What it said that nobody wants to hear: errors and warnings on its console, and what its policy forbade. */
  complaints = [];
  /** How often it was loaded. */
  loads = 0;

  constructor(chromium, session, context) {
    this.#chromium = chromium;
    this.#session = session;
    this.#context = context;
  }

  async send(method, params = {}) {
    return this.#chromium.send(method, params, this.#session);
  }

  take(method, params) {
    switch (method) {
      case 'Network.requestWillBeSent':
        this.requests.push(params.request.url);
        break;
      case 'Page.loadEventFired':
        this.loads += 1;
        break;
      case 'Runtime.exceptionThrown':
        this.complaints.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
        break;
      case 'Runtime.consoleAPICalled':
        this.complaints.push(`${params.type}: ${params.args.map(({ value }) => value).join(' ')}`);
        break;
      case 'Log.entryAdded':
        this.complaints.push(`${params.entry.level}: ${params.entry.text}`);
        break;
      case 'Audits.issueAdded':
        this.complaints.push(`${params.issue.code}: ${JSON.stringify(params.issue.details)}`);
        break;
      case 'Page.javascriptDialogOpening':
        this.complaints.push(`a dialog: ${params.message}`);
        break;
    }
  }

  /** Opens the address, and waits until it is loaded. */
  async open(url) {
    const loads = this.loads;
    const { errorText } = await this.send('Page.navigate', { url });
    if (errorText) throw new Error(`${url}: ${errorText}`);
    const end = performance.now() + DEADLINE;
    while (this.loads === loads) {
      if (performance.now() > end) throw new Error(`${url} is not loaded`);
      // Whatever is answered, events before it were taken.
      await this.send('Page.getFrameTree');
    }
  }

  /** What the function returns there. */
  async evaluate(work, ...args) {
    const expression = `(${work})(...${JSON.stringify(args)})`;
    const answer = await this.send('Runtime.evaluate', { expression, returnByValue: true, awaitPromise: true });
    if (answer.exceptionDetails) throw new Error(answer.exceptionDetails.exception.description);
    return answer.result.value;
  }

  /** How wide and high it is, and in which of the two schemes it is wanted. */
  async look({ width = 1280, height = 800, scheme = 'light', scale = 1 } = {}) {
    const mobile = width < 500;
    await this.send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: scale, mobile });
    await this.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] });
  }

  async withoutJavaScript() {
    await this.send('Emulation.setScriptExecutionDisabled', { value: true });
  }

  /** What a screen reader has of it: the nodes that are told, by their role and name. */
  async told() {
    const { nodes } = await this.send('Accessibility.getFullAXTree');
    return nodes
      .filter(({ ignored }) => !ignored)
      .map(({ role, name }) => ({ role: role?.value, name: name?.value ?? '' }));
  }

  /** All of it as a picture, in PNG. */
  async picture() {
    const { data } = await this.send('Page.captureScreenshot', { captureBeyondViewport: true, optimizeForSpeed: false });
    return Buffer.from(data, 'base64');
  }

  async close() {
    await this.#chromium.send('Target.disposeBrowserContext', { browserContextId: this.#context });
  }
}
