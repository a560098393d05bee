"""Client of auth for users.

Implements `Users` (`domain/user_ports.py`), and with it `ProfileSource` (`domain/profiles/reader.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import grpc

from services.edge.adapters.account_refusals import ACCESS_TTL_S, refused
from services.edge.domain.ports import AccountRefused
from services.edge.domain.user_ports import EndedSessions, Invite, LoginSession, ProfileChange, User
from services.shared.errors import Unavailable
from services.shared.rpc.replicas import Replicas
from thalamus.auth.v1 import users_pb2 as pb
from thalamus.auth.v1.users_pb2_grpc import UserServiceStub

if TYPE_CHECKING:
    from thalamus.auth.v1.users_pb2_grpc import UserServiceAsyncStub

CALL_S = 2.8  # deadline of a call, seconds
_PROFILES_S = 2.0  # the same for profiles: what is known of them is used instead
T = TypeVar("T")


class UsersClient:
    """Implements `Users` by calls to auth."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    async def create(self, *, user: str, username: str, password: str, change: ProfileChange) -> User:
        request = pb.CreateUserRequest(id=user, username=username, password=password, profile=_change(change))
        return _user(await self._call(lambda stub: stub.CreateUser(request, timeout=CALL_S)))

    async def get(self, *, user: str = "", username: str = "") -> User:
        request = pb.GetUserRequest(id=user, username=username)
        return _user(await self._call(lambda stub: stub.GetUser(request, timeout=CALL_S)))

    async def profiles(self, users: Sequence[str]) -> list[User]:
        request = pb.GetProfilesRequest(ids=users)
        found = await self._call(lambda stub: stub.GetProfiles(request, timeout=_PROFILES_S), _PROFILES_S)
        return [_user(user) for user in found.users]

    async def page(self, after: str, limit: int) -> tuple[list[User], str]:
        request = pb.ListUsersRequest(after=after, limit=limit)
        found = await self._call(lambda stub: stub.ListUsers(request, timeout=CALL_S))
        return [_user(user) for user in found.users], found.next

    async def update(
        self, user: str, change: ProfileChange, *, if_version: int | None = None, create: bool = False
    ) -> User:
        request = pb.UpdateUserRequest(id=user, change=_change(change), if_version=if_version, create=create)
        return _user(await self._call(lambda stub: stub.UpdateUser(request, timeout=CALL_S)))

    async def disable(self, user: str) -> EndedSessions:
        request = pb.DisableUserRequest(id=user)
        return _ended(await self._call(lambda stub: stub.DisableUser(request, timeout=CALL_S)))

    async def enable(self, user: str) -> None:
        request = pb.EnableUserRequest(id=user)
        await self._call(lambda stub: stub.EnableUser(request, timeout=CALL_S))

    async def delete(self, user: str) -> EndedSessions:
        request = pb.DeleteUserRequest(id=user)
        return _ended(await self._call(lambda stub: stub.DeleteUser(request, timeout=CALL_S)))

    async def set_password(self, user: str, password: str) -> EndedSessions:
        request = pb.SetPasswordRequest(id=user, password=password)
        return _ended(await self._call(lambda stub: stub.SetPassword(request, timeout=CALL_S)))

    async def change_password(self, user: str, session: str, old: str, new: str) -> EndedSessions:
        request = pb.ChangePasswordRequest(id=user, session=session, old_password=old, new_password=new)
        return _ended(await self._call(lambda stub: stub.ChangePassword(request, timeout=CALL_S)))

    async def find(self, asker: str, username: str) -> User:
        request = pb.FindUserRequest(asker=asker, username=username)
        return _user(await self._call(lambda stub: stub.FindUser(request, timeout=CALL_S)))

    async def sessions(self, user: str) -> list[LoginSession]:
        request = pb.ListSessionsRequest(id=user)
        found = await self._call(lambda stub: stub.ListSessions(request, timeout=CALL_S))
        return [
            LoginSession(one.id, one.begun_at, one.refreshed_at, one.expires_at, one.peer, one.user_agent)
            for one in found.sessions
        ]

    async def end_sessions(self, user: str, *, session: str = "", except_session: str = "") -> EndedSessions:
        request = pb.EndSessionsRequest(id=user, session=session, except_session=except_session)
        return _ended(await self._call(lambda stub: stub.EndSessions(request, timeout=CALL_S)))

    async def add_seen(self, names: Mapping[str, str]) -> None:
        """Tell auth of users of other login servers: display names by id, 100 at most.

        Raises:
            Unavailable: auth does not answer, or does not take them.
            Busy: auth has too much to do.
        """
        request = pb.AddUsersRequest(users=[pb.SeenUser(id=user, display_name=name) for user, name in names.items()])
        try:
            await self._call(lambda stub: stub.AddUsers(request, timeout=CALL_S))
        except AccountRefused as error:
            raise Unavailable(f"auth refuses: {error}") from error

    async def create_invite(self, ttl_s: int, note: str) -> tuple[Invite, str]:
        request = pb.CreateInviteRequest(ttl_s=ttl_s, note=note)
        made = await self._call(lambda stub: stub.CreateInvite(request, timeout=CALL_S))
        return _invite(made.invite), made.code

    async def invites(self) -> list[Invite]:
        found = await self._call(lambda stub: stub.ListInvites(pb.ListInvitesRequest(), timeout=CALL_S))
        return [_invite(invite) for invite in found.invites]

    async def revoke_invite(self, invite: str) -> None:
        request = pb.RevokeInviteRequest(id=invite)
        await self._call(lambda stub: stub.RevokeInvite(request, timeout=CALL_S))

    async def _call(self, ask: Callable[[UserServiceAsyncStub], Awaitable[T]], timeout_s: float = CALL_S) -> T:
        async def call(channel: grpc.aio.Channel) -> T:
            return await ask(UserServiceStub(channel))

        try:
            return await self._replicas.call(call, timeout_s)
        except grpc.aio.AioRpcError as error:
            raise refused(error) from error


def _change(change: ProfileChange) -> pb.ProfileChange:
    return pb.ProfileChange(
        display_name=change.display_name,
        avatar_url=change.avatar_url,
        status=change.status,
        custom=change.custom,
        hidden=change.hidden,
    )


def _user(user: pb.User) -> User:
    profile = user.profile
    return User(
        id=user.id,
        username=user.username,
        display_name=profile.display_name,
        avatar_url=profile.avatar_url,
        status=profile.status,
        custom=profile.custom,
        hidden=profile.hidden,
        version=profile.version,
        created_at=user.created_at,
        is_disabled=user.disabled,
    )


def _ended(ended: pb.EndedSessions) -> EndedSessions:
    return EndedSessions(list(ended.sessions), ended.access_ttl_s or ACCESS_TTL_S, ended.disabled_version)


def _invite(invite: pb.Invite) -> Invite:
    return Invite(invite.id, invite.note, invite.created_at, invite.expires_at)
