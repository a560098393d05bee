// Who is signed in, in this tab alone: refresh tokens are good once, so two tabs must not share one.

const KEY = 'thalamus.session';
const ROOMS = 'thalamus.rooms';

export class SignInError extends Error {
  constructor(message, terminal = false) {
    super(message);
    this.terminal = terminal;
  }
}

function plainWords(status, body) {
  const message = body?.error?.message ?? '';
  if (status === 401) return 'The username or the password is wrong.';
  if (status === 409) return 'That username is taken.';
  if (status === 429) return 'Too many attempts. Wait a minute, then try again.';
  if (status === 503) return 'Signing in is not possible right now. Try again soon.';
  return message ? message[0].toUpperCase() + message.slice(1) : `The server answered ${status}.`;
}

async function post(path, body, token = '') {
  let response;
  try {
    response = await fetch(path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...(token ? { Authorization: `Bearer ${token}` } : {}) },
      body: JSON.stringify(body),
    });
  } catch {
    throw new SignInError('The server cannot be reached.');
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok || !answer?.result) {
    throw Object.assign(new SignInError(plainWords(response.status, answer), response.status === 401), { status: response.status });
  }
  return answer.result;
}

// Who may make an account: open, invite or closed. Open where the server does not say: it refuses whom it does not want.
export async function registration() {
  try {
    const response = await fetch('/auth/registration');
    return (await response.json()).result?.registration ?? 'open';
  } catch {
    return 'open';
  }
}

// The claims of a token, unchecked: for showing who one is. Null: it is no token.
function claimsOf(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return null;
  }
}

function userOf(token) {
  const claims = claimsOf(token);
  return claims ? claims.info?.name || String(claims.sub ?? '') || 'anonymous' : 'unknown';
}

export class Session {
  #data;
  #renewing = null;

  constructor(data) {
    this.#data = data;
  }

  static restore() {
    const text = sessionStorage.getItem(KEY);
    return text ? new Session(JSON.parse(text)) : null;
  }

  static async signIn(how, username, password, invite = '') {
    const session = new Session(null);
    session.#keep(await post(`/auth/${how}`, { username, password, ...(how === 'register' && invite ? { invite } : {}) }));
    return session;
  }

  static withToken(token) {
    const session = new Session({ access_token: token, username: userOf(token), pasted: true });
    session.#save();
    return session;
  }

  get name() {
    return this.#data.username;
  }

  // The id by which the server knows this user; empty: anonymous, or not to be told.
  get user() {
    return String(claimsOf(this.#data.access_token)?.sub ?? '');
  }

  #keep(pair) {
    this.#data = { ...pair, expires_at: Date.now() + pair.expires_in_s * 1000 };
    this.#save();
  }

  #save() {
    sessionStorage.setItem(KEY, JSON.stringify(this.#data));
  }

  // For the client: the token, a new one if the present one has run out or `renew` is set.
  async token(renew) {
    if (this.#data.pasted) {
      if (renew) throw new SignInError('The token has expired.', true);
      return this.#data.access_token;
    }
    if (!renew && this.#data.expires_at > Date.now() + 5_000) return this.#data.access_token;
    this.#renewing ??= post('/auth/refresh', { refresh_token: this.#data.refresh_token })
      .then((pair) => this.#keep(pair))
      .catch((error) => { throw error.terminal ? new SignInError('You were signed out. Log in again.', true) : error; })
      .finally(() => { this.#renewing = null; });
    await this.#renewing;
    return this.#data.access_token;
  }

  // Profiles of users by their ids; who is not known is left out.
  async profiles(users) {
    return (await post('/auth/profiles', { users }, await this.token(false))).profiles;
  }

  // The id of the user with this username, or with this id; null: there is none.
  async find(name) {
    const token = await this.token(false);
    try {
      return (await post('/auth/find', { username: name }, token)).user;
    } catch (error) {
      if (error.status !== 404 && error.status !== 400) throw error;
    }
    return (await this.profiles([name]))[0]?.user ?? null;
  }

  // What this tab knows of the session goes; the server is not told.
  forget() {
    sessionStorage.removeItem(KEY);
  }

  async signOut() {
    this.forget();
    sessionStorage.removeItem(ROOMS);
    if (this.#data.refresh_token) await post('/auth/logout', { refresh_token: this.#data.refresh_token }).catch(() => undefined);
  }
}

export function saveRooms(rooms, current, positions) {
  const saved = { current, rooms: rooms.map((room) => ({ ...room.save(), position: positions(room.channel) })) };
  try {
    sessionStorage.setItem(ROOMS, JSON.stringify(saved));
  } catch {
    sessionStorage.removeItem(ROOMS); // full: a reload starts afresh
  }
}

export function loadRooms() {
  const text = sessionStorage.getItem(ROOMS);
  return text ? JSON.parse(text) : null;
}
