// Whether an event of a conversation applies, and if not, why (docs/chat.md, "The fold", "Why an event is void").
//
// The order of the checks decides which reason is given: the conversation, the author's rights, the target, times and
// revisions. Who may not act at all learns nothing about the target.

import { RIGHTS, ROLES } from "./events.mjs";

export const PLATFORM = ""; // author of what the platform itself, or a backend that names no user, writes
export const BY_ONESELF = ["join", "leave", "decline"]; // about their author
export const DEFAULTS = {
  edit_window_s: null,
  delete_window_s: null,
  slow_mode_s: 0,
  unique_reactions: false,
  versions: "keep",
  history: "all",
  join: "invited",
  max_members: 1000,
  rights: {},
};
const MAX_REACTION_NAMES = 100;
const MAX_REACTIONS = 5000; // of one message, of all users
const PLATFORM_RANK = 6;
const NOT_WHEN_CLOSED = ["message", "edit", "reaction", "pin"];
const OF_GROUPS = ["add", "join", "remove", "invite", "decline"];

/** Place among the roles: 1 for reader to 5 for owner. */
export const rankOf = (role) => ROLES.indexOf(role) + 1;

/** Return the settings after a `create` or `update`; null if a right moves too far. */
export function settingsAfter(settings, change = {}) {
  const after = { ...settings };
  for (const name of Object.keys(DEFAULTS)) {
    if (Object.hasOwn(change, name) && name !== "rights") after[name] = change[name];
  }
  if (Object.hasOwn(change, "rights")) {
    if (!Object.entries(change.rights).every(([right, role]) => mayMove(right, role))) return null;
    const merged = { ...settings.rights, ...change.rights };
    after.rights = Object.fromEntries(Object.entries(merged).filter(([right, role]) => role !== RIGHTS[right]));
  }
  return after;
}

/** Return why an event is void, null if it applies. `event` is what `read` returned. */
export function decide(conversation, event, author, timeMs, offset) {
  const { kind, op } = event;
  if (!Object.hasOwn(RULES, kind)) return null;
  if (kind === "erased") return author === PLATFORM ? null : "not_allowed";
  if (conversation.phase === "deleted") return "conversation_deleted";
  if (conversation.phase === "none" && !(kind === "conversation" && op === "create")) return "no_conversation";
  if (conversation.phase === "closed" && NOT_WHEN_CLOSED.includes(kind)) return "closed";
  return RULES[kind](new Question(conversation, author, timeMs, offset), event);
}

/** An author at a time, before a state. */
class Question {
  constructor(conversation, author, timeMs, offset) {
    Object.assign(this, { c: conversation, author, timeMs, offset });
    this.rank = this.rankOf(author);
  }

  roleOf(user) {
    const member = this.c.members.get(user);
    if (member) return member.role;
    return this.c.type === "open" && user !== PLATFORM && !this.isBanned(user) ? "member" : null;
  }

  rankOf(user) {
    return user === PLATFORM ? PLATFORM_RANK : rankOf(this.roleOf(user));
  }

  may(right) {
    return this.rank >= rankOf(this.c.settings.rights[right] ?? RIGHTS[right]);
  }

  isBanned(user) {
    if (!this.c.banned.has(user)) return false;
    const until = this.c.banned.get(user);
    return until === null || until > this.timeMs;
  }

  isSilenced() {
    return (this.c.silenced.get(this.author) ?? 0) > this.timeMs;
  }

  isFull() {
    return this.c.members.size >= this.c.settings.max_members;
  }

  /** Return the live message at an offset, or why there is none. */
  target(offset) {
    const found = this.c.messages.get(offset);
    if (!found) return "no_message";
    return found.state === "deleted" ? "deleted" : found;
  }

  isLater(sinceMs, windowS) {
    return windowS !== null && this.timeMs - sinceMs > windowS * 1000;
  }
}

const RULES = {
  erased: null, // above
  message(q, event) {
    if (!q.may("post")) return "not_allowed";
    if (q.isSilenced()) return "silenced";
    if ((event.thread ?? null) === null) return null;
    const root = q.c.messages.get(event.thread);
    if (!root) return "no_message";
    // What was erased later than this message was there when it was written.
    return root.state === "deleted" && root.by < q.offset ? "deleted" : null;
  },
  edit(q, event) {
    if (!q.may("edit") && !q.may("moderate")) return "not_allowed";
    const target = q.target(event.of);
    if (typeof target === "string") return target;
    if (!q.may("moderate")) {
      if (target.author !== q.author) return "not_allowed";
      if (q.isSilenced()) return "silenced";
    }
    if (q.isLater(target.timeMs, q.c.settings.edit_window_s)) return "too_late";
    return [null, target.rev].includes(event.if_rev ?? null) ? null : "other_rev";
  },
  delete(q, event) {
    if (!q.may("moderate") && !q.may("edit")) return "not_allowed";
    const found = q.c.messages.get(event.of);
    if (found?.state === "deleted" && found.by === q.offset) return null; // erased because of this event, live before
    const target = q.target(event.of);
    if (typeof target === "string") return target;
    if (q.may("moderate")) return null;
    if (target.author !== q.author) return "not_allowed";
    return q.isLater(target.timeMs, q.c.settings.delete_window_s) ? "too_late" : null;
  },
  purge: (q, event) => (event.user === q.author || q.may("moderate") ? null : "not_allowed"),
  reaction(q, event) {
    if (!q.may("react")) return "not_allowed";
    const target = q.target(event.of);
    if (typeof target === "string") return target;
    const has = target.reactions.get(event.name)?.has(q.author) ?? false;
    if (has === (event.op === "add")) return "unchanged";
    if (has) return null;
    if (!target.reactions.has(event.name) && target.reactions.size >= MAX_REACTION_NAMES) return "too_many";
    let all = 0;
    for (const users of target.reactions.values()) all += users.size;
    return all >= MAX_REACTIONS ? "too_many" : null;
  },
  pin(q, event) {
    if (!q.may("pin")) return "not_allowed";
    const target = q.target(event.of);
    if (typeof target === "string") return target;
    return target.pinned === (event.op === "add") ? "unchanged" : null;
  },
  member(q, event) {
    const { op, user = "" } = event;
    if (q.c.type === "direct" || (q.c.type === "open" && OF_GROUPS.includes(op))) return "wrong_type";
    if (BY_ONESELF.includes(op)) {
      if (q.author === PLATFORM || !["", q.author].includes(user)) return "not_allowed";
    } else if (user === "" || (op === "role" && (event.role ?? null) === null)) {
      return "malformed";
    }
    return MEMBERSHIP[op](q, user, event);
  },
  conversation(q, event) {
    const { c } = q;
    if (event.op === "create") return whyNotCreated(q, event);
    if (!q.may(event.op === "update" ? "manage" : "own")) return "not_allowed";
    if (event.op === "update") {
      const after = settingsAfter(c.settings, event.settings);
      if (after === null) return "malformed";
      return isSame(after, c.settings) && (event.name ?? c.name) === c.name ? "unchanged" : null;
    }
    if (event.op === "delete") return null;
    return (c.phase === "closed") === (event.op === "close") ? "unchanged" : null;
  },
};

const MEMBERSHIP = {
  add: whyNotAdded,
  invite: whyNotAdded,
  join(q) {
    if (q.c.members.has(q.author)) return "unchanged";
    if (q.isBanned(q.author)) return "banned";
    if (!q.c.invited.has(q.author) && q.c.settings.join !== "anyone") return "not_invited";
    return q.isFull() ? "full" : null;
  },
  decline: (q) => (q.c.invited.has(q.author) ? null : "not_invited"),
  leave(q) {
    if (!q.c.members.has(q.author)) return "not_a_member";
    // In an open conversation a reader who left would be like everybody else, and might post again.
    return q.c.type === "open" && q.rank < rankOf("member") ? "not_allowed" : null;
  },
  remove(q, user) {
    if (!q.may("remove")) return "not_allowed";
    if (q.c.members.has(user)) return q.rank > q.rankOf(user) ? null : "not_allowed";
    return q.c.invited.has(user) ? null : "not_a_member";
  },
  ban(q, user, event) {
    if (!q.may("manage") || q.rank <= q.rankOf(user)) return "not_allowed";
    const isSameBan = q.c.banned.has(user) && q.c.banned.get(user) === (event.until ?? null);
    return isSameBan && !q.c.members.has(user) ? "unchanged" : null;
  },
  unban(q, user) {
    if (!q.may("manage")) return "not_allowed";
    return q.c.banned.has(user) ? null : "unchanged";
  },
  silence(q, user, event) {
    if (!q.may("silence") || q.rank <= q.rankOf(user)) return "not_allowed";
    if (q.roleOf(user) === null) return "not_a_member";
    return (q.c.silenced.get(user) ?? 0) === (event.until ?? 0) ? "unchanged" : null;
  },
  role(q, user, event) {
    const current = q.roleOf(user);
    const isOfOwners = [event.role, current].some((role) => role === "owner" || role === "admin");
    if (!q.may(isOfOwners ? "own" : "manage")) return "not_allowed";
    if (current === null) return "not_a_member";
    if (event.role === current) return "unchanged";
    return current === "owner" ? "not_allowed" : null; // an owner transfers to somebody else instead
  },
};

function whyNotAdded(q, user, event) {
  const { c } = q;
  const role = event.role ?? "member";
  const right = rankOf(role) >= rankOf("admin") ? "own" : role === "moderator" ? "manage" : "invite";
  if (!q.may(right) || rankOf(role) > q.rank || role === "owner") return "not_allowed";
  if (c.members.has(user) || (event.op === "invite" && c.invited.has(user))) return "unchanged";
  if (q.isBanned(user)) return "banned";
  return (event.op === "add" ? q.isFull() : c.invited.size >= c.settings.max_members) ? "full" : null;
}

function whyNotCreated(q, event) {
  if (q.c.phase !== "none") return "exists";
  if (settingsAfter(DEFAULTS, event.settings) === null) return "malformed";
  if ((event.type ?? "group") !== "direct") return null;
  const users = event.users ?? [];
  const isPair = [1, 2].includes(users.length) && new Set(users).size === users.length && !users.includes(PLATFORM);
  if (!isPair) return "malformed";
  return [PLATFORM, ...users].includes(q.author) ? null : "not_allowed";
}

function mayMove(right, role) {
  if (right === "own" || (right === "manage" && rankOf(role) < rankOf("admin"))) return role === RIGHTS[right];
  return Math.abs(rankOf(role) - rankOf(RIGHTS[right])) <= 1;
}

function isSame(one, other) {
  const names = new Set([...Object.keys(one.rights), ...Object.keys(other.rights)]);
  return (
    Object.keys(DEFAULTS).every((name) => name === "rights" || one[name] === other[name]) &&
    [...names].every((right) => one.rights[right] === other.rights[right])
  );
}
