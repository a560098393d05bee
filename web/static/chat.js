// The user's conversations: which there are, what is unread in them, who types, who has read. No DOM. See docs/chat.md.

const TYPING_EVERY_MS = 3_000; // others are told no more often
const TYPING_SHOWN_MS = 6_000; // without another word it is over
const SOON_MS = 100; // what is asked for or told meanwhile is one request
const MOST = 50; // conversations that are looked at
const EVENTS = new Set(['typing', 'receipt', 'profile']); // ephemeral events that this page knows
const NAME = /^[^:]+:[dgo]\./; // channels of direct, group and open conversations
const NOT_PLAIN = /[^!"$'()+\-.0-9:;<=>?@A-Z[\\\]^_`a-z|~%]|%(?=[0-9A-Fa-f]{2})/gu;
const UNKNOWN_METHOD = 104;

export const isConversation = (channel) => NAME.test(channel);

// A channel in which the server tells this user alone: what happens to the user, or where something was said.
export function personalChannel(user, namespace = 'user') {
  const escaped = (text) => [...new TextEncoder().encode(text)].map((byte) => `%${byte.toString(16).toUpperCase().padStart(2, '0')}`);
  return `${namespace}:#${user.replace(NOT_PLAIN, (text) => escaped(text).join(''))}`;
}

// Whether an answer is of no earlier state than another one: the marker is not behind, nor the position.
function isNoOlder(answer, known) {
  const [a, b] = [answer.marker, known.marker];
  if (a && b && (a.generation !== b.generation || a.offset !== b.offset)) {
    return a.generation > b.generation || (a.generation === b.generation && a.offset > b.offset);
  }
  return answer.as_of?.epoch !== known.as_of?.epoch || (answer.as_of?.offset ?? 0) >= (known.as_of?.offset ?? 0);
}

// `call(method, params)`: rpc. `changed(channel)`: something of this conversation is to be shown anew; without a channel:
// the list. `now()`: ms.
export class Chat {
  conversations = new Map(); // channel → {channel, name, with, time, last, unread, mentions, atLeast, marker, as_of}
  watches = null; // whether the server pushes where something was said; null: that is not known yet
  #call;
  #changed;
  #now;
  #typing = new Map(); // channel → Map of user → until when it is shown
  #receipts = new Map(); // channel → Map of user → offset up to which the user has read
  #read = new Map(); // channel → offset up to which was told that it is read
  #waiting = new Map(); // what is to be done soon, by name
  #said = new Map(); // channel → when others were told last that this user types
  #lacks = new Set(); // methods that the server does not know
  #since = null; // with which to ask for what changed; null: for all

  constructor(call, changed, now = () => Date.now()) {
    this.#call = call;
    this.#changed = changed;
    this.#now = now;
  }

  // Null where the server has no such method.
  async #ask(method, params) {
    if (this.#lacks.has(method)) return null;
    try {
      return await this.#call(method, params);
    } catch (error) {
      if (error.code !== UNKNOWN_METHOD) throw error;
      this.#lacks.add(method);
      return null;
    }
  }

  // Calls that come before it is done are one. What fails is done again with the next reason to.
  #soon(name, work) {
    if (this.#waiting.has(name)) return;
    this.#waiting.set(name, setTimeout(() => {
      this.#waiting.delete(name);
      work().catch(() => undefined);
    }, SOON_MS));
  }

  // List the conversations, the last activity first, and what is unread in them.
  async load() {
    const page = await this.#ask('inbox.list', { limit: MOST });
    this.#since = page?.since ?? null;
    const known = this.conversations;
    this.conversations = new Map();
    for (const one of page?.conversations ?? []) this.#put(one, known.get(one.channel));
    this.#sorted();
  }

  // What has changed since it was asked last.
  async #more() {
    const page = this.#since && await this.#ask('inbox.list', { limit: MOST, since: this.#since });
    if (!page || page.all || page.cursor) return this.load();
    this.#since = page.since ?? this.#since;
    for (const one of page.conversations) this.#put(one, this.conversations.get(one.channel));
    return this.#sorted();
  }

  #put(one, known) {
    if (!one.role) this.conversations.delete(one.channel); // invited, or no member any more
    else if (known && !isNoOlder(one, known)) this.conversations.set(one.channel, known);
    else {
      this.conversations.set(one.channel, {
        channel: one.channel,
        name: one.name ?? '',
        with: one.with ?? '',
        time: one.time ?? 0,
        last: one.last?.text ?? '',
        unread: one.unread ?? 0,
        mentions: one.mentions ?? 0,
        atLeast: Boolean(one.at_least),
        marker: one.marker,
        as_of: one.as_of,
      });
    }
  }

  #sorted() {
    this.conversations = new Map([...this.conversations].sort(([, a], [, b]) => b.time - a.time));
    this.#changed();
  }

  reload() {
    this.#soon('list', () => this.load());
  }

  // What is unread in one of them.
  async #count(channel) {
    const found = this.conversations.has(channel) && await this.#ask('markers.get', { channel });
    const entry = this.conversations.get(channel);
    if (!found || !entry || !isNoOlder(found, entry)) return;
    const { marker, as_of, unread, mentions } = found;
    Object.assign(entry, { marker, as_of, unread, mentions, atLeast: Boolean(found.at_least) });
    this.#changed(channel);
  }

  recount(channel) {
    this.#soon(`count ${channel}`, () => this.#count(channel));
  }

  // What the personal channels tell.
  notice({ kind, channel }) {
    if (kind === 'marker') this.recount(channel);
    else if (kind === 'inbox') this.#soon('more', () => this.#more());
    else this.reload();
  }

  // A publication of a conversation. Returns whether it is an ephemeral event, and so no part of the log.
  take(channel, { offset, data, info }) {
    if (offset) {
      if (data?.kind === 'message') this.#wrote(channel, data, info?.user ?? '');
      if (this.watches) return false; // a push tells of it, too
      if (['edit', 'delete', 'purge'].includes(data?.kind)) this.reload(); // the preview, too
      else this.recount(channel);
      return false;
    }
    if (!isConversation(channel) || !EVENTS.has(data?.kind)) return false;
    if (data.kind === 'typing') this.#typed(channel, data.user, data.on);
    if (data.kind === 'receipt') this.#hasRead(channel, data.user, data.read);
    return true;
  }

  #wrote(channel, { text }, user) {
    this.#typed(channel, user, false);
    const entry = this.conversations.get(channel);
    if (!entry) return;
    entry.last = text ?? '';
    entry.time = Math.max(entry.time, this.#now());
    this.conversations = new Map([[channel, entry], ...this.conversations]); // it comes first now
    this.#changed(channel);
  }

  #typed(channel, user, on) {
    const typing = this.#typing.get(channel) ?? new Map();
    this.#typing.set(channel, typing);
    if (on) {
      typing.set(user, this.#now() + TYPING_SHOWN_MS);
      setTimeout(() => this.#changed(channel), TYPING_SHOWN_MS + 1).unref?.(); // Node.js need not wait for it
    } else if (!typing.delete(user)) {
      return;
    }
    this.#changed(channel);
  }

  // Other users who type there now.
  typing(channel, me) {
    const now = this.#now();
    return [...this.#typing.get(channel) ?? []].filter(([user, until]) => user !== me && until > now).map(([user]) => user);
  }

  // This user types there, or does no more.
  types(channel, on) {
    const last = this.#said.get(channel) ?? 0;
    if (!isConversation(channel) || (on ? this.#now() - last < TYPING_EVERY_MS : !last)) return;
    this.#said.set(channel, on ? this.#now() : 0);
    this.#ask(on ? 'typing.start' : 'typing.stop', { channel }).catch(() => undefined);
  }

  #hasRead(channel, user, offset) {
    const receipts = this.#receipts.get(channel) ?? new Map();
    this.#receipts.set(channel, receipts);
    receipts.set(user, Math.max(offset, receipts.get(user) ?? 0));
    this.#changed(channel);
  }

  // Other users who are known to have read up to an offset.
  readers(channel, offset, me) {
    return [...this.#receipts.get(channel) ?? []].filter(([user, read]) => user !== me && read >= offset).map(([user]) => user);
  }

  // Ask who has read a message.
  async askReaders(channel, offset) {
    const page = await this.#ask('receipts.list', { channel, offset });
    for (const { user } of page?.read ?? []) this.#hasRead(channel, user, offset);
  }

  // Everything up to an offset is in view.
  shown(channel, offset) {
    if (!isConversation(channel) || offset <= (this.#read.get(channel) ?? 0)) return;
    this.#read.set(channel, offset);
    this.#soon(`read ${channel}`, async () => {
      await this.#ask('markers.read', { channel, offset: this.#read.get(channel) });
      await this.#count(channel);
    });
  }

  // Begin a conversation: with one user and no name a direct one, else a group. Returns its channel; a repeat with the same
  // key begins no other one. `left`: users who could not be added.
  async begin(users, name, key) {
    const kind = users.length === 1 && !name ? { type: 'direct' } : { type: 'group', name };
    const made = await this.#ask('conversations.create', { ...kind, users, key });
    if (!made) throw new Error('this server has no conversations');
    return { channel: made.channel, left: Object.keys(made.not_added ?? {}) };
  }

  edit(channel, of, text) {
    return this.#ask('messages.edit', { channel, of, text });
  }

  remove(channel, of) {
    return this.#ask('messages.delete', { channel, of });
  }

  // What a message is now: {text, edited}, or {deleted: true}; null: that is not known.
  async message(channel, offset) {
    try {
      const found = await this.#ask('messages.get', { channel, offset });
      return found && { text: found.text, edited: Boolean(found.edited) };
    } catch (error) {
      return error.code === 410 ? { deleted: true } : null;
    }
  }
}
