"""Tickets on Redis: a client shows a ticket once, in place of a token.

Redis has a digest of the ticket and the token encrypted with a key that is made from the ticket. So nobody who reads
Redis, or a copy of its data, gets a token.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

_TIMEOUT_S = 2.8  # longest wait for Redis, seconds
_TAKE = load(Path(__file__).parent / "take_ticket.lua")
_NONCE = bytes(12)  # each key encrypts one token only


class RedisTickets:
    """Implements `Tickets`, see domain/ports.py."""

    def __init__(self, redis: RedisPipeline) -> None:
        self._redis = redis

    async def put(self, ticket: str, token: str, ttl_s: int) -> None:
        sealed = ChaCha20Poly1305(_key(ticket)).encrypt(_NONCE, token.encode(), None)
        (reply,) = await self._redis.execute([("SET", _name(ticket), sealed, "EX", ttl_s)], timeout_s=_TIMEOUT_S)
        raise_for_error(reply)

    async def take(self, ticket: str) -> str | None:
        (reply,) = await self._redis.run([Call(_TAKE, [_name(ticket)], [])], timeout_s=_TIMEOUT_S)
        sealed = raise_for_error(reply)
        if sealed is None:
            return None
        try:
            return ChaCha20Poly1305(_key(ticket)).decrypt(_NONCE, bytes(sealed), None).decode()
        except InvalidTag:
            return None


def _name(ticket: str) -> str:
    return keys.ticket(hashlib.sha256(b"name " + ticket.encode()).hexdigest())


def _key(ticket: str) -> bytes:
    return hashlib.sha256(b"key " + ticket.encode()).digest()
