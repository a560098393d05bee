// The console: signs in, joins channels, shows what happens.
import { Chat, isConversation, personalChannel } from './chat.js';
import { Client, TOO_BIG } from './client.js';
import { RoomView } from './room_view.js';
import { MOST_READ, Room, nameOf } from './rooms.js';
import { SearchBox } from './search.js';
import { Session, loadRooms, registration, saveRooms } from './session.js';
import { Frames, byId, colour, element, initials } from './view.js';

const PAGE = 50;
const FIRST_ROOM = 'chat:lobby';
const RETRY_MS = 1_000;

const frames = new Frames();
const rooms = new Map();
const view = new RoomView(() => session.name, (room) => loadOlder(room), {
  mine: ({ info }) => Boolean(session.user) && info?.user === session.user,
  onShown: (room) => showRead(room),
  onAction: (room, offset, what) => act(room, offset, what),
});
let session = null;
let client = null;
let chat = null;
let search = null;
let editing = 0; // offset of the message that is being edited; 0: none is
let current = '';
let countdown = 0;
let beginKey = ''; // of the conversation that the form begins: sent twice, it begins one

const newKey = () => crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`; // of a call that may be repeated

// Signing in.

function showSignIn(message = '') {
  byId('console').hidden = true;
  byId('sign-in').hidden = false;
  byId('sign-in-error').hidden = !message;
  byId('sign-in-error').textContent = message;
  byId('username').focus();
  registration().then((who) => {
    byId('register').hidden = who === 'closed';
    byId('invite-field').hidden = who !== 'invite';
  });
}

byId('sign-in-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const how = event.submitter?.value ?? 'login';
  const buttons = [byId('log-in'), byId('register')];
  for (const button of buttons) button.disabled = true;
  try {
    start(await Session.signIn(how, byId('username').value, byId('password').value, byId('invite').value.trim()));
  } catch (error) {
    showSignIn(error.message);
  } finally {
    for (const button of buttons) button.disabled = false;
  }
});

byId('use-token').addEventListener('click', () => {
  const token = byId('token').value.trim();
  if (token) start(Session.withToken(token));
});

byId('log-out').addEventListener('click', async () => {
  client.disconnect();
  client = null;
  await session.signOut();
  location.reload();
});

// The token is of no use: sign in again. Whoever does so in this tab finds the same channels, and nothing that was said.
function backToSignIn(reason) {
  saveRooms([...rooms.keys()].map((channel) => new Room(channel)), current, () => null);
  byId('frames-clear').click();
  session.forget();
  client = null;
  rooms.clear();
  names.clear();
  search.end();
  showSignIn(reason);
}

function start(found) {
  session = found;
  byId('sign-in').hidden = true;
  byId('console').hidden = false;
  byId('me').textContent = session.name;
  byId('password').value = byId('invite').value = '';
  const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
  client = new Client(`${scheme}://${location.host}/connection/websocket`, (renew) => session.token(renew));
  chat = new Chat((method, params) => client.rpc(method, params), (channel) => showChat(channel));
  search = new SearchBox((method, params) => client.rpc(method, params), { titleOf: titleOfChannel, namesOf, onOpen: enter });
  listen(client);
  const saved = loadRooms();
  for (const entry of saved?.rooms ?? [{ channel: FIRST_ROOM, position: null }]) {
    rooms.set(entry.channel, Room.load(entry));
    client.subscribe(entry.channel, entry.messages?.length ? entry.position : null);
  }
  open(saved?.current && rooms.has(saved.current) ? saved.current : [...rooms.keys()][0] ?? '');
  client.connect();
  byId('composer-text').focus();
}

// What the client tells.

function listen(of) {
  of.on('frame', (frame) => frames.add(frame));
  of.on('state', showState);
  of.on('state', ({ state }) => { if (state === 'connected') beginChat(of); });
  of.on('subscribed', ({ channel, recovering, recovered, publications }) => {
    if (channel === personal()) for (const { data } of publications) chat.notice(data);
    if (channel === personal(INBOX)) watching(true);
    const room = rooms.get(channel);
    if (!room) return;
    room.problem = '';
    if (recovering && !recovered) {
      room.forget();
      view.note(room, 'could not recover what was missed; history is loaded anew', 'bad');
      if (channel === current) view.render();
    }
    for (const publication of publications) take(room, publication);
    if (recovering && recovered) {
      const count = publications.length;
      view.note(room, `reconnected — ${count ? `recovered ${count} missed message${count > 1 ? 's' : ''}` : 'nothing was missed'}`, 'good');
    }
    loadMembers(room);
    if (!room.messages.length) loadOlder(room);
    refresh(room, room.messages);
    resend(room);
    showChannels();
    showFacts();
  });
  of.on('publication', ({ channel, publication }) => {
    if (channel === personal() || channel === personal(INBOX)) chat.notice(publication.data);
    else if (isConversation(channel) && chat.take(channel, publication)) return;
    const room = rooms.get(channel);
    if (!room) return;
    take(room, publication);
    refresh(room, [publication]);
  });
  of.on('join', ({ channel, info }) => membership(channel, info, true));
  of.on('leave', ({ channel, info }) => membership(channel, info, false));
  of.on('unsubscribed', ({ channel, reason }) => trouble(channel, `The server ended this subscription: ${reason}.`));
  of.on('failed', ({ channel, error }) => {
    if (channel === personal(INBOX)) watching(false);
    const words = { 102: 'There is no such namespace.', 103: 'You may not join this channel.', 107: 'That is not a channel name.' };
    trouble(channel, words[error.code] ?? `The server refused: ${error.message}.`);
  });
}

function showState({ state, reason = '', in_s = 0, signIn = false }) {
  clearInterval(countdown);
  if (signIn) {
    backToSignIn(/3500/.test(reason) ? 'The server does not take this token.' : reason);
    return;
  }
  const text = byId('state-text');
  byId('state').dataset.state = state;
  if (in_s) {
    let left = in_s;
    const tick = () => {
      text.textContent = `reconnecting in ${Math.max(0, Math.ceil(left))} s${reason ? ` — ${reason}` : ''}`;
      left -= 1;
    };
    tick();
    countdown = setInterval(tick, 1000);
    frames.add({ text: `connection lost: ${reason}`, note: true });
  } else {
    text.textContent = state === 'disconnected' && reason ? `disconnected — ${reason}` : state;
  }
  if (state === 'disconnected' && client && reason !== 'you logged out') frames.add({ text: `ended: ${reason}`, note: true });
  showFacts();
}

function trouble(channel, text) {
  const room = rooms.get(channel);
  if (!room) return;
  room.problem = text;
  view.note(room, text, 'bad');
  showChannels();
}

function take(room, publication) {
  const index = room.add(publication);
  if (publication.info?.client === client.id) {
    const text = JSON.stringify(publication.data);
    const mine = room.pending.find((entry) => entry.state === 'sending' && JSON.stringify(entry.data) === text);
    if (mine) settle(room, mine);
  }
  if (index < 0) {
    view.showTime(room, publication);
    return;
  }
  if (room.channel === current) {
    view.add(room, index, publication.info?.client === client.id || ['edit', 'delete'].includes(publication.data?.kind));
  } else {
    room.unread += 1;
    showChannels();
  }
  showPosition();
}

const NO_MEMBERS = [103, 108]; // they may not be seen, or the channel has none

async function loadMembers(room, doubted = []) {
  const changed = room.listing();
  let clients = null;
  try {
    ({ clients } = await client.presence(room.channel));
  } catch (error) {
    if (NO_MEMBERS.includes(error.code)) clients = {};
  }
  for (const info of room.listed(changed, clients, doubted)) noteMember(room, info, false);
  showPeople();
}

function membership(channel, info, joined) {
  const room = rooms.get(channel);
  if (!room) return;
  if (room.told(info, joined)) noteMember(room, info, joined);
  showPeople();
  checkDoubts(room);
}

// Nobody is told of their own coming and going.
function noteMember(room, info, joined) {
  const mine = info.client === client.id || (info.user && info.user === session.user);
  if (!mine) view.note(room, `${nameOf(info)} ${joined ? 'joined' : 'left'}`, 'event');
}

// One list at a time, however many leave.
async function checkDoubts(room) {
  if (room.checking) return;
  room.checking = true;
  while (room.doubts.size) {
    const doubted = [...room.doubts.values()];
    room.doubts.clear();
    await loadMembers(room, doubted);
  }
  room.checking = false;
}

// Conversations.

const INBOX = 'inbox';
const personal = (namespace) => (session?.user ? personalChannel(session.user, namespace) : '');
const names = new Map(); // user → name to be shown; empty: nobody may know it, or it is being asked for

function beginChat(of) {
  if (!session.user) return;
  of.subscribe(personal());
  of.subscribe(personal(INBOX));
  chat.reload();
  search.begin();
}

// Whether the server pushes where something was said. Where it has no inboxes, all conversations are followed.
function watching(does) {
  chat.watches = does;
  chat.reload(); // from now on nothing is missed
}

// The list, or what is told of one conversation, has changed.
function showChat(channel) {
  if (chat.watches === false) for (const name of chat.conversations.keys()) follow(name);
  askNames();
  if (!channel || chat.conversations.has(channel)) showChannels();
  if (!channel) showName();
  if (!channel || channel === current) showOthers();
}

function follow(channel) {
  const known = rooms.get(channel);
  if (known && !known.problem) return;
  rooms.set(channel, new Room(channel));
  client?.subscribe(channel);
}

function enter(channel) {
  follow(channel);
  open(channel);
}

// Direct conversations are called as the other user is.
async function askNames() {
  if (!await learn([...chat.conversations.values()].map((one) => one.with))) return;
  showChannels();
  showName();
}

// Ask for the names of users that are not known. Returns whether there were any.
async function learn(users) {
  const unknown = [...new Set(users)].filter((user) => user && !names.has(user));
  if (!unknown.length) return false;
  for (const user of unknown) names.set(user, '');
  const profiles = await session.profiles(unknown).catch(() => []);
  for (const { user, username, display_name: shown } of profiles) names.set(user, shown || username);
  return true;
}

async function namesOf(users) {
  await learn(users);
  return (user) => (user === session?.user ? session.name : names.get(user) || user || 'backend');
}

const titleOf = (one) => one.name || names.get(one.with) || one.with || one.channel;

const titleOfChannel = (channel) => (chat?.conversations.has(channel) ? titleOf(chat.conversations.get(channel)) : channel);

function showName() {
  byId('room-name').textContent = titleOfChannel(current) || 'No channel';
  byId('room-name').title = current;
}

// Who types, and who has read what I said last.
function showOthers() {
  const room = rooms.get(current);
  const typing = room ? chat.typing(current, session.user).map((user) => room.nameOfUser(user)) : [];
  byId('typing').textContent = typing.length ? `${typing.join(', ')} ${typing.length > 1 ? 'type' : 'types'}…` : '';
  const isMine = ({ data, info, offset }) => data?.kind === 'message' && info?.user === session.user && !room.changed.get(offset)?.deleted;
  const mine = room?.messages.findLast(isMine);
  if (mine) view.showReaders(room, mine.offset, chat.readers(current, mine.offset, session.user).map((user) => room.nameOfUser(user)));
}

function showRead(room) {
  if (room.channel === current && !document.hidden) chat?.shown(room.channel, room.newest());
}
document.addEventListener('visibilitychange', () => {
  const room = rooms.get(current);
  if (room && view.isAtEnd) showRead(room);
});

// Messages that these publications changed are asked for: an event may be void, and the server knows.
async function refresh(room, publications) {
  for (const offset of room.targets(publications)) {
    const found = await chat.message(room.channel, offset);
    if (!found) continue;
    room.became(offset, found);
    view.redraw(room, offset);
  }
  if (room.channel === current) showOthers();
}

async function act(room, offset, what) {
  try {
    if (what === 'readers') {
      await chat.askReaders(room.channel, offset);
      const readers = chat.readers(room.channel, offset, session.user).map((user) => room.nameOfUser(user));
      view.showReaders(room, offset, readers.length ? readers : ['nobody yet']);
    } else if (what === 'delete') {
      if (confirm('Delete this message for everybody?')) await chat.remove(room.channel, offset);
    } else {
      setEditing(offset);
      const field = byId('composer-text');
      const message = room.messages.find((one) => one.offset === offset);
      field.value = room.changed.get(offset)?.text ?? message?.data.text ?? '';
      field.focus();
    }
  } catch (error) {
    view.note(room, `not done: ${error.message}`, 'bad');
  }
}

function setEditing(offset) {
  if (editing && !offset) byId('composer-text').value = '';
  editing = offset;
  byId('editing').hidden = !offset;
}
byId('editing-cancel').addEventListener('click', () => setEditing(0));

// Sending.

byId('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const field = byId('composer-text');
  const text = field.value.trim();
  const room = rooms.get(current);
  if (!text || !room) return;
  chat.types(room.channel, false);
  if (editing) {
    const of = editing;
    setEditing(0);
    chat.edit(room.channel, of, text).catch((error) => view.note(room, `not edited: ${error.message}`, 'bad'));
    return;
  }
  field.value = '';
  field.style.height = '';
  const entry = room.sending(newKey(), room.written(text));
  view.showPending(room);
  view.toEnd();
  deliver(room, entry);
});

const REFUSALS = { 103: 'you may not write here', 106: 'too long for this channel' };

async function deliver(room, entry) {
  try {
    const { offset } = await client.publish(room.channel, entry.data, entry.key);
    if (offset) {
      const info = { user: session.user, client: client.id, connInfo: { name: session.name } };
      const index = room.add({ offset, data: entry.data, info });
      settle(room, entry);
      if (index >= 0) view.add(room, index, true);
    } else {
      settle(room, entry);
    }
  } catch (error) {
    if (error.code && !error.temporary) {
      entry.state = 'failed';
      entry.note = `not sent: ${REFUSALS[error.code] ?? error.message}`;
    } else if (error.closed === TOO_BIG && room.longest() === entry) {
      entry.state = 'failed';
      entry.note = 'not sent: too long for this server';
    } else {
      entry.note = 'not acknowledged yet; it is sent again, and kept once';
      if (client.state === 'connected') setTimeout(() => deliver(room, entry), RETRY_MS);
    }
    view.showPending(room);
  }
}

function resend(room) {
  for (const entry of room.pending) if (entry.state === 'sending' && entry.note) deliver(room, entry);
}

function settle(room, entry) {
  room.settled(entry);
  view.showPending(room);
}

// Showing the room.

function open(channel) {
  if (channel !== current) setEditing(0);
  current = channel;
  const room = rooms.get(channel);
  if (room) room.unread = 0;
  showName();
  byId('leave-room').disabled = !room;
  byId('composer-text').disabled = !room;
  view.open(room ?? null);
  if (chat) showOthers();
  showChannels();
  showPeople();
  showPosition();
  byId('channels').classList.remove('open');
}

const loading = new Set();

async function loadOlder(room) {
  if (room.reachedStart || loading.has(room.channel) || client.state !== 'connected') return;
  loading.add(room.channel);
  const oldest = room.oldest();
  if (room.messages.length >= MOST_READ) {
    loading.delete(room.channel);
    room.reachedStart = true;
    view.note(room, 'What is older is not shown here.', 'event', true);
    return;
  }
  try {
    const page = await client.history(room.channel, PAGE, oldest ? { offset: oldest, epoch: room.epoch } : null);
    room.epoch = page.epoch;
    room.reachedStart = page.publications.length < PAGE;
    const older = page.publications.reverse().filter((publication) => room.add(publication) >= 0);
    view.prepend(room, older);
    refresh(room, older);
  } catch {
    room.reachedStart = true; // no history here, or it may not be read
  } finally {
    loading.delete(room.channel);
  }
}

// Showing the rest.

function showChannels() {
  const conversations = [...chat?.conversations.values() ?? []];
  byId('inbox-list').replaceChildren(...conversations.map((one) => {
    const { channel, last, unread, mentions, atLeast } = one;
    const label = element('span', {}, titleOf(one), element('small', { textContent: last }));
    const button = element('button', { type: 'button', title: channel, onclick: () => enter(channel) }, label);
    button.dataset.channel = channel;
    button.setAttribute('aria-current', String(channel === current));
    if (mentions) button.append(element('span', { className: 'badge mentions', textContent: `@${mentions}`, 'aria-label': `${mentions} mentions` }));
    if (unread) {
      const count = `${unread}${atLeast ? '+' : ''}`;
      button.append(element('span', { className: 'badge unread', textContent: count, 'aria-label': `${count} unread` }));
    }
    return element('li', {}, button);
  }));
  const others = [...rooms.values()].filter((room) => !chat?.conversations.has(room.channel));
  byId('channel-list').replaceChildren(...others.map((room) => {
    const button = element('button', { type: 'button', onclick: () => open(room.channel) }, element('span', { textContent: room.channel }));
    button.setAttribute('aria-current', String(room.channel === current));
    if (room.problem) button.append(element('span', { className: 'badge bad', textContent: '!', title: room.problem }));
    else if (room.unread) button.append(element('span', { className: 'badge', textContent: room.unread, 'aria-label': `${room.unread} unread` }));
    return element('li', {}, button);
  }));
}

function showPeople() {
  const people = rooms.get(current)?.people(client?.id) ?? []; // who logs out has no client
  byId('people-count').textContent = people.length ? String(people.length) : '';
  byId('people-list').replaceChildren(...people.map((person) => {
    const avatar = element('span', { className: 'avatar', textContent: initials(person.name), 'aria-hidden': 'true' });
    avatar.style.background = colour(person.name);
    const tabs = person.tabs > 1 ? ` · ${person.tabs} tabs` : '';
    return element('li', {}, avatar, element('span', { textContent: `${person.name}${person.me ? ' (you)' : ''}${tabs}` }));
  }));
}

function showPosition() {
  const position = client?.position(current);
  byId('room-position').textContent = position?.epoch ? `#${position.offset} · ${position.epoch}` : '';
}

function showFacts() {
  const facts = {
    client: client?.id || '–',
    user: session?.name ?? '–',
    latency: client?.latency == null ? '–' : `${client.latency.toFixed(1)} ms`,
    network: navigator.onLine ? 'online' : 'offline',
  };
  byId('facts').replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [
    element('dt', { textContent: name }),
    element('dd', { textContent: value, title: value }),
  ]));
  showPosition();
}

// Controls.

byId('join-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const channel = byId('join-name').value.trim();
  if (!channel) return;
  byId('join-name').value = '';
  enter(channel);
  byId('composer-text').focus();
});

byId('begin').addEventListener('click', () => {
  beginKey = newKey();
  byId('begin-error').hidden = true;
  byId('begin-dialog').showModal();
});
byId('begin-cancel').addEventListener('click', () => byId('begin-dialog').close());

byId('begin-form').addEventListener('submit', async (event) => {
  event.preventDefault(); // it closes when the conversation is there
  byId('begin-submit').disabled = true;
  try {
    const wanted = [...new Set(byId('begin-users').value.split(/[\s,]+/).filter(Boolean))];
    const users = await Promise.all(wanted.map((name) => session.find(name)));
    const nobody = wanted.filter((_, index) => !users[index]);
    if (nobody.length) throw new Error(`There is nobody called ${nobody.join(', ')}.`);
    const { channel, left } = await chat.begin(users, byId('begin-name').value.trim(), beginKey);
    byId('begin-form').reset();
    byId('begin-dialog').close();
    byId('channels').classList.remove('open');
    enter(channel);
    if (left.length) view.note(rooms.get(channel), `could not be added: ${left.join(', ')}`, 'bad');
    byId('composer-text').focus();
  } catch (error) {
    byId('begin-error').textContent = error.message;
    byId('begin-error').hidden = false;
  } finally {
    byId('begin-submit').disabled = false;
  }
});
byId('begin-form').addEventListener('input', () => {
  beginKey = newKey(); // another conversation
});

byId('leave-room').addEventListener('click', () => {
  client.unsubscribe(current);
  rooms.delete(current);
  open([...rooms.keys()][0] ?? '');
});

byId('drop').addEventListener('click', () => client.drop());

function toggleFrames() {
  const drawer = byId('frames');
  drawer.hidden = !drawer.hidden;
  byId('toggle-frames').setAttribute('aria-expanded', String(!drawer.hidden));
  if (!drawer.hidden) byId('frames-list').scrollTop = byId('frames-list').scrollHeight;
}
byId('toggle-frames').addEventListener('click', toggleFrames);
byId('frames-close').addEventListener('click', () => { toggleFrames(); byId('toggle-frames').focus(); });

for (const side of ['channels', 'people']) {
  byId(`toggle-${side}`).addEventListener('click', () => {
    const isOpen = byId(side).classList.toggle('open');
    byId(`toggle-${side}`).setAttribute('aria-expanded', String(isOpen));
  });
}

byId('help').addEventListener('click', () => byId('help-dialog').showModal());

byId('composer-text').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId('composer').requestSubmit();
  }
});
byId('composer-text').addEventListener('input', ({ target }) => {
  if (!editing) chat.types(current, target.value.trim() !== '');
  target.style.height = 'auto';
  target.style.height = `${target.scrollHeight + 2}px`;
});

document.addEventListener('keydown', (event) => {
  if (byId('console').hidden) return;
  if (event.altKey && (event.key === 'ArrowUp' || event.key === 'ArrowDown')) {
    const all = [...new Set([...chat.conversations.keys(), ...rooms.keys()])];
    const step = event.key === 'ArrowUp' ? -1 : 1;
    if (all.length) enter(all[(all.indexOf(current) + step + all.length) % all.length]);
    event.preventDefault();
  } else if (event.ctrlKey && event.key === 'j') {
    byId('channels').classList.add('open');
    byId('join-name').focus();
    event.preventDefault();
  } else if (event.ctrlKey && event.key === '.') {
    toggleFrames();
    event.preventDefault();
  } else if (event.key === '?' && !/^(INPUT|TEXTAREA)$/.test(document.activeElement?.tagName ?? '')) {
    byId('help-dialog').showModal();
  } else if (event.key === 'Escape') {
    setEditing(0);
    for (const side of ['channels', 'people']) byId(side).classList.remove('open');
  }
});

addEventListener('online', showFacts);
addEventListener('offline', showFacts);
addEventListener('pagehide', () => {
  if (client) saveRooms([...rooms.values()], current, (channel) => client.position(channel));
});

const restored = Session.restore();
if (restored) start(restored);
else showSignIn();
