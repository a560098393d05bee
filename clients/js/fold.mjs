// The fold of a conversation: what it is, from what its log says happened (docs/chat.md).
//
//     const conversation = new Conversation();
//     for (const publication of history) apply(conversation, entryOf(publication));
//     view(conversation).messages["17"].text
//
// It comes to the same state as the server, whatever the log holds: every event changes the state or is void, and
// nothing but offset, author, time and data of a publication is read. `tests/chat/vectors` says for both what must come
// out. It needs no other package, and neither a browser nor Node.js.
//
// A fold needs the log from its beginning, or a state at a position to go on from.

import { read } from "./events.mjs";
import { BY_ONESELF, DEFAULTS, PLATFORM, decide, rankOf, settingsAfter } from "./rules.mjs";

/** A conversation at one position of its log; change it with `apply` alone. */
export class Conversation {
  phase = "none"; // none, active, closed, deleted
  type = "group"; // direct, group, open
  name = "";
  settings = { ...DEFAULTS };
  members = new Map(); // user → { role, since, roleSince, from }
  invited = new Map(); // user → the role that joining gives
  banned = new Map(); // user → until, Unix ms; null: for good
  silenced = new Map(); // user → until, Unix ms
  messages = new Map(); // offset → a live message, or { state: "deleted", by, counts, replies }
  written = new Map(); // author → offsets of messages, ascending, also deleted
  n = 0; // messages that count, ever

  /** The owner, null without one. */
  get owner() {
    for (const [user, member] of this.members) if (member.role === "owner") return user;
    return null;
  }
}

/**
 * Change the state by one publication of its log.
 *
 * @param {Conversation} conversation
 * @param {{offset: number, author: string, timeMs: number, data: Uint8Array | string | object}} entry Publications come
 *     in order, none missing. `author` is empty for the platform; `data` is JSON, or what it was parsed to.
 * @returns {string | null} Why it is void, such as "deleted"; null if it applies.
 */
export function apply(conversation, entry) {
  const event = read(entry.data);
  if (event === null) return "malformed";
  const why = decide(conversation, event, entry.author, entry.timeMs, entry.offset);
  if (why === null && Object.hasOwn(EFFECTS, event.kind)) EFFECTS[event.kind](conversation, event, entry);
  return why;
}

/** Return the state after these publications, which begin the log, or follow those that led to `conversation`. */
export function fold(entries, conversation = new Conversation()) {
  for (const entry of entries) apply(conversation, entry);
  return conversation;
}

/** Return the entry that a publication of a history, a recovery or a subscription is. */
export function entryOf(publication) {
  return {
    offset: publication.offset,
    author: publication.info?.user ?? PLATFORM,
    timeMs: Number(publication.tags?.time ?? publication.time ?? 0),
    data: publication.data,
  };
}

/** Return the state as JSON-like values, the same in which the server's is compared. */
export function view(c) {
  const members = [...c.members].map(([user, m]) => [
    user,
    { role: m.role, since: m.since, role_since: m.roleSince, from: m.from },
  ]);
  return {
    phase: c.phase,
    type: c.phase === "none" ? null : c.type,
    name: c.name,
    settings: { ...c.settings },
    owner: c.owner,
    members: Object.fromEntries(members),
    invited: Object.fromEntries(c.invited),
    banned: Object.fromEntries([...c.banned].map(([user, until]) => [user, until ?? "for good"])),
    silenced: Object.fromEntries(c.silenced),
    messages: Object.fromEntries([...c.messages].map(([offset, message]) => [offset, messageView(message)])),
    n: c.n,
  };
}

function messageView(message) {
  if (message.state === "deleted") return { ...message };
  const { timeMs, content, replyTo, reactions, ...rest } = message;
  const names = [...reactions].map(([name, users]) => [name, [...users]]);
  return { ...rest, time_ms: timeMs, ...content, reply_to: replyTo, reactions: Object.fromEntries(names) };
}

const EFFECTS = {
  message(c, event, entry) {
    const thread = event.thread ?? null;
    const counts = !event.silent && thread === null;
    c.messages.set(entry.offset, {
      state: "live",
      author: entry.author,
      timeMs: entry.timeMs,
      content: contentOf(event),
      rev: entry.offset,
      counts,
      replyTo: event.reply_to ?? null,
      thread,
      reactions: new Map(), // name → users, both in order of their arrival
      replies: 0, // live messages in its thread
      pinned: false,
    });
    if (!c.written.has(entry.author)) c.written.set(entry.author, []);
    c.written.get(entry.author).push(entry.offset);
    if (thread !== null) c.messages.get(thread).replies += 1;
    c.n += counts;
  },
  edit(c, event, entry) {
    const message = c.messages.get(event.of);
    message.content = contentOf(event);
    message.rev = entry.offset;
  },
  delete(c, event, entry) {
    drop(c, event.of, entry.offset);
  },
  purge(c, event, entry) {
    const written = c.written.get(event.user) ?? [];
    const behind = written.findIndex((offset) => offset > event.upto);
    for (const offset of written.splice(0, behind < 0 ? written.length : behind)) drop(c, offset, entry.offset);
  },
  reaction(c, event, entry) {
    const { reactions } = c.messages.get(event.of);
    if (event.op === "remove") {
      withdraw(reactions, event.name, entry.author);
      return;
    }
    if (c.settings.unique_reactions) {
      for (const [name, users] of [...reactions]) if (users.has(entry.author)) withdraw(reactions, name, entry.author);
    }
    if (!reactions.has(event.name)) reactions.set(event.name, new Set());
    reactions.get(event.name).add(entry.author);
  },
  pin(c, event) {
    c.messages.get(event.of).pinned = event.op === "add";
  },
  member(c, event, entry) {
    const { op } = event;
    const user = BY_ONESELF.includes(op) ? entry.author : event.user;
    const role = event.role ?? "member";
    if (op === "add") enter(c, user, role, entry.offset, event.from ?? 0);
    if (op === "join") enter(c, user, c.invited.get(user) ?? "member", entry.offset, 0);
    if (op === "invite") c.invited.set(user, role);
    if (["decline", "leave", "remove", "ban"].includes(op)) c.invited.delete(user);
    if (op === "ban") c.banned.set(user, event.until ?? null);
    if (op === "unban") c.banned.delete(user);
    if (["leave", "remove", "ban"].includes(op)) exit(c, user, entry.offset);
    if (op === "role") promote(c, user, role, entry.offset);
    if (op === "silence") {
      c.silenced.delete(user);
      if (event.until) c.silenced.set(user, event.until);
    }
  },
  conversation(c, event, entry) {
    if (event.op === "close") c.phase = "closed";
    if (event.op === "reopen") c.phase = "active";
    if (event.op === "delete") {
      Object.assign(c, new Conversation(), { phase: "deleted", type: c.type, n: c.n });
    }
    if (event.op === "create" || event.op === "update") {
      c.name = event.name ?? c.name;
      c.settings = settingsAfter(c.settings, event.settings);
    }
    if (event.op === "create") {
      c.phase = "active";
      c.type = event.type ?? "group";
      if (c.type === "direct") for (const user of event.users) admit(c, user, "member", entry.offset, 0);
      else if (entry.author !== PLATFORM) admit(c, entry.author, "owner", entry.offset, 0);
    }
  },
  erased(c, event, entry) {
    if (event.was !== "message" || c.phase === "deleted") return;
    const counts = event.counts ?? false;
    c.messages.set(entry.offset, { state: "deleted", by: event.by, counts, replies: 0 });
    c.n += counts;
  },
};

function contentOf(event) {
  return {
    text: event.text ?? "",
    format: event.format ?? "plain",
    attachments: event.attachments ?? [],
    mentions: event.mentions ?? [],
    mention_all: event.mention_all ?? false,
    meta: event.meta ?? {},
  };
}

/** Delete a message, unless it is deleted already. */
function drop(c, offset, by) {
  const message = c.messages.get(offset);
  if (message.state === "deleted") return;
  c.messages.set(offset, { state: "deleted", by, counts: message.counts, replies: message.replies });
  if (message.thread !== null) c.messages.get(message.thread).replies -= 1;
}

/** Take a user's reaction away, and its name with the last user. */
function withdraw(reactions, name, user) {
  reactions.get(name).delete(user);
  if (reactions.get(name).size === 0) reactions.delete(name);
}

function admit(c, user, role, offset, from) {
  c.members.set(user, { role, since: offset, roleSince: offset, from });
}

/** Make a user a member; the first member of a group becomes its owner. */
function enter(c, user, role, offset, from) {
  c.invited.delete(user);
  c.banned.delete(user); // a ban that has ended
  const isFirst = c.type === "group" && c.members.size === 0;
  const visibleFrom = c.settings.history === "joined" ? offset : Math.max(0, Math.min(from, offset));
  admit(c, user, isFirst ? "owner" : role, offset, visibleFrom);
}

/** End a membership, if there is one; an owner is followed by somebody else. */
function exit(c, user, offset) {
  const member = c.members.get(user);
  c.members.delete(user);
  if (member?.role !== "owner") return;
  let heir = null;
  for (const other of c.members.values()) {
    if (c.type !== "group" && rankOf(other.role) < rankOf("moderator")) continue;
    const rank = rankOf(other.role) - (heir ? rankOf(heir.role) : 0);
    // Of several with one role the one who has had it for the longest time.
    if (!heir || rank > 0 || (rank === 0 && other.roleSince < heir.roleSince)) heir = other;
  }
  if (heir) Object.assign(heir, { role: "owner", roleSince: offset });
}

/** Give a role; ownership is transferred, and who had it is admin then. */
function promote(c, user, role, offset) {
  if (role === "owner") {
    for (const other of c.members.values()) {
      if (other.role === "owner") Object.assign(other, { role: "admin", roleSince: offset });
    }
  }
  const member = c.members.get(user);
  // An open conversation lists those whose role is not `member`.
  if (!member) admit(c, user, role, offset, 0);
  else if (role === "member" && c.type === "open") c.members.delete(user);
  else Object.assign(member, { role, roleSince: offset });
}
