"""Settings of a conversation, which its log holds.

The fold reads no other configuration: a namespace's options count when a conversation is created, and are written into
its `create` event then. Otherwise a changed option would change what an old log means.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from services.persistence.chat.domain.rights import DEFAULTS, Right, Role, is_allowed

_Seconds = Annotated[int, Meta(ge=0, le=10 * 365 * 86_400)]
_Members = Annotated[int, Meta(ge=1, le=10_000)]
History = Literal["all", "joined"]
Join = Literal["invited", "anyone"]
Versions = Literal["keep", "erase"]


class SettingsChange(msgspec.Struct, frozen=True, kw_only=True):
    """What a `create` or `update` event says of settings; what it leaves out stays."""

    edit_window_s: int | UnsetType | None = UNSET
    delete_window_s: int | UnsetType | None = UNSET
    slow_mode_s: int | UnsetType = UNSET
    unique_reactions: bool | UnsetType = UNSET
    versions: Versions | UnsetType = UNSET
    history: History | UnsetType = UNSET
    join: Join | UnsetType = UNSET
    max_members: int | UnsetType = UNSET
    rights: dict[Right, Role] | UnsetType = UNSET


class NewSettingsChange(SettingsChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same on its way in: with bounds, and unknown settings are refused."""

    edit_window_s: _Seconds | UnsetType | None = UNSET
    delete_window_s: _Seconds | UnsetType | None = UNSET
    slow_mode_s: _Seconds | UnsetType = UNSET
    max_members: _Members | UnsetType = UNSET


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings at one position of the log."""

    edit_window_s: int | None = None  # None: no limit; 0: not at all
    delete_window_s: int | None = None  # for authors; the right `moderate` has no limit
    slow_mode_s: int = 0  # least time between two messages of a member; decided before numbering, not by the fold
    unique_reactions: bool = False  # a user has one reaction per message: a new one replaces it
    versions: Versions = "keep"  # what becomes of content that was edited
    history: History = "all"  # what new members of a group see: everything, or what comes after they joined
    join: Join = "invited"  # who may join a group
    max_members: int = 1_000  # of a group
    rights: dict[Right, Role] = {}  # those that differ from the default

    def role_for(self, right: Right) -> Role:
        """Return the lowest role that has the right."""
        return self.rights.get(right, DEFAULTS[right])

    def changed(self, change: SettingsChange) -> Settings | None:
        """Return the settings after a change; None if it moves a right too far."""
        given = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not UNSET}
        if change.rights is not UNSET:
            if not all(is_allowed(right, role) for right, role in change.rights.items()):
                return None
            merged = {**self.rights, **change.rights}
            given["rights"] = {right: role for right, role in merged.items() if role is not DEFAULTS[right]}
        return msgspec.structs.replace(self, **given)

    def as_json(self) -> dict[str, Any]:
        """Return all settings as JSON-like values."""
        settings: dict[str, Any] = msgspec.to_builtins(self)
        return settings
