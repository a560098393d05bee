"""Methods of the server API for invites: codes that are good for one registration.

The docstrings of the structs are their descriptions in OpenAPI, the first line of each method's is its summary.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from services.edge.api.context import ApiContext
from services.edge.api.requests import Request, Whole, whole
from services.edge.api.results import Nothing
from services.edge.api.texts import LINE, text_of
from services.edge.api.users import UserMethod, refusals_of_auth
from services.edge.domain.user_ports import Invite

_MAX_TTL_S = 90 * 86_400


class InvitesCreate(Request):
    """The invite to make.
    `ttl_s`: how long it is good, 1 second to 90 days; absent: 7 days. `note`: whom it is for, 100 characters at most.
    """

    ttl_s: Annotated[Whole, msgspec.Meta(extra_json_schema={"minimum": 1, "maximum": _MAX_TTL_S})] = 7 * 86_400
    note: Annotated[str, text_of(LINE, max_length=100)] = ""

    def __post_init__(self) -> None:
        self.ttl_s = whole("ttl_s", self.ttl_s)
        if not 1 <= self.ttl_s <= _MAX_TTL_S:
            raise ValueError(f"`ttl_s` must be 1 to {_MAX_TTL_S}")


class InvitesList(Request):
    """No members."""


class InvitesRevoke(Request):
    """The id of the invite."""

    invite: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class InviteResult(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An invite. Times are Unix seconds."""

    invite: str
    note: str
    created_at: Annotated[int, msgspec.Meta(ge=0)]
    expires_at: Annotated[int, msgspec.Meta(ge=0)]


class NewInvite(InviteResult, kw_only=True, forbid_unknown_fields=True):
    """An invite. Times are Unix seconds. `code` is shown only now."""

    code: str


class InviteList(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The invites that are neither used nor expired, oldest first."""

    invites: list[InviteResult]


async def create(context: ApiContext, request: InvitesCreate) -> dict[str, Any]:
    """Make a code that is good for one registration; it is shown only now."""
    with refusals_of_auth():
        made, code = await context.users.create_invite(int(request.ttl_s), request.note)
    return {**_result(made), "code": code}


async def list_(context: ApiContext, request: InvitesList) -> dict[str, Any]:
    """Return the invites that are neither used nor expired."""
    with refusals_of_auth():
        return {"invites": [_result(invite) for invite in await context.users.invites()]}


async def revoke(context: ApiContext, request: InvitesRevoke) -> dict[str, Any]:
    """Make an invite worth nothing."""
    with refusals_of_auth():
        await context.users.revoke_invite(request.invite)
    return {}


def _result(invite: Invite) -> dict[str, Any]:
    return {
        "invite": invite.id,
        "note": invite.note,
        "created_at": invite.created_at,
        "expires_at": invite.expires_at,
    }


INVITE_METHODS: dict[str, tuple[type[msgspec.Struct], UserMethod]] = {
    "invites_create": (InvitesCreate, create),
    "invites_list": (InvitesList, list_),
    "invites_revoke": (InvitesRevoke, revoke),
}
INVITE_RESULTS: dict[str, type[msgspec.Struct]] = {
    "invites_create": NewInvite,
    "invites_list": InviteList,
    "invites_revoke": Nothing,
}
