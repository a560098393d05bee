"""Finds conversations by their names: those of the user, and open ones.

A name that the user may not know is never compared with anything: of other conversations only those of the directory
are looked at, which everybody may list. Of another member nothing is read but what the user's own conversations say: a
list of that member's would take longer the more there are, and so tell how many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.domain.state import Type
from services.persistence.chat.inbox.inbox import Inbox
from services.persistence.chat.inbox.readable import Readable
from services.persistence.chat.index.analyser import atoms_of
from services.persistence.chat.ports import ChatStore
from services.persistence.chat.views import Json

_MAX_LOADED = 480  # conversations of which one answer looks at the members; then it has a cursor
_AT_ONCE = 16  # of them


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
        mine = sorted((one for one in mine if one.channel > after), key=lambda one: one.channel)
        found, last = (mine[: limit + 1], "") if not member else await self._with(mine, member, limit + 1)
        if len(found) > limit:
            found = found[:limit]
            last = found[-1].channel
        answer: Json = {"conversations": [_shown(one, user) for one in found]}
        if last:
            answer["cursor"] = last
        if not is_whole:
            answer["truncated"] = True
        if not after and text and not member:
            directory = await self._store.directory(namespace, text, "", limit)
            answer["open"] = [{"channel": channel, "name": name} for name, channel in directory]
        return answer

    async def _with(self, mine: Sequence[Readable], member: str, most: int) -> tuple[list[Readable], str]:
        """Return the first of these where somebody else is a member, too.

        And behind which channel to go on; "": all were looked at, or there are `most`.
        """
        found: list[Readable] = []
        for start in range(0, len(mine), _AT_ONCE):
            if len(found) >= most:
                break
            if start >= _MAX_LOADED:
                return found, mine[start - 1].channel
            some = mine[start : start + _AT_ONCE]
            has = await asyncio.gather(*(self._has(one, member) for one in some))
            found += [one for one, is_there in zip(some, has, strict=True) if is_there]
        return found[:most], ""

    async def _has(self, one: Readable, member: str) -> bool:
        if one.type is Type.DIRECT:
            return member in one.users
        live = await self._conversations.upto(one.channel, one.position, one.epoch)
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
