"""Client of the auth service: keeps the key ring current, forwards account calls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

import grpc

from services.edge.adapters.account_refusals import ACCESS_TTL_S, refused
from services.edge.domain.access.api_keys import ApiKey
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.ports import Caller, EndedSession, TokenPair
from services.shared.api_scopes import ADMIN, Scopes
from services.shared.errors import Busy, Unavailable
from services.shared.process.backoff import Backoff
from services.shared.process.cancellation import end_task, is_being_cancelled
from services.shared.rpc.replicas import Replicas
from thalamus.auth.v1 import auth_pb2 as pb
from thalamus.auth.v1.auth_pb2_grpc import AuthServiceStub

if TYPE_CHECKING:
    from thalamus.auth.v1.auth_pb2_grpc import AuthServiceAsyncStub

logger = logging.getLogger(__name__)

CALL_S = 2.8  # deadline of a call, seconds
USES_EVERY_S = 60.0  # interval of telling auth which API keys were used, seconds
SILENCE_S = 30.0  # without a message for so long the stream is given up, seconds; auth sends one every 10 s
_PAUSE_S = (0.1, 2.0)  # first and longest pause before the stream is opened again, seconds


class AuthClient:
    """Keeps token keys and API keys current; implements `Accounts` by calls to auth.

    While auth is unreachable, the last known keys stay in use.
    """

    def __init__(
        self,
        replicas: Replicas,
        keyring: KeyRing,
        on_disabled: Callable[[Collection[bytes] | None, int], None] | None = None,
        on_wants_users: Callable[[bool], None] | None = None,
    ) -> None:
        """Take what is kept current.

        `on_disabled` is called with the digests of all disabled users, None: as before, and the version of
        that list.
        `on_wants_users` is called with whether auth wants to be told of users that it may not know.
        """
        self._on_wants_users = on_wants_users
        self._replicas = replicas
        self._keyring = keyring
        self._on_disabled = on_disabled
        self._tasks: list[asyncio.Task[None]] = []
        self._has_keys = False
        self._registration = ""
        self._heard = asyncio.Event()

    async def start(self) -> None:
        """Start to watch the keys, and to tell their use, in the background."""
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._tell_uses())]

    async def close(self) -> None:
        """Stop watching; tell what was used since auth was told last."""
        for task in self._tasks:
            await end_task(task)
        if self._tasks:
            await self._tell_uses_once()

    @property
    def is_ready(self) -> bool:
        """Whether keys were received at least once: tokens and API keys can be checked."""
        return self._has_keys

    async def wait_until_heard(self, timeout_s: float) -> bool:
        """Wait until auth has said who is refused and which keys are good.

        False: it did not within `timeout_s` seconds.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()
        return self._heard.is_set()

    async def _watch(self) -> None:
        """Read the stream of keys for ever; open it again when it ends or is silent."""
        backoff = Backoff(*_PAUSE_S)
        while True:
            try:
                channel = self._replicas.any()
                stream = AuthServiceStub(channel).Watch(pb.WatchRequest())
                try:
                    while True:
                        async with asyncio.timeout(SILENCE_S):
                            trust = await stream.read()
                        if not isinstance(trust, pb.Trust):
                            break
                        self._use_keys(trust)
                        backoff.reset()
                except TimeoutError:
                    channel.breaker.failed()
                    raise
                finally:
                    stream.cancel()
            except (Unavailable, TimeoutError, grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                if is_being_cancelled():
                    raise
                logger.info("auth does not answer; known keys go on", extra={"error": repr(error)[:200]})
            await asyncio.sleep(backoff.next_s())

    def _use_keys(self, trust: pb.Trust) -> None:
        """Replace the keys in the key ring.

        Public keys that can't be read leave those known before.
        """
        if self._on_disabled is not None:
            self._on_disabled(trust.disabled_users if trust.has_disabled_users else None, trust.disabled_version)
        self._registration = trust.registration or self._registration  # a replica of before does not say
        if self._on_wants_users is not None:
            self._on_wants_users(trust.wants_users)
        self._keyring.api_keys.replace(
            (key.sha256, ApiKey(key.id, _scopes(key, is_limited=is_limited), float(key.expires_at)))
            for is_limited, keys in ((False, trust.api_keys), (True, trust.scoped_api_keys))
            for key in keys
        )
        self._heard.set()
        try:
            self._keyring.set_jwks(trust.jwks)
        except ValueError:
            logger.exception("auth sent public keys that can't be read")
            return
        self._has_keys = True

    async def _tell_uses(self) -> None:
        """Tell auth once a minute which API keys were used, until cancelled."""
        while True:
            await asyncio.sleep(USES_EVERY_S)
            await self._tell_uses_once()

    async def _tell_uses_once(self) -> None:
        keys = self._keyring.api_keys
        uses = keys.take_uses()
        if not uses:
            return
        request = pb.NoteApiKeyUsesRequest(last_used_at={key: int(at) for key, at in uses.items()})

        async def call(channel: grpc.aio.Channel) -> pb.NoteApiKeyUsesResponse:
            return await AuthServiceStub(channel).NoteApiKeyUses(request, timeout=CALL_S)

        try:
            await self._replicas.call(call, CALL_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:  # an auth of before keeps no uses
                keys.put_back(uses)
        except (Unavailable, Busy):
            keys.put_back(uses)

    # `Accounts`, see domain/ports.py.

    @property
    def registration(self) -> str:
        return self._registration

    async def register(self, username: str, password: str, client: Caller, invite: str = "") -> TokenPair:
        request = pb.RegisterRequest(
            username=username, password=password, peer=client.peer, user_agent=client.user_agent, invite=invite
        )
        return await self._pair(lambda stub: stub.Register(request, timeout=CALL_S))

    async def login(self, username: str, password: str, client: Caller) -> TokenPair:
        request = pb.LoginRequest(username=username, password=password, peer=client.peer, user_agent=client.user_agent)
        return await self._pair(lambda stub: stub.Login(request, timeout=CALL_S))

    async def refresh(self, refresh_token: str, client: Caller) -> TokenPair:
        request = pb.RefreshSessionRequest(refresh_token=refresh_token, peer=client.peer, user_agent=client.user_agent)
        return await self._pair(lambda stub: stub.RefreshSession(request, timeout=CALL_S))

    async def logout(self, refresh_token: str) -> EndedSession | None:
        request = pb.LogoutRequest(refresh_token=refresh_token)

        async def call(channel: grpc.aio.Channel) -> pb.LogoutResponse:
            return await AuthServiceStub(channel).Logout(request, timeout=CALL_S)

        try:
            ended = await self._replicas.call(call, CALL_S)
        except grpc.aio.AioRpcError as error:
            raise refused(error) from error
        return EndedSession(ended.user, ended.session, ended.access_ttl_s or ACCESS_TTL_S) if ended.session else None

    async def _pair(self, ask: Callable[[AuthServiceAsyncStub], Awaitable[pb.TokenPair]]) -> TokenPair:
        async def call(channel: grpc.aio.Channel) -> pb.TokenPair:
            return await ask(AuthServiceStub(channel))

        try:
            pair = await self._replicas.call(call, CALL_S)
        except grpc.aio.AioRpcError as error:
            raise refused(error) from error
        return TokenPair(
            pair.access_token,
            pair.expires_in_s,
            pair.refresh_token,
            pair.user,
            pair.username,
            tuple(pair.ended_sessions),
        )


def _scopes(key: pb.ApiKeyDigest, *, is_limited: bool) -> Scopes:
    """Return what a key may do: everything if it has no scopes.

    But one that is limited by something that this version can't read may do nothing.
    """
    if is_limited and not key.scopes and not key.expires_at:
        return Scopes(())
    return Scopes(key.scopes or (ADMIN,))
