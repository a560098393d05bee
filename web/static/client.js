// A small client of the Centrifugal JSON protocol: connects, keeps subscriptions, recovers what was missed.

const PING_GRACE_MS = 10_000;
const ANSWER_MS = 5_000;
const MOST_BYTES = 65_536; // of one command; the server closes with 1009 beyond
export const TOO_BIG = 1009;
const INVALID_TOKEN = 3500;

export class ProtocolError extends Error {
  constructor({ code, message, temporary = false }) {
    super(message);
    this.code = code;
    this.temporary = temporary;
  }
}

// Milliseconds before the attempt with this number (from 0): doubling, up to 10 s, with full jitter of the upper half.
export function backoff(attempt, random = Math.random) {
  const most = Math.min(10_000, 250 * 2 ** attempt);
  return most / 2 + (most / 2) * random();
}

// The size that a text has on the wire.
export const bytesOf = (text) => new TextEncoder().encode(text).length;

// Clients come back after 3000-3499, 4000-4499, 5000 and up, and after anything below 3000.
export function isTerminal(code) {
  return (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);
}

// The objects of one frame: one per line.
export function parseFrame(text) {
  return text.split('\n').map((line) => JSON.parse(line));
}

// What a client knows of one subscription, and what each answer and push makes of it. No I/O.
export class SubscriptionState {
  constructor(channel, position = null) {
    this.channel = channel;
    this.position = position; // {offset, epoch}; null: none yet
    this.active = false;
  }

  request() {
    const request = { channel: this.channel, recoverable: true, join_leave: true };
    return this.position ? { ...request, recover: true, ...this.position } : request;
  }

  // Returns what to show: how it went, and the publications that were missed.
  subscribed(result) {
    this.active = true;
    const publications = result.publications ?? [];
    const had = this.position !== null;
    if (result.epoch) {
      const last = publications.at(-1)?.offset ?? result.offset ?? 0;
      this.position = { offset: last, epoch: result.epoch };
    }
    return { recovering: had && Boolean(result.was_recovering), recovered: Boolean(result.recovered), publications };
  }

  // Whether the publication is news; an older one is not.
  published(publication) {
    if (!publication.offset) return true;
    if (this.position && publication.offset <= this.position.offset) return false;
    this.position = { offset: publication.offset, epoch: publication.epoch || this.position?.epoch || '' };
    return true;
  }
}

// Events (by `on(name, handler)`): state {state, reason, in_s, signIn}, frame {out, text}, subscribed, publication, join, leave,
// unsubscribed, failed; each of these with the channel. `signIn`: the token is of no use any more.
export class Client {
  #handlers = new Map();
  #subscriptions = new Map();
  #calls = new Map();
  #id = 0;
  #socket = null;
  #attempt = 0;
  #timers = { retry: 0, ping: 0, refresh: 0 };
  #wanted = false;
  #pingEvery = 25;

  constructor(url, getToken) {
    this.url = url;
    this.getToken = getToken; // (renew: boolean) => Promise<string>; renew: the last one has expired
    this.state = 'disconnected';
    this.id = '';
    this.latency = null;
  }

  on(name, handler) {
    this.#handlers.set(name, [...(this.#handlers.get(name) ?? []), handler]);
  }

  #tell(name, detail) {
    for (const handler of this.#handlers.get(name) ?? []) handler(detail);
  }

  #set(state, detail = {}) {
    this.state = state;
    this.#tell('state', { state, ...detail });
  }

  connect() {
    this.#wanted = true;
    this.#open(false);
  }

  disconnect() {
    const socket = this.#socket;
    this.#end('disconnected', 'you logged out');
    socket?.close(1000);
  }

  // Cut the socket without a word to the server's session: what a bad network does.
  drop() {
    const socket = this.#socket;
    this.#lost('dropped by you');
    socket?.close(4001, 'dropped by the console');
  }

  retryNow() {
    if (this.#wanted && !this.#socket) {
      clearTimeout(this.#timers.retry);
      this.#open(false);
    }
  }

  async #open(renew) {
    this.#set('connecting');
    let token;
    try {
      token = await this.getToken(renew);
    } catch (error) {
      if (error.terminal) this.#end('disconnected', error.message, true);
      else this.#lost(error.message);
      return;
    }
    if (!this.#wanted || this.#socket) return;
    const socket = new WebSocket(this.url);
    this.#socket = socket;
    socket.onopen = () => this.#hello(socket, token);
    socket.onmessage = ({ data }) => { if (socket === this.#socket) this.#frame(data); };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.#socket) return;
      if (isTerminal(code)) this.#end('disconnected', `${reason} (${code})`, code === INVALID_TOKEN);
      else this.#lost(reason || `closed (${code})`, code);
    };
  }

  async #hello(socket, token) {
    try {
      const started = performance.now();
      const result = await this.#call('connect', { token, name: 'console' });
      this.latency = performance.now() - started;
      this.id = result.client;
      this.#pingEvery = result.ping ?? 0;
      this.#attempt = 0;
      this.#heard();
      if (result.expires) this.#refreshIn(result.ttl);
      this.#set('connected');
      for (const subscription of this.#subscriptions.values()) this.#subscribe(subscription);
    } catch (error) {
      if (socket !== this.#socket) return;
      if (error.code === 109) {
        this.#forget();
        socket.close(1000);
        this.#open(true);
      } else if (error.code && !error.temporary) {
        this.#end('disconnected', error.message);
        socket.close(1000);
      } else {
        this.#lost(error.message);
        socket.close(1000);
      }
    }
  }

  #refreshIn(ttl) {
    clearTimeout(this.#timers.refresh);
    this.#timers.refresh = setTimeout(async () => {
      try {
        const result = await this.#call('refresh', { token: await this.getToken(true) });
        if (result.expires) this.#refreshIn(result.ttl);
      } catch (error) {
        if (!error.terminal) this.#refreshIn(5);
      }
    }, Math.max(1, ttl - 10) * 1000);
  }

  // The connection is gone; come back after a while.
  #lost(reason, code = 0) {
    this.#forget(code);
    if (!this.#wanted) return;
    const wait = backoff(this.#attempt);
    this.#attempt += 1;
    this.#set('connecting', { reason, in_s: wait / 1000 });
    clearTimeout(this.#timers.retry);
    this.#timers.retry = setTimeout(() => this.#open(false), wait);
  }

  #end(state, reason, signIn = false) {
    this.#wanted = false;
    clearTimeout(this.#timers.retry);
    this.#forget();
    this.#set(state, { reason, signIn });
  }

  #forget(code = 0) {
    this.#socket = null;
    this.id = '';
    clearTimeout(this.#timers.ping);
    clearTimeout(this.#timers.refresh);
    for (const subscription of this.#subscriptions.values()) subscription.active = false;
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    for (const call of calls) call.fail(Object.assign(new Error('the connection was lost'), { closed: code }));
  }

  #heard() {
    clearTimeout(this.#timers.ping);
    if (!this.#pingEvery) return;
    const socket = this.#socket;
    this.#timers.ping = setTimeout(() => {
      if (socket !== this.#socket) return;
      this.#lost('the server is silent');
      socket.close(4002, 'no ping');
    }, this.#pingEvery * 1000 + PING_GRACE_MS);
  }

  #send(text) {
    this.#tell('frame', { out: true, text });
    this.#socket.send(text);
  }

  #call(method, request) {
    if (!this.#socket || this.#socket.readyState !== WebSocket.OPEN) {
      return Promise.reject(new Error('not connected'));
    }
    this.#id += 1;
    const id = this.#id;
    const text = JSON.stringify({ id, [method]: request });
    const size = bytesOf(text);
    if (size > MOST_BYTES) {
      const message = `too long: ${size.toLocaleString('en')} bytes, and ${MOST_BYTES.toLocaleString('en')} are possible`;
      return Promise.reject(new ProtocolError({ code: TOO_BIG, message }));
    }
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#calls.delete(id);
        reject(Object.assign(new Error('no answer in time'), { late: true }));
      }, ANSWER_MS);
      const end = (how) => (value) => { clearTimeout(timer); how(value); };
      this.#calls.set(id, { done: end(resolve), fail: end(reject), method });
      this.#send(text);
    });
  }

  #frame(text) {
    this.#tell('frame', { out: false, text });
    for (const reply of parseFrame(text)) {
      if (reply.id) {
        const call = this.#calls.get(reply.id);
        this.#calls.delete(reply.id);
        if (reply.error) call?.fail(new ProtocolError(reply.error));
        else call?.done(reply[call.method] ?? {});
      } else if (reply.push) {
        this.#push(reply.push);
      } else {
        this.#heard();
        this.#send('{}');
      }
    }
  }

  #push(push) {
    const { channel } = push;
    const subscription = this.#subscriptions.get(channel);
    if (!subscription) return;
    if (push.pub) {
      if (subscription.published(push.pub)) this.#tell('publication', { channel, publication: push.pub });
    } else if (push.join) {
      this.#tell('join', { channel, info: push.join.info });
    } else if (push.leave) {
      this.#tell('leave', { channel, info: push.leave.info });
    } else if (push.unsubscribe) {
      subscription.active = false;
      if (push.unsubscribe.code >= 2500) this.#subscribe(subscription);
      else {
        this.#subscriptions.delete(channel);
        this.#tell('unsubscribed', { channel, ...push.unsubscribe });
      }
    }
  }

  async #subscribe(subscription) {
    const { channel } = subscription;
    const socket = this.#socket;
    try {
      const result = await this.#call('subscribe', subscription.request());
      this.#tell('subscribed', { channel, ...subscription.subscribed(result) });
    } catch (error) {
      if (error.code && !error.temporary) {
        this.#subscriptions.delete(channel);
        this.#tell('failed', { channel, error });
      } else if (error.code) {
        setTimeout(() => {
          if (this.#subscriptions.get(channel) === subscription && this.state === 'connected') this.#subscribe(subscription);
        }, backoff(1));
      } else if (error.late && socket === this.#socket) { // with the reply would go what was missed: ask anew
        this.#lost(error.message);
        socket.close(4003, 'no answer to subscribe');
      } // else the connection was lost: all is subscribed again when it is back
    }
  }

  subscribe(channel, position = null) {
    if (this.#subscriptions.has(channel)) return;
    const subscription = new SubscriptionState(channel, position);
    this.#subscriptions.set(channel, subscription);
    if (this.state === 'connected') this.#subscribe(subscription);
  }

  async unsubscribe(channel) {
    this.#subscriptions.delete(channel);
    if (this.state === 'connected') await this.#call('unsubscribe', { channel }).catch(() => undefined);
  }

  position(channel) {
    return this.#subscriptions.get(channel)?.position ?? null;
  }

  async publish(channel, data, key) {
    const started = performance.now();
    const result = await this.#call('publish', { channel, data, idempotency_key: key });
    this.latency = performance.now() - started;
    return result;
  }

  history(channel, limit, since) {
    return this.#call('history', { channel, limit, reverse: true, ...(since ? { since } : {}) });
  }

  presence(channel) {
    return this.#call('presence', { channel });
  }
}
