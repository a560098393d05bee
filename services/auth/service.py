"""gRPC service of auth: translates calls, and refusals to gRPC statuses."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec

from services.auth.domain.accounts import Accounts
from services.auth.domain.refusals import Invalid
from services.auth.domain.sessions import Pair
from services.auth.domain.signing_keys import KeyInfo, KeyState, SigningKeys
from services.auth.statuses import refusals_as_statuses
from services.shared.checks import MAX_TIME_S, MAX_USER_BYTES, check_channel, check_text
from services.shared.errors import ThalamusError
from services.shared.json_text import checked_json
from services.shared.rpc.server import Refused
from thalamus.auth.v1 import auth_pb2 as pb
from thalamus.auth.v1 import auth_pb2_grpc as rpc

KEEPALIVE_S = 10.0  # longest silence on a Watch stream, seconds
_MAX_USERNAME_BYTES = 8_192  # a longer name is nobody's; `Accounts` checks which names may be registered
_MAX_REFRESH_TOKEN_BYTES = 2_048
_MAX_PEER_BYTES = 255
_MAX_USER_AGENT_BYTES = 8_192
_MAX_KEY_ID_BYTES = 64
_MAX_INVITE_BYTES = 256
_MAX_TOKEN_BYTES = 8_192  # edges accept no longer token
_STATES = {
    KeyState.WAITING: pb.SIGNING_KEY_STATE_WAITING,
    KeyState.SIGNING: pb.SIGNING_KEY_STATE_SIGNING,
    KeyState.VERIFYING: pb.SIGNING_KEY_STATE_VERIFYING,
}


class TrustFeed:
    """What edges need to verify tokens and API keys, with a way to wait for a change."""

    def __init__(self) -> None:
        self.trust = pb.Trust()
        self.brief = pb.Trust()  # the same without the disabled users, who may be many
        self._changed = asyncio.Event()

    def set(self, trust: pb.Trust) -> None:
        """Replace the state; wake everyone who waits, if the new one differs."""
        if trust == self.trust:
            return
        self.trust, self.brief = trust, pb.Trust()
        self.brief.CopyFrom(trust)
        self.brief.ClearField("has_disabled_users")
        self.brief.ClearField("disabled_users")
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self, known: pb.Trust, timeout_s: float) -> None:
        """Wait until `trust` is no longer `known`, for `timeout_s` seconds at most."""
        if self.trust is not known:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()


class AuthServicer(rpc.AuthServiceServicer):
    """The servicer. One per process."""

    def __init__(self, accounts: Accounts, feed: TrustFeed, signing_keys: SigningKeys) -> None:
        self._accounts = accounts
        self._feed = feed
        self._signing_keys = signing_keys

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.Trust]:
        """Send the whole trust state: at once, after every change, and every 10 s.

        The disabled users are left out where the edge has heard of them on this stream.
        """
        told: pb.Trust | None = None
        while True:
            trust, brief = self._feed.trust, self._feed.brief
            knows = told is not None and told.disabled_users == trust.disabled_users
            yield brief if knows else trust  # waits while the edge reads slowly; meanwhile changes replace each other
            told = trust
            await self._feed.wait_for_change(trust, KEEPALIVE_S)

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.TokenPair:
        _check_name_and_peer(request)
        check_text("invite", request.invite, _MAX_INVITE_BYTES)
        with refusals_as_statuses():
            pair = await self._accounts.registration.register(
                request.username, request.password, request.peer, request.user_agent, invite=request.invite
            )
            return _pair(pair)

    async def Login(self, request: pb.LoginRequest, context: Any) -> pb.TokenPair:
        _check_name_and_peer(request)
        with refusals_as_statuses():
            pair = await self._accounts.sessions.login(
                request.username, request.password, request.peer, request.user_agent
            )
            return _pair(pair)

    async def RefreshSession(self, request: pb.RefreshSessionRequest, context: Any) -> pb.TokenPair:
        check_text("refresh token", request.refresh_token, _MAX_REFRESH_TOKEN_BYTES, least=1)
        _check_client(request)
        with refusals_as_statuses(self._accounts.access_ttl_s):
            return _pair(await self._accounts.sessions.refresh(request.refresh_token, request.peer, request.user_agent))

    async def Logout(self, request: pb.LogoutRequest, context: Any) -> pb.LogoutResponse:
        check_text("refresh token", request.refresh_token, _MAX_REFRESH_TOKEN_BYTES, least=1)
        ended = await self._accounts.sessions.logout(request.refresh_token)
        if ended is None:
            return pb.LogoutResponse()
        return pb.LogoutResponse(user=ended.user_id, session=ended.family, access_ttl_s=self._accounts.access_ttl_s)

    async def MintToken(self, request: pb.MintTokenRequest, context: Any) -> pb.MintTokenResponse:
        check_text("user", request.user, MAX_USER_BYTES)
        for channel in (*request.channels, *filter(None, [request.channel])):
            check_channel(channel)
        with refusals_as_statuses():
            token = self._accounts.tokens.mint(
                request.user,
                channel=request.channel,
                ttl_s=request.ttl_s,
                info=_claim("info", request.info),
                channels=list(request.channels),
                caps=_claim("caps", request.caps),
            )
            if len(token) > _MAX_TOKEN_BYTES:
                raise Invalid(f"the token would be longer than {_MAX_TOKEN_BYTES:,} bytes")
            return pb.MintTokenResponse(token=token)

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Any) -> pb.CreateApiKeyResponse:
        with refusals_as_statuses():
            row, text = await self._accounts.create_api_key(request.name, request.scopes, float(request.expires_at))
            return pb.CreateApiKeyResponse(id=row.id, key=text, scopes=row.scopes, expires_at=int(row.expires_at))

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Any) -> pb.ListApiKeysResponse:
        rows = await self._accounts.api_keys()
        return pb.ListApiKeysResponse(
            keys=[
                pb.ApiKey(
                    id=row.id,
                    name=row.name,
                    created_at=int(row.created_at),
                    scopes=row.scopes,
                    expires_at=min(int(row.expires_at), MAX_TIME_S),  # keys of before had no bound
                    last_used_at=int(row.last_used_at),
                )
                for row in rows
            ]
        )

    async def NoteApiKeyUses(self, request: pb.NoteApiKeyUsesRequest, context: Any) -> pb.NoteApiKeyUsesResponse:
        await self._accounts.note_api_key_uses({key_id: float(at) for key_id, at in request.last_used_at.items()})
        return pb.NoteApiKeyUsesResponse()

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Any) -> pb.RevokeApiKeyResponse:
        check_text("id", request.id, _MAX_KEY_ID_BYTES, least=1)
        if not await self._accounts.revoke_api_key(request.id):
            raise Refused(grpc.StatusCode.NOT_FOUND, "there is no such key")
        return pb.RevokeApiKeyResponse()

    async def GiveGrants(self, request: pb.GiveGrantsRequest, context: Any) -> pb.GiveGrantsResponse:
        with refusals_as_statuses():
            await self._accounts.grants.give(request.user, request.channels, request.operations, request.expires_at)
        return pb.GiveGrantsResponse()

    async def TakeGrants(self, request: pb.TakeGrantsRequest, context: Any) -> pb.TakeGrantsResponse:
        with refusals_as_statuses():
            await self._accounts.grants.take(request.user, request.channels, request.operations)
        return pb.TakeGrantsResponse()

    async def ListGrants(self, request: pb.ListGrantsRequest, context: Any) -> pb.ListGrantsResponse:
        with refusals_as_statuses():
            rows = await self._accounts.grants.of(request.user)
        return pb.ListGrantsResponse(grants=[pb.Grant(**row._asdict()) for row in rows])

    async def RotateSigningKey(self, request: pb.RotateSigningKeyRequest, context: Any) -> pb.SigningKey:
        with refusals_as_statuses():
            return _signing_key(await self._signing_keys.rotate())

    async def ListSigningKeys(self, request: pb.ListSigningKeysRequest, context: Any) -> pb.ListSigningKeysResponse:
        return pb.ListSigningKeysResponse(keys=map(_signing_key, await self._signing_keys.all()))

    async def RetireSigningKey(self, request: pb.RetireSigningKeyRequest, context: Any) -> pb.RetireSigningKeyResponse:
        check_text("kid", request.kid, _MAX_KEY_ID_BYTES, least=1)
        with refusals_as_statuses():
            if not await self._signing_keys.retire(request.kid, force=request.force):
                raise Refused(grpc.StatusCode.NOT_FOUND, "there is no such key")
        return pb.RetireSigningKeyResponse()


def _signing_key(info: KeyInfo) -> pb.SigningKey:
    return pb.SigningKey(
        kid=info.key.kid,
        algorithm=info.key.algorithm,
        state=_STATES[info.state],
        created_at=int(info.key.created_at),
        signs_from=math.ceil(info.signs_from),
        logins_until=math.ceil(info.logins_until or 0),
    )


def _check_name_and_peer(request: pb.RegisterRequest | pb.LoginRequest) -> None:
    """Check the lengths of user name and peer; `Accounts` checks the password."""
    check_text("username", request.username, _MAX_USERNAME_BYTES)
    _check_client(request)


def _check_client(request: pb.RegisterRequest | pb.LoginRequest | pb.RefreshSessionRequest) -> None:
    check_text("peer", request.peer, _MAX_PEER_BYTES)
    check_text("user agent", request.user_agent, _MAX_USER_AGENT_BYTES)


def _claim(name: str, text: bytes) -> Any:
    """Return a claim for a token as a JSON value; None if there is none.

    Raises:
        Invalid: it is not JSON that all clients can read.
    """
    if not text:
        return None
    try:
        return msgspec.json.decode(checked_json(text))
    except (ThalamusError, msgspec.MsgspecError) as error:
        raise Invalid(f"{name}: {error}") from error


def _pair(pair: Pair) -> pb.TokenPair:
    return pb.TokenPair(
        access_token=pair.access_token,
        expires_in_s=pair.expires_in_s,
        refresh_token=pair.refresh_token,
        user=pair.user.id,
        username=pair.user.username,
        ended_sessions=pair.ended,
    )
