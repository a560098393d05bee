// What is known of each channel: messages in the order of the log, what is still being sent, who is here. No DOM.

import { isConversation } from './chat.js';

const KEPT = 500;
export const MOST_READ = 1_000; // messages, older ones that were read included
const SAVED = 200;
const EVENT = /^(message|edit|delete|purge|reaction|pin|member|conversation|erased|x\..+)$/; // kinds of docs/chat.md

// Whether data is an event of a conversation.
export const isEvent = (data) => typeof data?.kind === 'string' && EVENT.test(data.kind);

// Where in an ascending list of offsets this one belongs; the index of an equal one is returned as it is.
export function placeOf(entries, offset) {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (entries[middle].offset < offset) low = middle + 1;
    else high = middle;
  }
  return low;
}

export class Room {
  constructor(channel) {
    this.channel = channel;
    this.messages = []; // {offset, data, info, at: ms by the server, 0: not known}, ascending; entries without offset only at the end
    this.pending = []; // {key, data, state: 'sending' | 'failed', note}
    this.members = new Map(); // client → info
    this.doubts = new Map(); // user → info: left with one client, and not seen to have left with the others
    this.lists = new Set(); // for each list of members that was asked for: which clients came or left since
    this.unread = 0;
    this.changed = new Map(); // offset of a message → what it is now: {text, edited} or {deleted}
    this.epoch = '';
    this.reachedStart = false;
    this.problem = '';
  }

  // Returns where it was put, or -1 if it was known.
  add(publication) {
    const entry = { offset: publication.offset ?? 0, data: publication.data, info: publication.info ?? null, at: publication.time ?? 0 };
    if (!entry.offset) {
      this.messages.push(entry);
      return this.messages.length - 1;
    }
    const index = placeOf(this.messages, entry.offset);
    const known = this.messages[index];
    if (known?.offset === entry.offset) {
      known.at ||= entry.at; // one of ours, shown since its acknowledgement, which says no time
      return -1;
    }
    this.messages.splice(index, 0, entry);
    if (this.messages.length > KEPT && index > KEPT / 2) {
      this.messages.shift();
      this.reachedStart = false;
      return index - 1;
    }
    return index;
  }

  // What is published for a text: a conversation takes events alone. Its log shows what the channel is; before anything of
  // that has come, its name does.
  written(text) {
    const newest = this.messages.at(-1);
    return (newest ? isEvent(newest.data) : isConversation(this.channel)) ? { kind: 'message', text } : { text };
  }

  // Offsets of the messages here that these publications are about: they may have changed.
  targets(publications) {
    const found = new Set();
    for (const { data, offset } of publications) {
      if (data?.kind === 'edit' || data?.kind === 'delete') found.add(data.of);
      if (data?.kind === 'purge') {
        for (const one of this.messages) if (one.info?.user === data.user && one.offset < offset) found.add(one.offset);
      }
    }
    return this.messages.map((one) => one.offset).filter((one) => found.has(one));
  }

  // What became of a message; of a deleted one nothing is kept.
  became(offset, change) {
    this.changed.set(offset, change);
    const message = this.messages.find((one) => one.offset === offset);
    if (message && change.deleted) message.data = { kind: 'erased' };
  }

  // The offset of the newest publication here; 0: there is none.
  newest() {
    return this.messages.findLast((message) => message.offset)?.offset ?? 0;
  }

  sending(key, data) {
    const entry = { key, data, state: 'sending', note: '' };
    this.pending.push(entry);
    return entry;
  }

  settled(entry) {
    const index = this.pending.indexOf(entry);
    if (index >= 0) this.pending.splice(index, 1);
  }

  forget() {
    this.messages = [];
    this.reachedStart = false;
  }

  oldest() {
    return this.messages.find((message) => message.offset)?.offset ?? 0;
  }

  // Whether this client is here, or another one of its user.
  has({ user, client }) {
    return this.members.has(client) || (Boolean(user) && [...this.members.values()].some((info) => info.user === user));
  }

  // A client joined or left. Returns whether that is news: the first client of its user, or the last one. A second join of a
  // client is an update. A leave of a client that is not known is of one who came back unseen, and left: the leave of
  // the client of before came first, and was the news.
  told(info, joined) {
    const before = this.has(info);
    for (const changed of this.lists) changed.add(info.client);
    if (joined) this.members.set(info.client, info);
    else this.members.delete(info.client);
    const after = this.has(info);
    // Where joins and leaves are told by user, this was the last client; so it may be where presence lost what it knew.
    if (!joined && after) this.doubts.set(info.user, info);
    return before !== after;
  }

  // A list of members is asked for. Give what this returns to `listed` together with the list, or with null if there is none.
  listing() {
    const changed = new Set();
    this.lists.add(changed);
    return changed;
  }

  // Takes the list, but for clients that came or left since it was asked for. Returns those of `doubted` who have left.
  listed(changed, clients, doubted = []) {
    this.lists.delete(changed);
    if (!clients) return [];
    const before = doubted.filter((info) => this.has(info));
    for (const client of this.members.keys()) if (!changed.has(client)) this.members.delete(client);
    for (const [client, info] of Object.entries(clients)) if (!changed.has(client)) this.members.set(client, info);
    return before.filter((info) => !this.has(info));
  }

  // The longest of what waits for its acknowledgement.
  longest() {
    const size = (entry) => JSON.stringify(entry.data).length;
    return this.pending.filter((entry) => entry.state === 'sending').sort((a, b) => size(b) - size(a))[0];
  }

  // One row per user: name, how many clients, whether one of them is mine.
  people(myClient) {
    const users = new Map();
    for (const info of this.members.values()) {
      const name = nameOf(info);
      const person = users.get(info.user) ?? { user: info.user, name, tabs: 0, me: false };
      person.tabs += 1;
      person.me ||= info.client === myClient;
      users.set(info.user, person);
    }
    return [...users.values()].sort((a, b) => a.name.localeCompare(b.name));
  }

  // The name of a user, as the people here and messages tell it. What a backend publishes for a user says no name.
  nameOfUser(user) {
    const names = (info) => info?.user === user && Boolean(info.connInfo?.name);
    return nameOf([...this.members.values()].find(names) ?? this.messages.findLast(({ info }) => names(info))?.info ?? { user });
  }

  save() {
    return { channel: this.channel, messages: this.messages.filter((message) => message.offset).slice(-SAVED) };
  }

  static load(saved) {
    const room = new Room(saved.channel);
    room.messages = saved.messages ?? [];
    return room;
  }
}

export function nameOf(info) {
  return info?.connInfo?.name || info?.user || 'backend';
}
