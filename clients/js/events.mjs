// Events of a conversation, as a log holds them (docs/chat.md, "Events").
//
// `read` checks types and no bounds, and ignores unknown members. So an event that was accepted keeps its meaning when
// a bound is changed, and what a later version adds hides no message from this one.
//
// What JSON.parse does not tell is read from the text: how deep it is nested, whether an integer was written with a
// fraction or exponent, numbers too large for a double, halves of surrogate pairs. Where a library hands out data that
// is parsed already, none of these can be in it, since nobody can publish them.

const MAX_DEPTH = 32; // nested arrays and objects, the event itself included
const STRING = /"(?:[^"\\]|\\.)*"/gs;
const STRING_OR_NUMBER = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/gs;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export const ROLES = ["reader", "member", "moderator", "admin", "owner"];
export const RIGHTS = {
  react: "reader",
  post: "member",
  edit: "member",
  invite: "member",
  moderate: "moderator",
  silence: "moderator",
  remove: "moderator",
  pin: "moderator",
  manage: "admin",
  own: "owner",
};

const isText = (value) => typeof value === "string";
const isFlag = (value) => typeof value === "boolean";
const isInteger = (value) => Number.isInteger(value);
const isOffset = (value) => Number.isSafeInteger(value) && value >= 1;
const isTime = (value) => Number.isSafeInteger(value) && value >= 0;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isList = (value) => Array.isArray(value);
const orNull = (check) => (value) => value === null || check(value);
const oneOf =
  (...allowed) =>
  (value) =>
    allowed.includes(value);

const isRights = (value) =>
  isObject(value) && Object.entries(value).every(([right, role]) => Object.hasOwn(RIGHTS, right) && ROLES.includes(role));
const SETTINGS = {
  edit_window_s: orNull(isInteger),
  delete_window_s: orNull(isInteger),
  slow_mode_s: isInteger,
  unique_reactions: isFlag,
  versions: oneOf("keep", "erase"),
  history: oneOf("all", "joined"),
  join: oneOf("invited", "anyone"),
  max_members: isInteger,
  rights: isRights,
};
const WRITTEN = {
  text: isText,
  format: isText,
  attachments: isList,
  mentions: (value) => isList(value) && value.every(isText),
  mention_all: isFlag,
  meta: isObject,
  erased: isFlag,
  next: orNull(isOffset),
};

// Members of each kind; those behind `needed` must be there.
const KINDS = {
  message: { needed: [], reply_to: orNull(isOffset), thread: orNull(isOffset), silent: isFlag, cid: isText, ...WRITTEN },
  edit: { needed: ["of"], of: isOffset, if_rev: orNull(isOffset), ...WRITTEN },
  delete: { needed: ["of"], of: isOffset, reason: isText },
  purge: { needed: ["user", "upto"], user: isText, upto: isOffset },
  reaction: { needed: ["of", "name", "op"], of: isOffset, name: isText, op: oneOf("add", "remove") },
  pin: { needed: ["of", "op"], of: isOffset, op: oneOf("add", "remove") },
  member: {
    needed: ["op"],
    op: oneOf("add", "join", "leave", "remove", "ban", "unban", "role", "invite", "decline", "silence"),
    user: isText,
    role: orNull(oneOf(...ROLES)),
    from: isInteger,
    until: orNull(isTime),
  },
  conversation: {
    needed: ["op"],
    op: oneOf("create", "update", "close", "reopen", "delete"),
    type: oneOf("direct", "group", "open"),
    name: isText,
    settings: (value) => isObject(value) && hasShape(value, SETTINGS),
    users: (value) => isList(value) && value.every(isText),
  },
  erased: { needed: ["was", "by"], was: isText, by: isOffset, counts: isFlag, thread: orNull(isOffset) },
};

/**
 * Return the event that a publication holds, null if it is none.
 *
 * @param {Uint8Array | string | object} data JSON as UTF-8, as a text, or what it was parsed to.
 * @returns {object | null} The event as written, without defaults. Of an unknown kind: `kind` alone.
 */
export function read(data) {
  let event = data;
  let checked = data; // the same without integers that were written as `1.0`; null: a number is too large
  if (data instanceof Uint8Array || typeof data === "string") {
    try {
      const text = typeof data === "string" ? data : utf8.decode(data);
      if (isTooDeep(text) || hasHalfAPair(text)) return null;
      event = checked = JSON.parse(text);
      const integers = integersAlone(text);
      if (integers !== text) checked = integers === null ? null : JSON.parse(integers);
    } catch {
      return null;
    }
  }
  if (!isObject(event) || !Object.hasOwn(event, "kind") || !isText(event.kind)) return null;
  if (!Object.hasOwn(KINDS, event.kind)) return { kind: event.kind };
  return checked !== null && hasShape(checked, KINDS[event.kind]) ? event : null;
}

function hasShape(value, shape) {
  return (
    (shape.needed ?? []).every((name) => Object.hasOwn(value, name)) &&
    Object.keys(value).every((name) => !Object.hasOwn(shape, name) || name === "needed" || shape[name](value[name]))
  );
}

function isTooDeep(text) {
  let depth = 0;
  for (const [bracket] of text.replace(STRING, "").matchAll(/[[\]{}]/g)) {
    depth += bracket === "[" || bracket === "{" ? 1 : -1;
    if (depth > MAX_DEPTH) return true;
  }
  return false;
}

/** Tell whether a text has half a surrogate pair, written as an escape or as it is. */
function hasHalfAPair(text) {
  if (/\p{Surrogate}/u.test(text)) return true;
  if (!/\\u[dD]/.test(text)) return false;
  const escapes = text.replaceAll("\\\\", "").replace(/\\u[dD][89abAB]..\\u[dD][c-fC-F]../gs, "");
  return /\\u[dD][89a-fA-F]/.test(escapes);
}

/** Return the text with 0.5 in place of whatever has a fraction or exponent; null if a number is too large. */
function integersAlone(text) {
  let isFinite = true;
  const replaced = text.replace(STRING_OR_NUMBER, (token) => {
    if (token[0] === '"' || !/[.eE]/.test(token)) return token;
    isFinite &&= Number.isFinite(Number(token));
    return "0.5";
  });
  return isFinite ? replaced : null;
}
