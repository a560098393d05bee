// The console's client: centrifuge-js, with what the console shows of it besides. What the SDK does (connecting again,
// recovering, pings, tokens) is not repeated here. See docs/decisions/0031.
import { Centrifuge, UnauthorizedError, connectingCodes, disconnectedCodes } from './vendor/centrifuge.js';

const MOST_BYTES = 65_536; // of one command; the server closes with 1009 beyond
export const TOO_BIG = 1009;
const INVALID_TOKEN = 3500;
const DROPPED = 4001;
const FIRST_SERVER_ERROR = 100; // smaller codes of errors are those of the SDK itself
const FIRST_UNSUBSCRIBE_CODE = 2_000; // smaller codes are errors, which refuse a subscription

// The size that a text has on the wire.
export const bytesOf = (text) => new TextEncoder().encode(text).length;

// The SDK, with three things that its public interface leaves out: the time of a publication, idempotency keys, and the
// wait before the next attempt. The methods with `_` are its own; a test fails if another version has them no more.
class Sdk extends Centrifuge {
  _getPublicationContext(channel, publication) {
    return { ...super._getPublicationContext(channel, publication), time: publication.time ?? 0 };
  }

  _getReconnectDelay() {
    const delay = super._getReconnectDelay();
    this.emit('waiting', delay);
    return delay;
  }

  publishOnce(channel, data, key) {
    return this._callPromise({ publish: { channel, data, idempotency_key: key } }, (reply) => reply.publish ?? {});
  }
}

// Events (by `on(name, handler)`): state {state, reason, in_s, signIn}, frame {out, text}, subscribed, publication, join, leave,
// unsubscribed, failed; each of these with the channel. `signIn`: the token is of no use any more.
export class Client {
  #handlers = new Map();
  #subscriptions = new Map(); // channel → {sub, position: {offset, epoch} | null, recovered: the publications of a reply}
  #sdk;
  #socket = null;
  #opened = 0;
  #why = ''; // the connection was lost
  #closed = 0; // code of the last close
  #signIn = ''; // why there is no token any more

  // getToken: (renew: boolean) => Promise<string>; renew: the last one has expired
  constructor(url, getToken) {
    let known = false;
    this.id = '';
    this.latency = null;
    this.#sdk = new Sdk(url, {
      name: 'console',
      minReconnectDelay: 250,
      maxReconnectDelay: 10_000,
      websocket: this.#tapped(),
      getToken: async () => {
        try {
          const token = await getToken(known);
          known = true;
          return token;
        } catch (error) {
          if (error.terminal) {
            this.#signIn = error.message;
            throw new UnauthorizedError(error.message);
          }
          this.#why = error.message;
          throw error;
        }
      },
    });
    this.#sdk.on('connecting', ({ code, reason }) => this.#lost(code, reason));
    this.#sdk.on('waiting', (delay) => this.#set('connecting', { reason: this.#why, in_s: delay / 1000 }));
    this.#sdk.on('connected', ({ client }) => {
      this.latency = performance.now() - this.#opened;
      this.id = client;
      this.#why = '';
      this.#set('connected');
    });
    this.#sdk.on('disconnected', ({ code, reason }) => this.#ended(code, reason));
  }

  get state() {
    return this.#sdk.state;
  }

  on(name, handler) {
    this.#handlers.set(name, [...(this.#handlers.get(name) ?? []), handler]);
  }

  #tell(name, detail) {
    for (const handler of this.#handlers.get(name) ?? []) handler(detail);
  }

  #set(state, detail = {}) {
    this.#tell('state', { state, ...detail });
  }

  // A constructor of sockets for the SDK, whose frames and ends are told.
  #tapped() {
    const client = this;
    return function Tapped(url) {
      client.#set('connecting');
      const socket = new WebSocket(url);
      client.#socket = socket;
      socket.addEventListener('open', () => { client.#opened = performance.now(); });
      socket.addEventListener('message', ({ data }) => {
        if (socket === client.#socket) client.#tell('frame', { out: false, text: data });
      });
      socket.addEventListener('close', ({ code, reason }) => {
        if (socket === client.#socket) client.#gone(code, reason || `closed (${code})`);
      });
      const send = socket.send?.bind(socket);
      socket.send = (text) => {
        client.#tell('frame', { out: true, text });
        send(text);
      };
      return socket;
    };
  }

  #gone(code, why) {
    this.#socket = null;
    this.#closed = code;
    this.#why = why;
  }

  #lost(code, reason) {
    this.id = '';
    if (code === connectingCodes.noPing) this.#why = 'the server is silent';
    else if (code !== connectingCodes.connectCalled) this.#why ||= reason;
  }

  #ended(code, reason) {
    this.id = '';
    if (code === disconnectedCodes.messageSizeLimit) this.#sdk.connect(); // what was too long is not sent again
    else if (code === disconnectedCodes.unauthorized) this.#set('disconnected', { reason: this.#signIn, signIn: true });
    else if (code === disconnectedCodes.disconnectCalled) this.#set('disconnected', { reason: 'you logged out' });
    else this.#set('disconnected', { reason: `${reason} (${code})`, signIn: code === INVALID_TOKEN });
  }

  connect() {
    this.#sdk.connect();
  }

  disconnect() {
    this.#sdk.disconnect();
  }

  // Cut the socket without a word to the server's session: what a bad network does.
  drop() {
    const socket = this.#socket;
    if (!socket) return;
    this.#gone(DROPPED, 'dropped by you');
    socket.close(DROPPED, 'dropped by the console');
    socket.onclose?.({ code: DROPPED, reason: 'dropped by the console' }); // now, and not once the server has answered
  }

  subscribe(channel, position = null) {
    if (this.#subscriptions.has(channel)) return;
    const sub = this.#sdk.newSubscription(channel, { recoverable: true, joinLeave: true, since: position });
    const entry = { sub, position, recovered: null };
    this.#subscriptions.set(channel, entry);
    sub.on('subscribed', (context) => this.#subscribed(entry, context));
    sub.on('publication', (publication) => this.#published(entry, publication));
    sub.on('join', ({ info }) => this.#tell('join', { channel, info }));
    sub.on('leave', ({ info }) => this.#tell('leave', { channel, info }));
    sub.on('unsubscribed', ({ code, reason }) => {
      if (this.#subscriptions.get(channel) !== entry) return; // by us
      this.#subscriptions.delete(channel);
      this.#sdk.removeSubscription(sub);
      if (code < FIRST_UNSUBSCRIBE_CODE) this.#tell('failed', { channel, error: { code, message: reason } });
      else this.#tell('unsubscribed', { channel, code, reason });
    });
    sub.subscribe();
  }

  // The SDK tells of the publications of the reply right after it, one by one; the console, how many there were.
  #subscribed(entry, { channel, wasRecovering, recovered, streamPosition }) {
    const publications = [];
    entry.position = streamPosition ?? null;
    entry.recovered = publications;
    queueMicrotask(() => {
      entry.recovered = null;
      this.#tell('subscribed', { channel, recovering: wasRecovering, recovered, publications });
    });
  }

  #published(entry, publication) {
    const { offset, channel } = publication;
    if (offset && entry.position) {
      if (offset <= entry.position.offset) return; // seen before
      entry.position = { ...entry.position, offset };
    }
    if (entry.recovered) entry.recovered.push(publication);
    else this.#tell('publication', { channel, publication });
  }

  unsubscribe(channel) {
    const entry = this.#subscriptions.get(channel);
    this.#subscriptions.delete(channel);
    if (entry) this.#sdk.removeSubscription(entry.sub);
  }

  // The last publication that was seen; null: none, or the channel keeps none.
  position(channel) {
    return this.#subscriptions.get(channel)?.position ?? null;
  }

  // Resolves to the reply {offset, epoch}. Rejects with {code, message, temporary} if the server refused, and without a
  // code if that is not known: `closed` is then the code that the connection was closed with, 0: it was not.
  async publish(channel, data, key) {
    if (this.state !== 'connected') throw new Error('not connected');
    const size = bytesOf(JSON.stringify({ publish: { channel, data, idempotency_key: key } }));
    if (size > MOST_BYTES) {
      const message = `too long: ${size.toLocaleString('en')} bytes, and ${MOST_BYTES.toLocaleString('en')} are possible`;
      throw Object.assign(new Error(message), { code: TOO_BIG });
    }
    const started = performance.now();
    this.#closed = 0;
    try {
      const result = await this.#sdk.publishOnce(channel, data, key);
      this.latency = performance.now() - started;
      return result;
    } catch (error) {
      if (error.code >= FIRST_SERVER_ERROR) throw error;
      throw Object.assign(new Error(error.message), { closed: this.#closed });
    }
  }

  // Resolves to {publications, epoch, offset}, newest first.
  history(channel, limit, since) {
    return this.#sdk.history(channel, { limit, reverse: true, ...(since ? { since } : {}) });
  }

  // Resolves to the result of a method of the server.
  async rpc(method, params) {
    return (await this.#sdk.rpc(method, params)).data;
  }

  // Resolves to {clients: {id: info}}.
  presence(channel) {
    return this.#sdk.presence(channel);
  }
}
