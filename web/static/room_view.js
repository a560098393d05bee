// The conversation of one room in the page: messages in order, what is being sent, what is told between them.
import { nameOf } from './rooms.js';
import { atEnd, byId, element, marker, messageElement } from './view.js';

const MOST_ROWS = 1_200; // messages, and what is told between them

export class RoomView {
  room = null;
  #box = byId('messages');
  #hint = byId('unseen');
  #unseen = 0; // messages below what is shown
  #myName;

  // `myName()`: how what I send is signed until it is acknowledged. `onTop(room)`: the reader has come to the oldest row.
  constructor(myName, onTop) {
    this.#myName = myName;
    this.#box.addEventListener('scroll', () => {
      if (this.room && this.#box.scrollTop < 80) onTop(this.room);
      if (this.#unseen && atEnd(this.#box)) this.#showUnseen(0);
    });
    this.#hint.addEventListener('click', () => {
      this.toEnd();
      this.#box.focus();
    });
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
    for (const message of room.messages) this.#box.append(drawn(message));
    for (const child of this.#box.children) group(child);
    if (room.problem) this.#box.append(marker(room.problem, 'bad'));
    this.showPending(room);
    if (!room.messages.length && room.reachedStart && !room.problem) this.#showEmpty();
    this.toEnd();
  }

  toEnd() {
    this.#box.scrollTop = this.#box.scrollHeight;
    this.#showUnseen(0);
  }

  // A message that has just come; where the reader is further up, it is only announced. `own`: it needs no hint.
  add(room, index, own) {
    if (room !== this.room) return;
    const box = this.#box;
    const follow = atEnd(box);
    box.querySelector('.empty')?.remove();
    const next = room.messages[index + 1];
    const before = (next && box.querySelector(`[data-offset="${next.offset}"]`)) ?? box.querySelector('.pending, .failed');
    const made = box.insertBefore(drawn(room.messages[index]), before ?? null);
    group(made);
    group(made.nextSibling);
    this.#trim();
    if (follow) this.toEnd();
    else if (!own) this.#showUnseen(this.#unseen + 1);
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
        const drawing = drawn(message);
        drawing.querySelector('.by span').textContent = `#${offset}`;
        made.append(drawing);
      }
    }
    const rest = box.firstChild;
    box.prepend(made);
    for (let child = box.firstChild; child && child !== rest; child = child.nextSibling) group(child);
    group(rest);
    if (!room.messages.length && !room.problem) this.#showEmpty();
    box.scrollTop = wasEmpty ? box.scrollHeight : top + box.scrollHeight - height;
  }

  // What waits for its acknowledgement, and what was refused.
  showPending(room) {
    if (room !== this.room) return;
    const box = this.#box;
    const follow = atEnd(box);
    for (const old of box.querySelectorAll('.pending, .failed')) old.remove();
    for (const entry of room.pending) {
      const made = messageElement({ name: this.#myName(), data: entry.data, at: Date.now(), live: false });
      made.classList.add(entry.state === 'failed' ? 'failed' : 'pending');
      made.append(element('div', { className: 'note', textContent: entry.note || 'sending…' }));
      box.append(made);
      group(made);
    }
    if (follow) box.scrollTop = box.scrollHeight;
  }

  // Something told, in its place among the messages; `first`: above them.
  note(room, text, kind, first = false) {
    if (room !== this.room) return;
    const follow = atEnd(this.#box);
    this.#box.insertBefore(marker(text, kind), first ? this.#box.firstChild : this.#box.querySelector('.pending, .failed'));
    this.#trim();
    if (follow) this.#box.scrollTop = this.#box.scrollHeight;
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

function drawn(message) {
  return messageElement({ name: nameOf(message.info), data: message.data, at: message.at, offset: message.offset, live: true });
}
