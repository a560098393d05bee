"""Interface to the store of users: profiles, disabled users, login sessions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Profile:
    """What a user says of themselves.

    `custom` is a JSON text, empty: none. `hidden`: others can't find the user by name. `version` is raised by every
    change; 0: never changed.
    """

    display_name: str = ""
    avatar_url: str = ""
    status: str = ""
    custom: bytes = b""
    hidden: bool = False
    version: int = 0


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A user. `username` is empty if the tokens come from another login server.

    `created_at` and `disabled_at` are Unix seconds; 0: not known, and not disabled.
    """

    id: str
    username: str = ""
    profile: Profile = Profile()
    created_at: float = 0.0
    disabled_at: float = 0.0


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A login session. Times are Unix seconds; `begun_at` 0: not known."""

    user_id: str
    family: str
    begun_at: float
    refreshed_at: float
    expires_at: float
    peer: str = ""
    user_agent: str = ""


class ProfileVersion(NamedTuple):
    """Says that a profile has been changed, and which version it had then."""

    user_id: str
    version: int


class UserStore(Protocol):
    """Store of what is known of users besides their passwords.

    Every method raises `Unavailable` if the store does not answer or fails. User ids may be any text.
    """

    async def get(self, user_id: str) -> UserRecord | None: ...

    async def get_many(self, user_ids: Collection[str]) -> dict[str, UserRecord]:
        """Return those of the users that exist, by id."""

    async def page(self, after: str, limit: int) -> tuple[list[UserRecord], str]:
        """Return some users, and the `after` of the next page; empty: there are no more.

        Each user is on one page. A page may have fewer than `limit`, also none.
        """

    async def add_users(self, user_ids: Collection[str], now: float) -> None:
        """Add users of other login servers; those that exist are left as they are.

        Not those that were deleted and are still refused.
        """

    async def add_seen(self, names: Mapping[str, str], now: float) -> None:
        """Add users of other login servers, with these display names by id.

        Those that exist, are disabled or were deleted and are refused still are left as they are. Atomic for each user.
        """

    async def put_profile(self, user_id: str, profile: Profile, now: float) -> bool:
        """Store the profile if the stored one has the version before; False if not.

        Also False for a user who was deleted and is still refused at `now`.

        A user who does not exist is added, as one of another login server, with `now` as the time of creation. The
        change is in the same transaction noted for `profile_changes`, at `now`.
        """

    async def profile_changes(self, since: float, limit: int) -> list[ProfileVersion]:
        """Return the changes noted at `since` (Unix seconds) or later.

        If they are more than `limit`, the newest. In no particular order; a user may be named more than once.
        """

    async def forget_profile_changes(self, before: float, limit: int) -> None:
        """Remove changes that were noted before this time (Unix seconds), `limit` at most."""

    async def is_disabled(self, user_id: str, now: float) -> bool:
        """Return whether the user is disabled, or was deleted and is still refused."""

    async def disable(self, user_id: str, now: float) -> None: ...

    async def enable(self, user_id: str) -> None:
        """Undo `disable`. A user who was deleted stays refused."""

    async def disabled(self, now: float) -> list[bytes]:
        """Return the digests of all users that are refused at `now`."""

    async def disabled_version(self) -> int:
        """Return a number that `disable`, `enable` and `delete` raise."""

    async def delete(self, user_id: str, now: float, refused_until: float) -> None:
        """Remove the user with name, profile and sessions; the id is refused until then."""

    async def set_password(self, user_id: str, password_hash: str, old_hash: str) -> bool:
        """Replace a password hash; False if it is not `old_hash` any more."""

    async def note_session(self, session: SessionRecord) -> None:
        """Note a session, or its last use; `begun_at` 0 leaves what is known."""

    async def sessions(self, user_id: str, now: float) -> list[SessionRecord]:
        """Return the sessions that have neither ended nor expired, newest first."""

    async def end_sessions(self, user_id: str, families: Sequence[str], until: float) -> list[str]:
        """End those of the families that are sessions of this user; return them.

        Also those that have ended before. `until`: no access token of them is good longer, Unix seconds.
        """

    async def end_all(self, user_id: str, kept: str, now: float, until: float) -> list[str]:
        """End all sessions of the user but `kept`; return them, and what `ended` returns.

        Sessions that nobody noted when they began (before the store kept any) can't be returned, but are over.
        """

    async def ended(self, user_id: str, now: float) -> list[str]:
        """Return the sessions that were ended and whose access tokens may be good still."""

    async def is_over(self, user_id: str, family: str) -> bool:
        """Return whether `end_all` ended a session that nobody noted when it began."""
