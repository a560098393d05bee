// The conversation of one room in the page: messages in order, what is being sent, what is told between them.
import { isEvent, nameOf } from './rooms.js';
import { TIME, atEnd, byId, element, marker, messageElement } from './view.js';

const MOST_ROWS = 1_200; // messages, and what is told between them
const SETTLE_MS = 20; // rows that come in that time are measured and scrolled once

export class RoomView {
  room = null;
  #box = byId('messages');
  #hint = byId('unseen');
  #unseen = 0; // messages below what is shown
  #following = true; // the end is in view, and stays so
  #top = 0; // where the box was scrolled to last
  #settling = 0;
  #myName;
  #mine;
  #onShown;

  // `myName()`: how what I send is signed until it is acknowledged. `onTop(room)`: the reader has come to the oldest row.
  // `mine(message)`: whether I may change it. `onShown(room)`: the newest row is in view. `onAction(room, offset, what)`: a
  // button of a message.
  constructor(myName, onTop, { mine, onShown, onAction }) {
    this.#myName = myName;
    this.#mine = mine;
    this.#onShown = onShown;
    this.#box.addEventListener('click', ({ target }) => {
      const offset = Number(target.closest('.message')?.dataset.offset);
      if (target.dataset?.do && offset && this.room) onAction(this.room, offset, target.dataset.do);
    });
    this.#box.addEventListener('scroll', () => {
      if (this.room && this.#box.scrollTop < 80) onTop(this.room);
      this.#look();
      if (this.#unseen && this.#following) this.#showUnseen(0);
      if (this.#following && this.room) this.#onShown(this.room);
    });
    this.#hint.addEventListener('click', () => {
      this.toEnd();
      this.#box.focus();
    });
  }

  // Rows may have come since the last move to the end: only a reader who went up leaves it.
  #look() {
    if (atEnd(this.#box)) this.#following = true;
    else if (this.#box.scrollTop < this.#top) this.#following = false;
    this.#top = this.#box.scrollTop;
  }

  open(room) {
    this.room = room;
    this.render();
  }

  render() {
    const { room } = this;
    this.#box.replaceChildren();
    this.#showUnseen(0);
    if (!room) {
      this.#box.append(element('p', { className: 'empty', textContent: 'Join a channel to begin, for example chat:lobby.' }));
      return;
    }
    for (const message of room.messages) this.#box.append(this.#drawn(room, message));
    for (const child of this.#box.children) group(child);
    if (room.problem) this.#box.append(marker(room.problem, 'bad'));
    this.showPending(room);
    if (!room.messages.length && room.reachedStart && !room.problem) this.#showEmpty();
    this.toEnd();
  }

  toEnd() {
    this.#box.scrollTop = this.#box.scrollHeight;
    this.#top = this.#box.scrollTop;
    this.#following = true;
    this.#showUnseen(0);
  }

  // One that was shown already says its time.
  showTime(room, { offset, time }) {
    if (room !== this.room || !time) return;
    const shown = this.#box.querySelector(`[data-offset="${offset}"] .by span`);
    if (shown) shown.textContent = TIME.format(time);
  }

  // A message that has just come; where the reader is further up, it is only announced. `own`: it needs no hint.
  add(room, index, own) {
    if (room !== this.room) return;
    const box = this.#box;
    box.querySelector('.empty')?.remove();
    const next = room.messages[index + 1];
    const before = (next && box.querySelector(`[data-offset="${next.offset}"]`)) ?? box.querySelector('.pending, .failed');
    const made = box.insertBefore(this.#drawn(room, room.messages[index]), before ?? null);
    group(made);
    group(made.nextSibling);
    this.#settleSoon();
    if (!this.#following && !own) this.#showUnseen(this.#unseen + 1);
  }

  // Older messages, ascending, in front of all others.
  prepend(room, older) {
    if (room !== this.room) return;
    const box = this.#box;
    const wasEmpty = !box.querySelector('.message');
    const height = box.scrollHeight;
    const top = box.scrollTop;
    box.querySelector('.empty')?.remove();
    const made = document.createDocumentFragment();
    for (const { offset } of older) {
      const message = room.messages.find((entry) => entry.offset === offset);
      if (message) {
        made.append(this.#drawn(room, message));
      }
    }
    const rest = box.firstChild;
    box.prepend(made);
    for (let child = box.firstChild; child && child !== rest; child = child.nextSibling) group(child);
    group(rest);
    if (!room.messages.length && !room.problem) this.#showEmpty();
    box.scrollTop = wasEmpty ? box.scrollHeight : top + box.scrollHeight - height;
    if (wasEmpty) this.#settleSoon(); // the newest is in view now
  }

  // A message that has changed.
  redraw(room, offset) {
    const message = room.messages.find((entry) => entry.offset === offset);
    const old = room === this.room && this.#box.querySelector(`[data-offset="${offset}"]`);
    if (!message || !old) return;
    const made = this.#drawn(room, message);
    old.replaceWith(made);
    group(made);
    this.#settleSoon();
  }

  // Below which message of mine it says who has read it; only there.
  showReaders(room, offset, names) {
    if (room !== this.room) return;
    this.#box.querySelector('.readers')?.remove();
    const row = offset && this.#box.querySelector(`[data-offset="${offset}"]`);
    if (!row || !names.length) return;
    row.append(element('div', { className: 'note readers', textContent: `read by ${names.join(', ')}` }));
    this.#settleSoon();
  }

  // Whether the newest row is in view.
  get isAtEnd() {
    return this.#following;
  }

  // Of the events of a conversation only messages have rows of their own.
  #drawn(room, message) {
    const { data, info, at, offset } = message;
    if (isEvent(data) && !['message', 'erased'].includes(data.kind) && !data.kind.startsWith('x.')) return eventElement(room, message);
    const change = room.changed.get(offset) ?? (data?.kind === 'erased' ? { deleted: true } : null);
    const actions = isEvent(data) && this.#mine(message) ? [['edit', 'Edit'], ['delete', 'Delete'], ['readers', 'Who read']] : [];
    return messageElement({ name: nameIn(room, info), data, at, offset, live: true, change, actions });
  }

  // What waits for its acknowledgement, and what was refused.
  showPending(room) {
    if (room !== this.room) return;
    const box = this.#box;
    for (const old of box.querySelectorAll('.pending, .failed')) old.remove();
    for (const entry of room.pending) {
      const made = messageElement({ name: this.#myName(), data: entry.data, at: Date.now(), live: false });
      made.classList.add(entry.state === 'failed' ? 'failed' : 'pending');
      made.append(element('div', { className: 'note', textContent: entry.note || 'sending…' }));
      box.append(made);
      group(made);
    }
    this.#settleSoon();
  }

  // Something told, in its place among the messages; `first`: above them.
  note(room, text, kind, first = false) {
    if (room !== this.room) return;
    this.#box.insertBefore(marker(text, kind), first ? this.#box.firstChild : this.#box.querySelector('.pending, .failed'));
    this.#settleSoon();
  }

  // Measuring makes the browser lay out every row: once for all that has come meanwhile.
  #settleSoon() {
    this.#settling ||= setTimeout(() => {
      this.#look(); // the browser tells of scrolling a frame later
      this.#trim();
      if (this.#following) this.#box.scrollTop = this.#box.scrollHeight;
      this.#top = this.#box.scrollTop;
      this.#settling = 0;
      if (this.#following && this.room) this.#onShown(this.room);
    }, SETTLE_MS);
  }

  // The oldest rows go where there are too many; what is in view stays where it is.
  #trim() {
    const box = this.#box;
    if (box.children.length <= MOST_ROWS) return;
    const below = box.scrollHeight - box.scrollTop;
    while (box.children.length > MOST_ROWS) box.firstChild.remove();
    group(box.firstChild);
    box.scrollTop = box.scrollHeight - below;
  }

  #showEmpty() {
    this.#box.append(element('p', { className: 'empty', textContent: 'Nothing has been said here yet. Say something.' }));
  }

  #showUnseen(count) {
    this.#unseen = count;
    this.#hint.hidden = count === 0;
    this.#hint.textContent = `↓ ${count} new message${count > 1 ? 's' : ''}`;
  }
}

// A name is shown once for what one person says in a row.
function group(child) {
  const name = child?.dataset.name;
  child?.classList.toggle('follow', Boolean(name) && name === child.previousSibling?.dataset?.name);
}

const SHOWN = ['member', 'conversation']; // events that are told between messages

const nameIn = (room, info) => (info?.user ? room.nameOfUser(info.user) : nameOf(info));

function eventElement(room, { data, info, offset }) {
  const whom = data.user ? room.nameOfUser(data.user) : '';
  const made = marker(`${nameIn(room, info)}: ${data.kind} ${data.op ?? ''} ${whom}`.trim(), 'event');
  made.dataset.offset = offset;
  made.hidden = !SHOWN.includes(data.kind);
  return made;
}
