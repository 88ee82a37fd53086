// The OpenClaw plug-in of pinfold: gives each MCP server the id of its session, and tells pinfold when that session is over.
//
// It runs inside the gateway. So it never throws into it and never has it wait: an order is put into a bounded queue and
// written to pinfold's socket from there. Without pinfold it says so once and does nothing. An order carries the time at which
// it was given, and pinfold spares what was launched later: however late it comes, it never hits the next session of that name.

import fs from 'node:fs';
import net from 'node:net';

/** OpenClaw keeps the servers of all sessions in one object, and finds it by this key in all versions since 2026.4. */
const MANAGER = Symbol.for('openclaw.sessionMcpRuntimeManager');
/** Where newer versions keep what reads a runtime's configuration anew. */
const OWNERS = Symbol.for('openclaw.sessionMcpRuntimeOwners');
/** What is one for the whole process, however often a gateway loads or registers this file. */
const SHARED = Symbol.for('io.pinfold.openclaw');

const ORDERS_MAX = 256;
const SESSIONS_MAX = 4096;
const ORDER_LIVES_MS = 10 * 60_000;
const ANSWER_MAX_MS = 5_000;
const ANSWER_MAX_BYTES = 1 << 20;
const PAUSE_MIN_MS = 1_000;
const PAUSE_MAX_MS = 30_000;
/** How long a gateway that ends its servers itself is given for that, before we look again. */
const RELEASE_TRIES = 60;
const RELEASE_PAUSE_MS = 1_000;
/** pinfold takes ids of at most so many bytes. */
const ID_BYTES_MAX = 200;

// ---- What a session is called

/** A session's key says what it is for, its id tells it from the one before under the same key. */
function nameOf(sessionKey, sessionId) {
  const whole = sessionKey && sessionKey !== sessionId ? `${sessionKey}#${sessionId}` : `${sessionId}`;
  for (const name of [whole, `${sessionId}`]) {
    // eslint-disable-next-line no-control-regex
    if (Buffer.byteLength(name) <= ID_BYTES_MAX && !/[\u0000-\u001f\u007f-\u009f]/.test(name)) return name;
  }
  return undefined;
}

/** The sessions whose servers were given a name, by id: a name is found again also where an event lacks the key. */
class Sessions {
  #named = new Map();

  name(sessionKey, sessionId) {
    const known = this.#named.get(sessionId);
    const name = known?.name ?? nameOf(sessionKey, sessionId);
    if (name === undefined) return undefined;
    this.#named.delete(sessionId);
    this.#named.set(sessionId, { name, sessionKey: sessionKey ?? known?.sessionKey });
    if (this.#named.size > SESSIONS_MAX) this.#named.delete(this.#named.keys().next().value);
    return name;
  }

  /** The name that its servers have, or would have. */
  find(sessionKey, sessionId) {
    return this.#named.get(sessionId)?.name ?? nameOf(sessionKey, sessionId);
  }

  withKey(sessionKey) {
    return [...this.#named].filter(([, session]) => session.sessionKey === sessionKey).map(([sessionId]) => sessionId);
  }
}

// ---- Orders

/** Where daemons may listen. A session is with the system's or with this user's own; one that it is not with does nothing. */
function sockets(chosen) {
  if (chosen) return [chosen].flat();
  const uid = process.getuid();
  const runtime = [process.env.XDG_RUNTIME_DIR, `/run/user/${uid}`].filter((directory) => directory?.startsWith('/'));
  const own = [...runtime.map((directory) => `${directory}/pinfold`), `/tmp/pinfold-${uid}`].filter((directory) => {
    try {
      return fs.statSync(directory).uid === uid;
    } catch {
      return false;
    }
  });
  const all = ['/run/pinfold/pinfold.sock', ...own.map((directory) => `${directory}/pinfold.sock`)];
  return [...new Set(all)];
}

const isObject = (value) => typeof value === 'object' && value !== null;

/** Whether a daemon has answered an order. One that it refused is answered as well. */
function isAnswer(bytes) {
  try {
    const { error, parameters } = JSON.parse(bytes.toString());
    return typeof error === 'string' || isObject(parameters);
  } catch {
    return false;
  }
}

/**
 * Sends one order and resolves to whether a daemon `answered` it. Whoever else listens there is `silent`, as is who says
 * nothing; where there is no socket the daemon is `absent`.
 */
function send(socket, parameters) {
  return new Promise((resolve) => {
    let answer = Buffer.alloc(0);
    const connection = net.connect(socket);
    const done = (how) => {
      clearTimeout(late);
      connection.destroy();
      resolve(how);
    };
    const late = setTimeout(() => done('silent'), ANSWER_MAX_MS);
    late.unref();
    connection.unref();
    connection.on('error', (error) => done(error.code === 'ENOENT' ? 'absent' : 'silent'));
    connection.on('close', () => done('silent'));
    connection.on('data', (bytes) => {
      answer = Buffer.concat([answer, bytes]);
      const end = answer.indexOf(0);
      if (end >= 0) done(isAnswer(answer.subarray(0, end)) ? 'answered' : 'silent');
      else if (answer.length > ANSWER_MAX_BYTES) done('silent');
    });
    connection.write(`${JSON.stringify({ method: 'io.pinfold.End', parameters })}\0`);
  });
}

/** What one daemon is still to be told, oldest first. */
class Line {
  #waiting = [];
  #sending = false;
  #pause = PAUSE_MIN_MS;

  constructor(socket, heard) {
    this.socket = socket;
    this.heard = heard;
  }

  add(order) {
    // Several events tell of one end; the latest of them covers the others.
    if (this.#waiting.some((waiting) => waiting.same === order.same && waiting.given > order.given)) return;
    this.#waiting = this.#waiting.filter((waiting) => waiting.same !== order.same);
    this.#waiting.push(order);
    if (this.#waiting.length > ORDERS_MAX) this.#waiting.shift();
    if (!this.#sending) void this.#send();
  }

  async #send() {
    this.#sending = true;
    try {
      while (this.#waiting.length > 0) {
        const [next] = this.#waiting;
        const how = await send(this.socket, next.parameters);
        this.heard(this.socket, how === 'answered');
        if (how === 'answered') {
          next.isTold = true;
          this.#waiting = this.#waiting.filter((waiting) => waiting !== next);
          this.#pause = PAUSE_MIN_MS;
          continue;
        }
        await new Promise((resolve) => setTimeout(resolve, this.#pause).unref());
        this.#pause = Math.min(2 * this.#pause, PAUSE_MAX_MS);
        // A daemon that was never there is told nothing that another one has heard.
        const stays = (waiting) => waiting.expires > Date.now() && !(how === 'absent' && waiting.isTold);
        this.#waiting = this.#waiting.filter(stays);
      }
    } finally {
      this.#sending = false;
    }
  }
}

/** Orders to whichever daemon has the session: each has a line of its own, so that none waits for another. */
class Orders {
  #lines = new Map();
  #silent = new Set();
  #isAbsent = false;
  socket;
  log = () => {};

  /** To end what was launched before it was `given`. */
  add(what, given) {
    const parameters = { ...what, before: `@${(given / 1000).toFixed(3)}`, wait: false };
    const order = { parameters, same: JSON.stringify(what), given, expires: given + ORDER_LIVES_MS, isTold: false };
    for (const socket of sockets(this.socket)) {
      if (!this.#lines.has(socket)) this.#lines.set(socket, new Line(socket, (from, answers) => this.#heard(from, answers)));
      this.#lines.get(socket).add(order);
    }
  }

  #heard(socket, answers) {
    if (answers) {
      this.#silent.delete(socket);
      if (this.#isAbsent) this.log('info', 'pinfold answers again');
      this.#isAbsent = false;
      return;
    }
    this.#silent.add(socket);
    if (this.#isAbsent || this.#silent.size < this.#lines.size) return;
    this.log('warn', 'pinfold does not answer; what ended meanwhile is told to it for 10 minutes');
    this.#isAbsent = true;
  }
}

// ---- The gateway's runtimes

/** The configuration with the session's name in the environment of each server that is a command. The original stays. */
function named(cfg, name) {
  const servers = cfg?.mcp?.servers;
  if (name === undefined || !isObject(servers)) return cfg;
  const given = Object.entries(servers).map(([server, entry]) => {
    const takes = isObject(entry) && typeof entry.command === 'string' && entry.env?.PINFOLD_SESSION === undefined;
    return [server, takes ? { ...entry, env: { ...entry.env, PINFOLD_SESSION: name } } : entry];
  });
  return { ...cfg, mcp: { ...cfg.mcp, servers: Object.fromEntries(given) } };
}

/**
 * The manager of this gateway, once there is one.
 *
 * Up to 2026.4.23 it only makes runtimes (`getOrCreate`), and nobody disposes of them. Later ones do. One that reads its
 * configuration anew by itself (`reloadConfig`) gives a runtime the plain one, and would restart every server whose
 * environment differs: so what reads it is given the names, too, or else nothing is named at all.
 */
class Runtimes {
  #manager;

  constructor(sessions, log) {
    this.sessions = sessions;
    this.log = log;
  }

  watch() {
    if (this.#manager !== undefined) return;
    const there = Object.hasOwn(globalThis, MANAGER) ? globalThis[MANAGER] : undefined;
    if (there !== undefined) {
      this.#take(there);
      return;
    }
    // It is made at the first session, which is not to be missed. Who makes it looks for an own property of the global
    // object first and then assigns one: a setter above sees the assignment, and is gone with it.
    const above = Object.getPrototypeOf(globalThis);
    Object.defineProperty(above, MANAGER, {
      configurable: true,
      get: () => undefined,
      set: (manager) => {
        delete above[MANAGER];
        globalThis[MANAGER] = manager;
        try {
          this.#take(manager);
        } catch (error) {
          this.log('warn', `servers get no session id: ${error?.message}`);
        }
      },
    });
  }

  #take(manager) {
    if (!isObject(manager) || this.#manager === manager) return;
    this.#manager = manager;
    const make = ['acquire', 'getOrCreate'].find((method) => typeof manager[method] === 'function');
    if (make === undefined || (typeof manager.reloadConfig === 'function' && !this.#nameReloads())) {
      this.log('warn', 'this version of OpenClaw gives no way to name sessions; each server is a session of its own');
      return;
    }
    const original = manager[make];
    manager[make] = (params, ...rest) => original.call(manager, this.#withName(params), ...rest);
    this.log('info', 'servers are given the id of their session');
  }

  #withName(params) {
    try {
      if (!params?.sessionId) return params;
      return { ...params, cfg: named(params.cfg, this.sessions.name(params.sessionKey, params.sessionId)) };
    } catch {
      return params;
    }
  }

  #nameReloads() {
    const owners = globalThis[OWNERS];
    if (!(owners instanceof WeakMap)) return false;
    const { set } = owners;
    owners.set = (runtime, owner) => {
      const { reload, replace } = owner ?? {};
      const about = (params) => this.#withName({ ...params, sessionId: runtime.sessionId, sessionKey: runtime.sessionKey });
      if (typeof reload === 'function') owner.reload = (params, ...rest) => reload.call(owner, about(params), ...rest);
      if (typeof replace === 'function') owner.replace = (params, ...rest) => replace.call(owner, about(params), ...rest);
      return set.call(owners, runtime, owner);
    };
    return true;
  }

  /** Whether the gateway ends the servers of a session itself, as far as it reaches. */
  get #disposes() {
    const manager = this.#manager;
    return typeof manager?.reloadConfig === 'function' || typeof manager?.sweepIdleRuntimes === 'function';
  }

  /** What is ended behind the back of a gateway that does not end it itself would be used again by a session of that id. */
  forget(sessionId) {
    if (this.#manager === undefined || this.#disposes) return;
    void Promise.resolve(this.#manager.disposeSession?.(sessionId)).catch(() => {});
  }

  forgetAll() {
    if (this.#manager === undefined || this.#disposes) return;
    void Promise.resolve(this.#manager.disposeAll?.()).catch(() => {});
  }

  /** Calls back once the gateway uses the session's servers no more, at once where it would never say so. */
  async released(sessionId) {
    for (let tries = 0; this.#disposes && tries < RELEASE_TRIES; tries += 1) {
      const ids = this.#manager.listSessionIds?.();
      if (!Array.isArray(ids)) return false;
      if (!ids.includes(sessionId)) return true;
      await new Promise((resolve) => setTimeout(resolve, RELEASE_PAUSE_MS).unref());
    }
    return !this.#disposes;
  }
}

// ---- The plug-in

/** A run that nobody comes back to. Its end is told by no other event. */
const isRunScoped = (sessionKey) => /:cron:/.test(sessionKey ?? '') || /(^|:)temp:/.test(sessionKey ?? '');

function shared() {
  if (globalThis[SHARED]) return globalThis[SHARED];
  const orders = new Orders();
  const sessions = new Sessions();
  const runtimes = new Runtimes(sessions, (level, line) => orders.log(level, line));
  Object.defineProperty(globalThis, SHARED, { value: { orders, sessions, runtimes }, configurable: true });
  return globalThis[SHARED];
}

/** Tells of an end. What the gateway may still use is left to it until it lets go. */
function over({ orders, sessions, runtimes }, sessionKey, sessionId, given = Date.now()) {
  const session = sessionId && sessions.find(sessionKey, sessionId);
  if (!session) return;
  runtimes.forget(sessionId);
  orders.add({ session }, given);
}

async function overOnceReleased(state, sessionKey, sessionId) {
  const given = Date.now();
  if (sessionId && (await state.runtimes.released(sessionId))) over(state, sessionKey, sessionId, given);
}

const handlers = {
  session_end(state, event, context) {
    const sessionId = event?.sessionId ?? context?.sessionId;
    // After a compaction the same run may go on under the same id.
    const goesOn = event?.reason === 'compaction' && (!event.nextSessionId || event.nextSessionId === sessionId);
    if (!goesOn) over(state, event?.sessionKey ?? context?.sessionKey, sessionId);
  },
  async subagent_ended(state, event) {
    const sessionKey = event?.targetSessionKey;
    if (!sessionKey) return;
    for (const sessionId of state.sessions.withKey(sessionKey)) void overOnceReleased(state, sessionKey, sessionId);
  },
  async agent_end(state, _event, context) {
    if (isRunScoped(context?.sessionKey)) await overOnceReleased(state, context.sessionKey, context.sessionId);
  },
  // The process may live on, and begin anew in itself.
  gateway_stop(state) {
    state.runtimes.forgetAll();
    state.orders.add({ owner_pid: process.pid }, Date.now());
  },
};

export default {
  id: 'pinfold',
  name: 'pinfold',
  description: 'Gives MCP servers the id of their session, and tells pinfold when a session is over.',
  register(api) {
    try {
      const state = shared();
      state.orders.socket = api.pluginConfig?.socket || process.env.PINFOLD_SOCKET;
      state.orders.log = (level, line) => {
        try {
          api.logger?.[level]?.(`pinfold: ${line}`);
        } catch {
          // A log that cannot be written is no reason to disturb a gateway.
        }
      };
      state.runtimes.watch();
      for (const [event, handle] of Object.entries(handlers)) {
        // Nothing is returned: the gateway would wait for it.
        api.on(event, (...given) => {
          try {
            void Promise.resolve(handle(state, ...given)).catch(() => {});
          } catch {
            // What an event does not tell is not acted on.
          }
        });
      }
    } catch (error) {
      try {
        api?.logger?.warn?.(`pinfold: not in use: ${error?.message}`);
      } catch {
        // As above.
      }
    }
  },
};
