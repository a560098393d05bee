"""Requests and results about users, of the server API and of signed-in users.

The docstrings of the structs are their descriptions in OpenAPI; each is one paragraph.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from services.edge.api.requests import FromZero, JsonText, Request, Whole, whole
from services.edge.api.texts import LINE, text_of
from services.edge.domain.profiles.reader import MAX_PROFILES
from services.edge.domain.user_ports import LoginSession, ProfileChange, User
from services.shared.checks import MAX_USER_BYTES
from services.shared.text_rules import AVATAR_URL, AVATAR_URL_BYTES

_LIMIT = 100  # users of a page
_MAX_VERSION = 2**53

_NAME = Annotated[str, text_of(LINE, max_length=64)]
_URL = Annotated[str, text_of(AVATAR_URL, max_length=AVATAR_URL_BYTES)]
_STATUS = Annotated[str, text_of(LINE, max_length=140)]
_PASSWORD = Annotated[str, msgspec.Meta(min_length=8, max_length=1_024)]
_USER = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_USER_BYTES)]


class Profile(Request):
    """Base of requests that change a profile; absent members stay as they are."""

    display_name: _NAME | msgspec.UnsetType = msgspec.UNSET
    avatar_url: _URL | msgspec.UnsetType = msgspec.UNSET
    status: _STATUS | msgspec.UnsetType = msgspec.UNSET
    custom: JsonText = msgspec.field(default_factory=msgspec.Raw)
    hidden: bool | msgspec.UnsetType = msgspec.UNSET

    def change(self) -> ProfileChange:
        """Return what changes."""
        return ProfileChange(
            display_name=_set(self.display_name),
            avatar_url=_set(self.avatar_url),
            status=_set(self.status),
            custom=bytes(self.custom) or None,
            hidden=_set(self.hidden),
        )


class ProfileAtVersion(Profile):
    """Base of changes that may ask for a version."""

    version: FromZero | None = None

    def __post_init__(self) -> None:
        self.version = None if self.version is None else _version(self.version)

    @property
    def if_version(self) -> int | None:
        """The version that the profile must have; None: any."""
        return None if self.version is None else int(self.version)


class UsersCreate(Profile):
    """The user to make.
    By `username` and `password`; or by `user`, the id of one whose tokens come from another login server.
    `display_name`: 64 characters at most. `avatar_url`: an https address. `status`: 140 characters at most. `custom`:
    any JSON value of 2 KiB at most. `hidden`: others can't find the user by name.
    """

    username: str = ""
    password: Annotated[str, msgspec.Meta(max_length=1_024)] = ""
    user: Annotated[str, msgspec.Meta(max_length=MAX_USER_BYTES)] = ""


class UsersGet(Request):
    """The user to find: by id, `user`, or by `username`."""

    user: Annotated[str, msgspec.Meta(max_length=MAX_USER_BYTES)] = ""
    username: Annotated[str, msgspec.Meta(max_length=MAX_USER_BYTES)] = ""


class UsersList(Request):
    """The page to read.
    `after`: `next` of the page before; empty: the first one. `limit`: 1 to 1,000.
    """

    after: Annotated[str, msgspec.Meta(max_length=16_384)] = ""
    limit: Whole = _LIMIT

    def __post_init__(self) -> None:
        self.limit = whole("limit", self.limit)


class UsersUpdate(ProfileAtVersion, kw_only=True):
    """The user, and the new values of the profile.
    `version`: only if the profile has this version.
    """

    user: _USER


class UsersPassword(Request):
    """The user, and the new password; all sessions end."""

    user: _USER
    password: _PASSWORD


class UserOnly(Request):
    """A request that names a user and nothing else."""

    user: _USER


class Me(ProfileAtVersion):
    """New values of the own profile. `version`: only if the profile has this version."""


class Find(Request):
    """The whole username of the user to find."""

    username: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Profiles(Request):
    """The ids of the users, at most 100."""

    users: Annotated[list[_USER], msgspec.Meta(max_length=MAX_PROFILES)]

    def __post_init__(self) -> None:
        # those of many requests leave in one call, which auth would refuse as a whole
        if any(len(user.encode("utf-8", "surrogatepass")) > MAX_USER_BYTES for user in self.users):
            raise ValueError(f"`users`: an id has at most {MAX_USER_BYTES:,} bytes")


class NewPassword(Request):
    """The old password and the new one."""

    old_password: Annotated[str, msgspec.Meta(max_length=1_024)]
    new_password: _PASSWORD


class SessionOnly(Request):
    """The id of one of the own sessions."""

    session: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class AllSessions(Request):
    """Which of the own sessions end: all but this one, or with `this` all of them."""

    this: bool = False


class UserResult(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A user.
    `user`: the id, `sub` of tokens. `username` is empty if the tokens come from another login server. `version`: raised
    by every change of the profile. `created_at`: Unix seconds; 0: not known.
    """

    user: str
    username: str
    display_name: str
    avatar_url: str
    status: str
    custom: Any
    hidden: bool
    version: Annotated[int, msgspec.Meta(ge=0)]
    created_at: Annotated[int, msgspec.Meta(ge=0)]
    disabled: bool


class FoundUser(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A user as others see them. `version`: raised by every change of the profile."""

    user: str
    username: str
    display_name: str
    avatar_url: str
    status: str
    custom: Any
    version: Annotated[int, msgspec.Meta(ge=0)]


class ProfileList(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Profiles in the order of the ids.
    Users that are not known, disabled or deleted are left out. `username` of a hidden user is empty, except for
    backends.
    """

    profiles: list[FoundUser]


class UserPage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Some users, in no particular order.
    `next`: `after` of the next page; empty: these are the last ones.
    """

    users: list[UserResult]
    next: str


class SessionResult(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A login session.
    Times are Unix seconds, 0: not known. `peer`: address at the last refresh. `current`: that of the token.
    """

    session: str
    begun_at: Annotated[int, msgspec.Meta(ge=0)]
    refreshed_at: Annotated[int, msgspec.Meta(ge=0)]
    expires_at: Annotated[int, msgspec.Meta(ge=0)]
    peer: str
    user_agent: str
    current: bool


class SessionList(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The own login sessions, newest first."""

    sessions: list[SessionResult]


def user_result(user: User) -> dict[str, Any]:
    """Return a user as `UserResult` describes it."""
    return {
        "user": user.id,
        "username": user.username,
        "display_name": user.display_name,
        "avatar_url": user.avatar_url,
        "status": user.status,
        "custom": msgspec.Raw(user.custom or b"null"),
        "hidden": user.hidden,
        "version": user.version,
        "created_at": user.created_at,
        "disabled": user.is_disabled,
    }


def found_result(user: User) -> dict[str, Any]:
    """Return a user as `FoundUser` describes it."""
    own = ("hidden", "created_at", "disabled")
    return {name: value for name, value in user_result(user).items() if name not in own}


def profile_result(user: User) -> dict[str, Any]:
    """Return what users see of another one whose id they know, as `FoundUser`.

    Whoever is hidden keeps the username to themselves: it would answer what `find` does not.
    """
    return {**found_result(user), **({"username": ""} if user.hidden else {})}


def session_result(session: LoginSession, current: str) -> dict[str, Any]:
    """Return a session as `SessionResult` describes it."""
    return {
        "session": session.id,
        "begun_at": session.begun_at,
        "refreshed_at": session.refreshed_at,
        "expires_at": session.expires_at,
        "peer": session.peer,
        "user_agent": session.user_agent,
        "current": session.id == current,
    }


def _version(number: float) -> int:
    version = whole("version", number)
    if not 0 <= version <= _MAX_VERSION:
        raise ValueError("`version` must not be negative, nor greater than any is")
    return version


def _set(value: Any) -> Any:
    return None if value is msgspec.UNSET else value
