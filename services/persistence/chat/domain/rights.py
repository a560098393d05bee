"""Roles, rights, and the role that each right needs.

Each role has the rights of those below it. Settings may move the role that a right needs up or down by one, with two
exceptions: `own` stays the owner's, and `manage` never goes below admin.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Role(enum.StrEnum):
    """Roles of members, from the lowest to the highest."""

    READER = "reader"
    MEMBER = "member"
    MODERATOR = "moderator"
    ADMIN = "admin"
    OWNER = "owner"

    rank: int  # place among the roles: 1 for reader to 5 for owner


NO_RANK = 0  # of those who have no role
PLATFORM_RANK = 6  # above every role
for _rank, _role in enumerate(Role, start=NO_RANK + 1):
    _role.rank = _rank


class Right(enum.StrEnum):
    """What a role allows, apart from reading, which every role allows."""

    REACT = "react"
    POST = "post"
    EDIT = "edit"  # edit and delete own messages
    INVITE = "invite"  # invite or add others to a group
    MODERATE = "moderate"  # edit and delete messages of others
    SILENCE = "silence"
    REMOVE = "remove"  # remove members
    PIN = "pin"
    MANAGE = "manage"  # give roles up to moderator, change settings, ban
    OWN = "own"  # give and take the role of admin, transfer, close, delete


DEFAULTS: Mapping[Right, Role] = {
    Right.REACT: Role.READER,
    Right.POST: Role.MEMBER,
    Right.EDIT: Role.MEMBER,
    Right.INVITE: Role.MEMBER,
    Right.MODERATE: Role.MODERATOR,
    Right.SILENCE: Role.MODERATOR,
    Right.REMOVE: Role.MODERATOR,
    Right.PIN: Role.MODERATOR,
    Right.MANAGE: Role.ADMIN,
    Right.OWN: Role.OWNER,
}


def is_allowed(right: Right, role: Role) -> bool:
    """Tell whether settings may give a right to this role and those above it."""
    default = DEFAULTS[right]
    if right is Right.OWN or (right is Right.MANAGE and role.rank < Role.ADMIN.rank):
        return role is default
    return abs(role.rank - default.rank) <= 1
