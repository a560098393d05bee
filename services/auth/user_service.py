"""gRPC service of users: translates calls, records and refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from services.auth.domain.accounts import Accounts
from services.auth.domain.invites import id_of
from services.auth.domain.ports import Invite
from services.auth.domain.profile_changes import ProfileChanges
from services.auth.domain.profile_rules import ProfileChange
from services.auth.domain.user_ports import SessionRecord, UserRecord
from services.auth.statuses import refusals_as_statuses
from services.shared.checks import MAX_USER_BYTES, check_text
from services.shared.rpc.server import Refused
from thalamus.auth.v1 import users_pb2 as pb
from thalamus.auth.v1 import users_pb2_grpc as rpc

_MAX_NAME_BYTES = 8_192  # a longer name is nobody's
_MAX_SESSION_BYTES = 64
_MAX_CURSOR_BYTES = 16_384
_MAX_NOTE_BYTES = 1_024
_MAX_SEEN = 100  # users of one call
_MAX_CHANGES = 256  # profiles of one message: ids may have 8 KiB each
_CHANGES_PAUSE_S = 0.25  # between two messages, seconds: several changes of one user are told as one
KEEPALIVE_S = 10.0  # longest silence on a stream of changes, about, seconds


class UserServicer(rpc.UserServiceServicer):
    """The servicer. One per process."""

    def __init__(self, accounts: Accounts, changes: ProfileChanges) -> None:
        self._accounts, self._changes = accounts, changes
        self._users, self._own = accounts.users, accounts.own

    async def CreateUser(self, request: pb.CreateUserRequest, context: Any) -> pb.User:
        change = _change(request.profile)
        with refusals_as_statuses():
            if request.username or not request.id:
                check_text("username", request.username, _MAX_NAME_BYTES)
                return _user(await self._users.create(request.username, request.password, change))
            _check_id(request.id)
            return _user(await self._users.create_foreign(request.id, change))

    async def GetUser(self, request: pb.GetUserRequest, context: Any) -> pb.User:
        with refusals_as_statuses():
            if request.username:
                check_text("username", request.username, _MAX_NAME_BYTES)
                return _user(await self._users.by_name(request.username))
            _check_id(request.id)
            return _user(await self._users.get(request.id))

    async def GetProfiles(self, request: pb.GetProfilesRequest, context: Any) -> pb.GetProfilesResponse:
        for user_id in request.ids:
            _check_id(user_id)
        with refusals_as_statuses():
            return pb.GetProfilesResponse(users=map(_user, await self._users.visible(request.ids)))

    async def WatchProfiles(self, request: pb.WatchProfilesRequest, context: Any) -> AsyncIterator[pb.ChangedProfiles]:
        """Tell of the changes of the last minute, then of each; several together."""
        number = 0
        while True:
            found, number = self._changes.after(number, _MAX_CHANGES)
            profiles = [pb.ChangedProfile(id=one.user_id, version=one.version) for one in found]
            yield pb.ChangedProfiles(profiles=profiles)  # waits while the edge reads slowly
            if len(found) < _MAX_CHANGES:
                await asyncio.sleep(_CHANGES_PAUSE_S)
                await self._changes.wait(number, KEEPALIVE_S)

    async def ListUsers(self, request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:
        check_text("after", request.after, _MAX_CURSOR_BYTES)
        with refusals_as_statuses():
            found, following = await self._users.page(request.after, request.limit)
            return pb.ListUsersResponse(users=map(_user, found), next=following)

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Any) -> pb.User:
        _check_id(request.id)
        version = request.if_version if request.HasField("if_version") else None
        with refusals_as_statuses():
            if request.create:  # by the user, not by a backend
                await self._own.limit_changes(request.id)
            changed = await self._users.update(
                request.id, _change(request.change), if_version=version, create=request.create
            )
            return _user(changed)

    async def DisableUser(self, request: pb.DisableUserRequest, context: Any) -> pb.EndedSessions:
        _check_id(request.id)
        with refusals_as_statuses():
            return await self._refused(await self._users.disable(request.id))

    async def EnableUser(self, request: pb.EnableUserRequest, context: Any) -> pb.EnableUserResponse:
        _check_id(request.id)
        with refusals_as_statuses():
            await self._users.enable(request.id)
            return pb.EnableUserResponse()

    async def DeleteUser(self, request: pb.DeleteUserRequest, context: Any) -> pb.EndedSessions:
        _check_id(request.id)
        with refusals_as_statuses():
            return await self._refused(await self._users.delete(request.id))

    async def SetPassword(self, request: pb.SetPasswordRequest, context: Any) -> pb.EndedSessions:
        _check_id(request.id)
        with refusals_as_statuses():
            return self._ended(await self._users.set_password(request.id, request.password))

    async def ChangePassword(self, request: pb.ChangePasswordRequest, context: Any) -> pb.EndedSessions:
        _check_id(request.id)
        check_text("session", request.session, _MAX_SESSION_BYTES)
        with refusals_as_statuses():
            ended = await self._own.change_password(
                request.id, request.session, request.old_password, request.new_password
            )
            return self._ended(ended)

    async def FindUser(self, request: pb.FindUserRequest, context: Any) -> pb.User:
        _check_id(request.asker)
        check_text("username", request.username, _MAX_NAME_BYTES)
        with refusals_as_statuses():
            return _user(await self._own.find(request.asker, request.username))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        _check_id(request.id)
        with refusals_as_statuses():
            return pb.ListSessionsResponse(sessions=map(_session, await self._own.sessions(request.id)))

    async def EndSessions(self, request: pb.EndSessionsRequest, context: Any) -> pb.EndedSessions:
        _check_id(request.id)
        check_text("session", request.session, _MAX_SESSION_BYTES)
        check_text("session", request.except_session, _MAX_SESSION_BYTES)
        with refusals_as_statuses():
            if request.session:
                return self._ended(await self._own.end_session(request.id, request.session))
            await self._own.limit_ends(request.id)
            return self._ended(await self._own.end_sessions(request.id, except_session=request.except_session))

    async def AddUsers(self, request: pb.AddUsersRequest, context: Any) -> pb.AddUsersResponse:
        names = {user.id: user.display_name for user in request.users}
        for user_id in names:
            _check_id(user_id)
        if len(names) > _MAX_SEEN:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"at most {_MAX_SEEN} users")
        await self._users.add_seen(names)
        return pb.AddUsersResponse()

    async def CreateInvite(self, request: pb.CreateInviteRequest, context: Any) -> pb.CreateInviteResponse:
        check_text("note", request.note, _MAX_NOTE_BYTES)
        with refusals_as_statuses():
            invite, code = await self._accounts.invites.create(request.ttl_s, request.note)
            return pb.CreateInviteResponse(invite=_invite(invite), code=code)

    async def ListInvites(self, request: pb.ListInvitesRequest, context: Any) -> pb.ListInvitesResponse:
        return pb.ListInvitesResponse(invites=map(_invite, await self._accounts.invites.all()))

    async def RevokeInvite(self, request: pb.RevokeInviteRequest, context: Any) -> pb.RevokeInviteResponse:
        check_text("id", request.id, _MAX_SESSION_BYTES, least=1)
        with refusals_as_statuses():
            await self._accounts.invites.revoke(request.id)
            return pb.RevokeInviteResponse()

    async def _refused(self, sessions: Sequence[str]) -> pb.EndedSessions:
        """Return ended sessions of a user who is refused since then."""
        ended = self._ended(sessions)
        ended.disabled_version = await self._users.disabled_version()
        return ended

    def _ended(self, sessions: Sequence[str]) -> pb.EndedSessions:
        return pb.EndedSessions(sessions=sessions, access_ttl_s=self._accounts.access_ttl_s)


def _check_id(user_id: str) -> None:
    check_text("user", user_id, MAX_USER_BYTES, least=1)


def _change(change: pb.ProfileChange) -> ProfileChange:
    return ProfileChange(**{field.name: value for field, value in change.ListFields()})


def _user(record: UserRecord) -> pb.User:
    profile = record.profile
    return pb.User(
        id=record.id,
        username=record.username,
        profile=pb.Profile(
            display_name=profile.display_name,
            avatar_url=profile.avatar_url,
            status=profile.status,
            custom=profile.custom,
            hidden=profile.hidden,
            version=profile.version,
        ),
        created_at=int(record.created_at),
        disabled=bool(record.disabled_at),
    )


def _session(record: SessionRecord) -> pb.LoginSession:
    return pb.LoginSession(
        id=record.family,
        begun_at=int(record.begun_at),
        refreshed_at=int(record.refreshed_at),
        expires_at=int(record.expires_at),
        peer=record.peer,
        user_agent=record.user_agent,
    )


def _invite(invite: Invite) -> pb.Invite:
    return pb.Invite(
        id=id_of(invite), note=invite.note, created_at=int(invite.created_at), expires_at=int(invite.expires_at)
    )
