// DOM helpers. Everything that came from others goes in as text, never as markup.

export const byId = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === 'dataset') Object.assign(made.dataset, value);
    else if (key.startsWith('aria-') || key === 'role') made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

export function initials(name) {
  return [...name].slice(0, 2).join('').toUpperCase();
}

// A steady colour for a name, dark enough for white letters.
export function colour(name) {
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) % 360;
  return `hsl(${hash} 55% 40%)`;
}

export const TIME = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' });

// `change`: what became of it, {text, edited} or {deleted}. `actions`: [what, label] of buttons.
export function messageElement({ name, data, at, offset, live, change = null, actions = [] }) {
  const isText = data !== null && typeof data === 'object' && typeof data.text === 'string';
  const body = isText ? document.createTextNode(change?.text ?? data.text) : element('code', { textContent: JSON.stringify(data) });
  const when = live && at ? TIME.format(at) : '';
  const by = element('div', { className: 'by' }, element('b', { textContent: name }), element('span', { textContent: when }));
  const made = element('div', { className: 'message', dataset: { offset: offset || '', name } }, by);
  if (change?.deleted) {
    made.classList.add('deleted');
    made.append(element('div', { className: 'text', textContent: 'deleted' }));
    return made;
  }
  const text = element('div', { className: 'text' }, body);
  if (change?.edited) text.append(element('span', { className: 'edited', textContent: ' (edited)' }));
  made.append(text);
  if (actions.length) {
    made.append(element('div', { className: 'actions' }, ...actions.map(([what, label]) => (
      element('button', { type: 'button', textContent: label, dataset: { do: what } })
    ))));
  }
  return made;
}

export function marker(text, kind = '') {
  return element('div', { className: `marker ${kind}`, textContent: text });
}

export function atEnd(box) {
  return box.scrollHeight - box.scrollTop - box.clientHeight < 60;
}

// The frames drawer: the last 500, newest at the end.
export class Frames {
  #list = byId('frames-list');
  #count = 0;
  #paused = false;

  constructor() {
    byId('frames-pause').onclick = () => {
      this.#paused = !this.#paused;
      byId('frames-pause').textContent = this.#paused ? 'Resume' : 'Pause';
      byId('frames-pause').setAttribute('aria-pressed', String(this.#paused));
    };
    byId('frames-clear').onclick = () => this.#list.replaceChildren();
  }

  add({ out, text, note = false }) {
    this.#count += 1;
    byId('frames-count').textContent = `${this.#count} so far`;
    if (this.#paused) return;
    const follow = atEnd(this.#list);
    const details = element(
      'details',
      {},
      element(
        'summary',
        { className: note ? 'note' : out ? 'out' : '' },
        element('span', { textContent: note ? '·' : out ? '↑' : '↓' }),
        element('span', { textContent: TIME.format(Date.now()) }),
        element('span', { textContent: note ? '' : `${new Blob([text]).size} B` }),
        element('span', { textContent: text.replaceAll('\n', ' ⏎ ') }),
      ),
    );
    details.addEventListener('toggle', () => {
      if (details.open && details.children.length === 1) details.append(element('pre', { textContent: pretty(text) }));
    });
    this.#list.append(element('li', {}, details));
    while (this.#list.children.length > 500) this.#list.firstChild.remove();
    if (follow) this.#list.scrollTop = this.#list.scrollHeight;
  }
}

function pretty(text) {
  return text.split('\n').map((line) => {
    try {
      return JSON.stringify(JSON.parse(line), null, 2);
    } catch {
      return line;
    }
  }).join('\n');
}
