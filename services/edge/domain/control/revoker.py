"""Revokes users, sign-in sessions and tokens, on every edge.

**Purpose.** A revocation must close the connections that are open, and refuse tokens that would be good for hours. An
edge that was cut off must know of it before it delivers anything new.

**Rules.**

1. An entry is appended to a list in Redis first. Then a control command carries it to all edges, which close
   connections at once. If the command fails, the entry counts nevertheless.
2. Each edge keeps the whole list in memory: a connect asks nobody.
3. The list is read, from where this edge is, before a new connection to Redis is used for anything else, and every 2 s.
   So an edge that was cut off has it before anything new of Redis reaches its clients.
4. An entry is kept longer than its tokens could be good, by the clock of Redis: a minute, since the clock of who signs
   them may be ahead, the leeway of tokens, and the 120 s for which an expired token may be good to resume.
5. Of each new incarnation of Redis the whole list is read: it may have lost entries. The edges append again what it has
   lost, in random order, and leave out what others have appended meanwhile.
6. If the list is full, the connections are closed nevertheless.

**Example.** A user is revoked while an edge is cut off from Redis. The user's connections there stay open, but every
publish fails. When the edge connects again, it reads the list before anything else and closes these connections with
3503. Only then does it read channels.

**Trade-offs.** Memory for each entry on each edge, so the list is bounded. Entries are lost if Redis loses them and all
edges are restarted before one of them has appended them again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from services.edge.domain.access.revocations import MAX_REVOCATIONS, Revocation, RevokedKind
from services.edge.domain.control.cluster import Cluster
from services.edge.domain.control.granter import Granter
from services.edge.domain.control.operations import Revoke, end_revoked
from services.edge.domain.ports import RevocationLog
from services.edge.domain.session.node import Node
from services.edge.domain.settings import MAX_RESUME_S
from services.shared.errors import Busy, ErrorCode, ThalamusError, Unavailable

logger = logging.getLogger(__name__)

POLL_S = 2.0  # interval of reading the list, seconds
_RESTORE_S = 2.0  # longest wait, at random, before lost entries are appended again, seconds
_RESTORE_AT_ONCE = 50  # lost entries that are appended before the list is read again
_CLOCKS_S = 60.0  # by which clocks of issuers may be ahead, seconds


class Revoker:
    """Makes revocations, and takes those of other edges: a `RevocationListener`."""

    def __init__(
        self,
        node: Node,
        cluster: Cluster,
        log: RevocationLog,
        *,
        granter: Granter | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        """Take the parts of the edge; `granter` hears of the entries about grants."""
        self._node = node
        self._granter = granter
        self._cluster = cluster
        self._log = log
        self._poll_s = poll_s
        self._lost: dict[tuple[RevokedKind, str], Revocation] = {}

    async def revoke(self, kind: RevokedKind, name: str, ttl_s: float, *, user: str = "") -> None:
        """Revoke on every edge; return once connected edges have closed the connections.

        Args:
            kind: What is revoked.
            name: Id of the user, the session or the token.
            ttl_s: How long tokens of it could be good, seconds.
            user: The user of a session, if it is known.

        Raises:
            Unavailable: perhaps not every edge did. The revocation may be in the list: then all edges have it soon.
            ThalamusError: 106, the list is full: the connections are closed, but the tokens stay good.
        """
        now = self._node.clock.wall()
        kept_s = ttl_s + self._node.verifier.leeway_s + MAX_RESUME_S + _CLOCKS_S
        is_full = len(self._node.revocations) >= MAX_REVOCATIONS
        entry = Revocation(kind=kind, id=name, at=now, until=0.0 if is_full else now + kept_s)
        if not is_full:
            await self._log.append(entry)
        is_user = kind is RevokedKind.USER
        command = Revoke(
            user=name if is_user else user,
            session="" if is_user else name,  # edges of before would take an empty one for connections without `sid`
            kind=kind.value,
            id=name,
            at=entry.at,
            until=entry.until,
        )
        try:
            await self._cluster.everywhere(command)
        except Busy as error:  # it would say that nothing was done
            raise Unavailable(str(error)) from error
        if is_full:
            raise ThalamusError("too many revocations are kept", ErrorCode.LIMIT_EXCEEDED)

    def take(self, entries: Iterable[Revocation], *, first: bool = False) -> None:
        """Refuse the tokens of these entries from now on, and close their connections."""
        new, grants = [], []
        for entry in entries:
            if entry.kind is RevokedKind.GRANTS:
                grants.append(entry)
                continue
            self._lost.pop((entry.kind, entry.id), None)
            if entry.until > self._node.clock.wall() and self._node.revocations.add(entry):
                new.append(entry)
        if new:
            end_revoked(self._node, new)
        if self._granter is not None:
            self._granter.heard(grants, first=first)

    def was_read(self, took_s: float) -> None:
        """Note that everything is taken that was in the list `took_s` seconds ago."""
        if self._granter is not None:
            self._granter.list_was_read(took_s)

    def lost(self) -> None:
        """Note that Redis may have lost entries; what it still has is taken after this."""
        self._lost = {(entry.kind, entry.id): entry for entry in self._node.revocations}
        if self._granter is not None:
            self._granter.all_may_have_changed()

    async def run(self) -> None:
        """Read the list every 2 s, until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._log.poll()
                if self._lost:
                    await asyncio.sleep(self._node.rng.uniform(0, _RESTORE_S))
                    await self._restore()
            except Unavailable:
                continue  # the next connection reads it before anything else
            self._node.revocations.forget_expired(self._node.clock.wall())

    async def _restore(self) -> None:
        """Append what Redis has lost, but for what other edges append meanwhile.

        Raises:
            Unavailable: Redis did not take all of it.
        """
        await self._log.poll()
        names = list(self._lost)
        if names:
            logger.warning("Redis has lost revocations: those that this edge knows are written again")
        self._node.rng.shuffle(names)
        for number, name in enumerate(names):
            if number % _RESTORE_AT_ONCE == 0 and number:
                await self._log.poll()  # takes what others have appended out of `_lost`
            entry = self._lost.get(name)
            if entry is not None and entry.until > self._node.clock.wall():
                await self._log.append(entry)
            self._lost.pop(name, None)
