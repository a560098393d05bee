"""Invites: codes, each good for one registration.

A code is good for one account and until it expires. Only its SHA-256 is kept, so it is shown once, when it is made. The
store removes it in the same transaction that adds the user: of two registrations at once with one code one succeeds,
and one that fails for another reason, such as a taken name, leaves the code good.

The id of an invite is the beginning of its digest, which tells nothing of the code.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

from services.auth.domain.ports import Invite, InviteStore
from services.auth.domain.refusals import Invalid, Missing

MAX_INVITES = 1_000  # that are good at the same time: one answer lists them all
TTL_S = 7 * 86_400  # how long an invite is good where nobody says otherwise, seconds
MAX_TTL_S = 90 * 86_400
MAX_NOTE = 100  # characters
_PREFIX = "thi_"
_ID_BYTES = 8


class Invites:
    """The rules of invites. All state is in the store."""

    def __init__(self, store: InviteStore, now: Callable[[], float] = time.time) -> None:
        self._store, self._now = store, now

    async def create(self, ttl_s: int, note: str) -> tuple[Invite, str]:
        """Make an invite, good for `ttl_s` seconds (0: 7 days); return it and its code.

        Raises:
            Invalid: a value is not allowed, or too many invites are good.
        """
        if not 0 <= ttl_s <= MAX_TTL_S:
            raise Invalid(f"ttl_s: at most {MAX_TTL_S:,} seconds")
        if len(note) > MAX_NOTE or not (note.isprintable()):
            raise Invalid(f"note: at most {MAX_NOTE} characters on one line")
        if len(await self.all()) >= MAX_INVITES:
            raise Invalid(f"{MAX_INVITES:,} invites are good: revoke some or wait")
        code = _PREFIX + secrets.token_urlsafe(24)
        now = self._now()
        invite = Invite(digest_of_code(code), note, now, now + (ttl_s or TTL_S))
        await self._store.add(invite, now)
        return invite, code

    async def all(self) -> list[Invite]:
        """Return the invites that are good, oldest first."""
        return sorted(await self._store.all(self._now()), key=lambda invite: (invite.created_at, invite.sha256))

    async def revoke(self, invite_id: str) -> None:
        """Make an invite worth nothing.

        Raises:
            Missing: there is no such invite, or it is used or has expired.
        """
        for invite in await self.all():
            if id_of(invite) == invite_id and await self._store.remove(invite.sha256):
                return
        raise Missing("there is no such invite")

    async def is_good(self, code: str) -> bool:
        """Whether somebody may register with this code."""
        return bool(code) and await self._store.is_good(digest_of_code(code), self._now())


def digest_of_code(code: str) -> bytes:
    """Return what is kept of a code. Codes are random, so a plain hash is enough."""
    return hashlib.sha256(code.encode("utf-8", "surrogatepass")).digest()


def id_of(invite: Invite) -> str:
    """Return the id that operators see."""
    return invite.sha256[:_ID_BYTES].hex()
