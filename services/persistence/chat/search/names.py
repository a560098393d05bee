"""Finds conversations by their names: those of the user, and open ones.

A name that the user may not know is never compared with anything: of other conversations only those of the directory
are looked at, which everybody may list.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.documents import is_member
from services.persistence.chat.domain.state import Type
from services.persistence.chat.inbox.inbox import Inbox
from services.persistence.chat.inbox.readable import Readable
from services.persistence.chat.index.analyser import atoms_of
from services.persistence.chat.ports import ChatStore
from services.persistence.chat.views import Json

_LIST_PAGE = 1_000  # entries of a list of one request
_MAX_LISTED = 10_000  # entries of a member's list that are looked at


class NameSearch:
    """Searches conversations; every method raises `Unavailable`."""

    def __init__(self, inbox: Inbox, store: ChatStore, conversations: Conversations) -> None:
        self._inbox, self._store, self._conversations = inbox, store, conversations

    async def conversations(self, user: str, text: str, member: str, namespace: str, limit: int, after: str) -> Json:
        """Return a page of conversations.

        Args:
            user: Who searches; "": the platform, which finds open ones alone.
            text: Words, of which each is the beginning of one of the name's; of a direct conversation, of the other
                user's id.
            member: Only conversations of the user in which this one is, too; "": any.
            namespace: Where they lie.
            limit: Of each of the two lists.
            after: The channel at the end of the page before; "": from the first. Only that has open ones.
        """
        mine, is_whole = await self._inbox.readable(user) if user else ([], True)
        wanted = atoms_of(text)
        mine = [one for one in mine if one.channel.startswith(f"{namespace}:") and _fits(one, user, wanted)]
        if member:
            common = await self._of(member)
            mine = [one for one in mine if one.channel in common]
        mine.sort(key=lambda one: one.channel)
        found: list[Json] = []
        last = ""
        for one in mine:
            if one.channel <= after:
                continue
            if len(found) == limit:
                last = str(found[-1]["channel"])
                break
            if not member or await self._has(one, member):
                found.append(_shown(one, user))
        answer: Json = {"conversations": found}
        if last:
            answer["cursor"] = last
        if not is_whole:
            answer["truncated"] = True
        if not after and text and not member:
            directory = await self._store.directory(namespace, text, "", limit)
            answer["open"] = [{"channel": channel, "name": name} for name, channel in directory]
        return answer

    async def _of(self, member: str) -> set[str]:
        """Return where somebody is a member, as the read model says."""
        found: set[str] = set()
        after, left = "", _MAX_LISTED
        while left > 0:
            page = await self._store.conversations_of(member, after, _LIST_PAGE)
            found.update(channel for channel, document in page if is_member(document))
            if len(page) < _LIST_PAGE:
                break
            after, left = page[-1][0], left - len(page)
        return found

    async def _has(self, one: Readable, member: str) -> bool:
        live = await self._conversations.upto(one.channel, one.position)
        return member in live.state.members


def _fits(one: Readable, user: str, wanted: Sequence[str]) -> bool:
    """Whether each word that is wanted is the beginning of one there."""
    names = [one.name, *(other for other in one.users if other != user or len(one.users) == 1)]
    there = [atom for name in names for atom in atoms_of(name)]
    return all(any(atom.startswith(word) for atom in there) for word in wanted)


def _shown(one: Readable, user: str) -> Json:
    entry: Json = {"channel": one.channel, "type": one.type, "name": one.name}
    if one.type is Type.DIRECT:
        others = [other for other in one.users if other != user]
        entry["with"] = others[0] if others else user
    return {**entry, "time": one.active, "as_of": {"epoch": one.epoch, "offset": one.position}}
