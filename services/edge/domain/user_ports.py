"""Interface between the HTTP API and the users that the auth service keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileChange:
    """New values of a profile; None: as before. `custom` is a JSON text."""

    display_name: str | None = None
    avatar_url: str | None = None
    status: str | None = None
    custom: bytes | None = None
    hidden: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user, as operators see them.

    `username` is empty if the tokens come from another login server, `custom` (a JSON text) if there is none.
    `created_at` is in Unix seconds, 0: not known. `version` is raised by every change of the profile.
    """

    id: str
    username: str
    display_name: str
    avatar_url: str
    status: str
    custom: bytes
    hidden: bool
    version: int
    created_at: int
    is_disabled: bool


class LoginSession(NamedTuple):
    """A login session. `id` is the `sid` of its tokens.

    Times are Unix seconds, 0: not known.
    """

    id: str
    begun_at: int
    refreshed_at: int
    expires_at: int
    peer: str
    user_agent: str


class EndedSessions(NamedTuple):
    """Sessions that have ended; `access_ttl_s`: their tokens could be good so long.

    `version`: of auth's store, if a user was disabled or deleted; 0: of an auth of before.
    """

    sessions: Sequence[str]
    access_ttl_s: int
    version: int = 0


class Invite(NamedTuple):
    """A code that is good for one registration, without the code.

    Times are Unix seconds.
    """

    id: str
    note: str
    created_at: int
    expires_at: int


class Users(Protocol):
    """Users, kept by the auth service; it does not ask who calls.

    Every call raises `AccountRefused` if auth refuses it, `Busy` if auth has too much to do, and `Unavailable` within
    3 s if auth does not answer. `AccountRefused` with status 404: there is no such user.
    """

    async def create(self, *, user: str, username: str, password: str, change: ProfileChange) -> User:
        """Make a user with name and password, or one of another login server."""

    async def get(self, *, user: str = "", username: str = "") -> User: ...

    async def profiles(self, users: Sequence[str]) -> list[User]:
        """Return those that others may see, of 100 users at most."""

    async def page(self, after: str, limit: int) -> tuple[list[User], str]:
        """Return some users, and the `after` of the next page; empty: there is none."""

    async def update(
        self, user: str, change: ProfileChange, *, if_version: int | None = None, create: bool = False
    ) -> User: ...

    async def disable(self, user: str) -> EndedSessions: ...

    async def enable(self, user: str) -> None: ...

    async def delete(self, user: str) -> EndedSessions: ...

    async def set_password(self, user: str, password: str) -> EndedSessions: ...

    async def change_password(self, user: str, session: str, old: str, new: str) -> EndedSessions:
        """Change the own password; all sessions but `session` end."""

    async def find(self, asker: str, username: str) -> User:
        """Find a user by name for another one; 404 also for hidden and disabled users."""

    async def sessions(self, user: str) -> list[LoginSession]: ...

    async def end_sessions(self, user: str, *, session: str = "", except_session: str = "") -> EndedSessions:
        """End one session of the user, or all, or all but one."""

    async def create_invite(self, ttl_s: int, note: str) -> tuple[Invite, str]:
        """Make an invite, good for `ttl_s` seconds (0: 7 days); return it and its code."""

    async def invites(self) -> list[Invite]:
        """Return the invites that are neither used nor expired, oldest first."""

    async def revoke_invite(self, invite: str) -> None:
        """Make an invite worth nothing; 404 if there is none of that id."""
