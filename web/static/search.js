// Searching messages in the user's conversations. See docs/chat.md#search.
import { byId, element } from './view.js';

const MALFORMED = 107;
const NOT_THERE = [103, 104, 108]; // refused, unknown, or off
const WHEN = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });

// Whether messages can be searched. A query that asks for nothing is refused as malformed, and costs nothing; where
// search is off, or there is none, the server says so first. Rejects if it does not answer.
export async function canSearch(call) {
  try {
    await call('messages.search', { query: '-' });
    return true;
  } catch (error) {
    if (error.code !== MALFORMED && !NOT_THERE.includes(error.code)) throw error;
    return error.code === MALFORMED;
  }
}

// One search, page by page. An answer that comes behind the next search is of no use any more: null then.
export class Search {
  #call;
  #params = null;
  number = 0; // of the search: another one has another
  hasMore = false;

  constructor(call) {
    this.#call = call;
  }

  begin(query) {
    this.end();
    this.#params = { query, limit: 20 };
    return this.more();
  }

  // Answers that are still to come are of no use any more.
  end() {
    this.number += 1;
    this.hasMore = false;
  }

  async more() {
    const number = this.number;
    let page;
    try {
      page = await this.#call('messages.search', this.#params);
    } catch (error) {
      if (number !== this.number) return null;
      throw error;
    }
    if (number !== this.number) return null;
    this.hasMore = Boolean(page.cursor);
    if (this.hasMore) this.#params = { ...this.#params, cursor: page.cursor };
    return page;
  }
}

// The box in the page, and the dialog with what was found.
export class SearchBox {
  #search;
  #call;
  #titleOf;
  #namesOf;
  #onOpen;

  // `titleOf(channel)`: what it is called. `namesOf(users)`: resolves to what returns the name of each of them.
  // `onOpen(channel)`: a message of it was chosen.
  constructor(call, { titleOf, namesOf, onOpen }) {
    this.#call = call;
    this.#search = new Search(call);
    this.#titleOf = titleOf;
    this.#namesOf = namesOf;
    this.#onOpen = onOpen;
    byId('search-form').onsubmit = (event) => {
      event.preventDefault();
      const query = byId('search-text').value.trim();
      if (!query) return;
      byId('search-list').replaceChildren();
      if (!byId('search-dialog').open) byId('search-dialog').showModal();
      this.#show(this.#search.begin(query));
    };
    byId('search-close').onclick = () => byId('search-dialog').close();
    byId('search-more').onclick = () => this.#show(this.#search.more());
  }

  // Show the box if there is something behind it.
  async begin() {
    try {
      byId('search-form').hidden = !await canSearch(this.#call);
    } catch {
      // the next connection asks again
    }
  }

  // The user has gone: nothing of what was found stays in the page.
  end() {
    this.#search.end();
    byId('search-form').hidden = true;
    byId('search-form').reset();
    byId('search-list').replaceChildren();
    byId('search-dialog').close();
  }

  async #show(asked) {
    const { number } = this.#search;
    byId('search-more').disabled = true;
    this.#tell('Searching…');
    try {
      const page = await asked;
      if (!page) return;
      const nameOf = await this.#namesOf(page.messages.map(({ author }) => author));
      if (this.#search.number !== number) return;
      byId('search-list').append(...page.messages.map((one) => this.#entry(one, nameOf(one.author))));
      const isEmpty = !byId('search-list').children.length;
      if (page.incomplete) this.#tell('Not all messages could be looked at yet.');
      else this.#tell(isEmpty && !this.#search.hasMore ? 'Nothing was found.' : '');
    } catch (error) {
      this.#tell(error.message, 'bad');
    }
    byId('search-more').hidden = !this.#search.hasMore;
    byId('search-more').disabled = false;
  }

  #tell(text, kind = '') {
    byId('search-state').textContent = text;
    byId('search-state').className = `hint ${kind}`;
  }

  #entry({ channel, offset, time, text }, name) {
    const by = `${name} · ${this.#titleOf(channel)} · ${WHEN.format(time)}`;
    const onclick = () => {
      byId('search-dialog').close();
      this.#onOpen(channel);
    };
    const lines = [element('span', { textContent: text }), element('small', { textContent: by })];
    return element('li', {}, element('button', { type: 'button', onclick, dataset: { channel, offset } }, ...lines));
  }
}
