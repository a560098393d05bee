"""The list of a user's conversations in Redis, in front of the store.

Purpose. The list changes only when the user comes to a conversation or leaves one, and is read by every connect.

Rules.

* Who finds nothing takes a token (`lease_list.lua`), reads the store, and keeps the list under the token
  (`put_list.lua`). A list that changed meanwhile has no token any more, and is not kept.
* Who writes lists to the store marks them in Redis before (`changing`, `mark_list.lua`), and takes the mark back
  afterwards (`changed`, `unmark_list.lua`). While a mark stands, nobody uses or keeps a list: all read the store. Each
  change has a mark of its own: the end of one says nothing of another. A mark of a process that died goes 10 minutes
  after the last mark that was set: nothing that it was writing comes later than that.
* A list of another incarnation of Redis does not count: Redis may have gone back.
* A list is kept for an hour. So what was written past these rules, as by a version of before that runs beside this one,
  is seen an hour later at most.
* The store forgets who was in a conversation that was deleted, also who had left it before. So Redis remembers for 30
  days who has no place in a conversation any more, for those who ask what changed. It does so with the mark, before the
  store forgets; a Redis that was lost can tell nobody what changed.
* What the list says of a membership holds as of `checked`, an offset of the conversation's log. Who looks a membership
  up again notes that here.

Example. Bob is added to two groups at a time. Both replicas mark his list. The first one writes the store and takes its
mark back. A call that reads the store now can't keep what it read, as the second group may be missing in it: if the
second replica dies once it has written, nobody would delete that list.

Trade-offs. While somebody is being added, all calls for this user read the store: some milliseconds. After the death of
the process that was writing, or a write that failed, they do so for 10 minutes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from services.persistence.chat.documents import listed_of
from services.persistence.chat.domain.rights import Role
from services.persistence.chat.ports import ChatStore
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, Command, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

_FOLDER = Path(__file__).parent
LEASE_LIST = load(_FOLDER / "lease_list.lua")
PUT_LIST = load(_FOLDER / "put_list.lua")
MARK_LIST = load(_FOLDER / "mark_list.lua")
UNMARK_LIST = load(_FOLDER / "unmark_list.lua")
_TIMEOUT_S = 2.0  # longest round trip, seconds
_LEASE_S = 10  # seconds for which a token is good
_CHANGING_S = 600  # and a mark: longer than any write takes that a process had begun when it died
_KEPT_S = 3_600
_CHANGING = "!"  # in place of a token, as in the scripts
_PAGE = 1_000  # entries of one request to the store
_MAX_READ = 10_000  # entries that are looked at, also of those that were left
LEFT_KEPT_MS = 30 * 86_400_000  # for which it is told that a conversation was left
CHANGING_MS = 1_000 * _CHANGING_S


class Membership(msgspec.Struct, omit_defaults=True):
    """What a user is in a conversation.

    `checked`: offset of the log as of which this was looked up; 0: as of `since`. `history_from`: -1: not known.
    `at_ms`: when the list said so first, Unix ms. `left`: it was left then, and nothing else counts.
    """

    role: Role | None = None
    since: int = 0
    history_from: int = msgspec.field(default=-1, name="from")
    invited: Role | None = None
    checked: int = 0
    left: bool = False
    at_ms: int = msgspec.field(default=0, name="at")

    def holds(self, mv: int) -> bool:
        """Whether it holds where the last event that may take rights away is `mv`."""
        return self.history_from >= 0 and mv <= max(self.since, self.checked)


class Kept(msgspec.Struct):
    """A list as Redis has it."""

    life: str
    is_whole: bool
    conversations: dict[str, Membership]


class List(NamedTuple):
    """A user's list. `token`: under which changes of it are kept; "": they are not.

    `is_whole`: False if the user has more conversations than are looked at. `is_changing`: it is just being changed.
    """

    conversations: dict[str, Membership]
    is_whole: bool
    token: str
    is_changing: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Kept).decode


class Lists:
    """Lists of users; every method raises `Unavailable`."""

    def __init__(
        self,
        client: RedisPipeline,
        store: ChatStore,
        incarnation: Callable[[], str],
        now_ms: Callable[[], int],
        *,
        most: int,
    ) -> None:
        """Create it.

        Args:
            client: Connection to Redis.
            store: Where lists are behind it.
            incarnation: Returns the token of the present incarnation of Redis.
            now_ms: Returns the time of Redis, Unix ms.
            most: Conversations of a user that are looked at.
        """
        self._client, self._store = client, store
        self._incarnation, self._now_ms, self.most = incarnation, now_ms, most

    def command(self, user: str) -> Command:
        """Return the command whose reply `read` takes."""
        return ("HMGET", keys.inbox_list(user), "v", "d")

    async def read(self, user: str, reply: Sequence[bytes | None]) -> List:
        """Return a user's list; from the store if Redis does not have it."""
        token, text = reply
        life = self._incarnation()
        if token is not None and text is not None and token != _CHANGING.encode():
            kept = _decode(text)
            if kept.life == life:
                return List(kept.conversations, kept.is_whole, token.decode())
            useless = token.decode()
        else:
            useless = ""
        lease = ""
        if token is None or useless:  # else another one reads the store, or the list is being changed
            wanted = _token()
            (given,) = await self._run([Call(LEASE_LIST, [keys.inbox_list(user)], [wanted, _LEASE_S, useless])])
            lease = wanted if given else ""
        found = List(*await self._stored(user), lease, token == _CHANGING.encode())
        await self._keep(user, found, _KEPT_S)
        return found

    async def keep(self, user: str, found: List) -> None:
        """Keep what was looked up again, unless the list changed meanwhile."""
        await self._keep(user, found, 0)

    async def _keep(self, user: str, found: List, ttl_s: int) -> None:
        if found.token:
            text = _encode(Kept(self._incarnation(), found.is_whole, found.conversations))
            await self._run([Call(PUT_LIST, [keys.inbox_list(user)], [found.token, text, ttl_s])])

    async def changing(self, channel: str, users: Collection[str], gone: Collection[str]) -> str:
        """Have nobody use or keep these lists, for 10 minutes at most; return the mark.

        `gone`: those of the users who have no place in the conversation any more.
        """
        mark = _token()
        end: list[str | bytes | int] = [channel, self._now_ms(), LEFT_KEPT_MS]
        calls = []
        for user in users:
            names = [keys.inbox_list(user), keys.inbox_gone(user)]
            calls.append(Call(MARK_LIST, names, [mark, _CHANGING_S, *(end if user in gone else ())]))
        await self._run(calls)
        return mark

    async def gone(self, user: str, since_ms: int) -> list[str]:
        """Return conversations in which a user lost the place since then.

        The user may have one again.
        """
        command: Command = ("ZRANGEBYSCORE", keys.inbox_gone(user), since_ms, "+inf")
        (reply,) = await self._client.execute([command], timeout_s=_TIMEOUT_S)
        return [channel.decode() for channel in raise_for_error(reply)]

    async def changed(self, mark: str, users: Collection[str]) -> None:
        """Take a mark back, and have the lists read anew; else the mark runs out."""
        with contextlib.suppress(Unavailable):
            await self._run([Call(UNMARK_LIST, [keys.inbox_list(user)], [mark]) for user in users])

    async def _stored(self, user: str) -> tuple[dict[str, Membership], bool]:
        """Return the list that the store has, and whether that is all of it."""
        found: dict[str, Membership] = {}
        after, read, count, recent_ms = "", 0, 0, self._now_ms() - LEFT_KEPT_MS
        while True:
            page = await self._store.conversations_of(user, after, _PAGE)
            for channel, document in page:
                listed = listed_of(document)
                if listed.left:
                    if listed.at_ms > recent_ms:
                        found[channel] = Membership(left=True, at_ms=listed.at_ms)
                    continue
                if count == self.most:
                    return found, False
                count += 1
                found[channel] = Membership(
                    listed.role, listed.since, listed.history_from, listed.invited, at_ms=listed.at_ms
                )
            read += len(page)
            if len(page) < _PAGE or read >= _MAX_READ:
                return found, len(page) < _PAGE
            after = page[-1][0]

    async def _run(self, calls: Sequence[Call]) -> list[int]:
        replies = await self._client.run(calls, timeout_s=_TIMEOUT_S) if calls else ()
        return [int(raise_for_error(reply)) for reply in replies]


def _token() -> str:
    return os.urandom(8).hex()
