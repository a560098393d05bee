"""Tickets on Redis: a client shows a ticket once, in place of a token.

Redis has a digest of the ticket and the token encrypted with a key that is made from the ticket. So nobody who reads
Redis, or a copy of its data, gets a token.

A ticket is good only in the incarnation of Redis in which it was made. Otherwise one that was used would be good again
after a failover to a replica that did not know of it, or after a restart from older data. The incarnation is the last
part of the ticket, behind a dot; key and digest are made of the whole text, so it can't be changed or left out. Tickets
of earlier versions have no such part. Waiting for replicas (WAIT) was rejected: it says nothing of a Redis that is
restored, and makes every handshake with a ticket depend on a replica.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

_TIMEOUT_S = 2.8  # longest wait for Redis, seconds
_TAKE = load(Path(__file__).parent / "take_ticket.lua")
_RANDOM_BYTES = 24
_MARK_CHARACTERS = 12  # of the name of the incarnation in a ticket
_NONCE = bytes(12)  # each key encrypts one token only


class RedisTickets:
    """Implements `Tickets`, see domain/ports.py.

    `incarnation` names the present incarnation of Redis; "" while it may not be used.
    """

    def __init__(self, redis: RedisPipeline, incarnation: Callable[[], str]) -> None:
        self._redis = redis
        self._incarnation = incarnation

    async def issue(self, token: str, ttl_s: int) -> str:
        incarnation = self._incarnation()
        if not incarnation:
            raise Unavailable("Redis may not be used yet")
        ticket = f"{secrets.token_urlsafe(_RANDOM_BYTES)}.{_mark(incarnation)}"
        sealed = ChaCha20Poly1305(_key(ticket)).encrypt(_NONCE, token.encode(), None)
        (reply,) = await self._redis.execute([("SET", _name(ticket), sealed, "EX", ttl_s)], timeout_s=_TIMEOUT_S)
        raise_for_error(reply)
        return ticket

    async def take(self, ticket: str) -> str | None:
        (reply,) = await self._redis.run([Call(_TAKE, [_name(ticket)], [])], timeout_s=_TIMEOUT_S)
        sealed = raise_for_error(reply)
        _, dot, mark = ticket.partition(".")
        if sealed is None or (dot and mark != _mark(self._incarnation())):  # asked after the reply, so never too old
            return None
        try:
            return ChaCha20Poly1305(_key(ticket)).decrypt(_NONCE, bytes(sealed), None).decode()
        except InvalidTag:
            return None


def _mark(incarnation: str) -> str:
    return hashlib.sha256(incarnation.encode()).hexdigest()[:_MARK_CHARACTERS]


def _name(ticket: str) -> str:
    return keys.ticket(hashlib.sha256(b"name " + ticket.encode()).hexdigest())


def _key(ticket: str) -> bytes:
    return hashlib.sha256(b"key " + ticket.encode()).digest()
