"""Client of the auth service: keeps the key ring current, forwards account calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc

from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.ports import AccountRefused, EndedSession, TokenPair
from services.shared.errors import Busy, ErrorCode, Unavailable
from services.shared.process.backoff import Backoff
from services.shared.process.cancellation import end_task, is_being_cancelled
from services.shared.rpc.interceptor import FOR_USERS, NO_SERVICE
from services.shared.rpc.replicas import Replicas
from thalamus.auth.v1 import auth_pb2 as pb
from thalamus.auth.v1.auth_pb2_grpc import AuthServiceStub

if TYPE_CHECKING:
    from thalamus.auth.v1.auth_pb2_grpc import AuthServiceAsyncStub

logger = logging.getLogger(__name__)

_ACCESS_TTL_S = 86_400  # of tokens of an auth that does not say, seconds
CALL_S = 2.8  # deadline of a call, seconds
SILENCE_S = 30.0  # without a message for so long the stream is given up, seconds; auth sends one every 10 s
_PAUSE_S = (0.1, 2.0)  # first and longest pause before the stream is opened again, seconds
_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, ErrorCode.BAD_REQUEST),
    grpc.StatusCode.ALREADY_EXISTS: (409, ErrorCode.BAD_REQUEST),
    grpc.StatusCode.UNAUTHENTICATED: (401, ErrorCode.UNAUTHORIZED),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, ErrorCode.TOO_MANY_REQUESTS),  # with a time; otherwise `Busy`
}


class AuthClient:
    """Keeps token keys and API keys current; implements `Accounts` by calls to auth.

    While auth is unreachable, the last known keys stay in use.
    """

    def __init__(self, replicas: Replicas, keyring: KeyRing) -> None:
        self._replicas = replicas
        self._keyring = keyring
        self._task: asyncio.Task[None] | None = None
        self._has_keys = False

    async def start(self) -> None:
        """Start to watch token keys and API keys, in the background."""
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            await end_task(self._task)

    @property
    def is_ready(self) -> bool:
        """Whether keys were received at least once: tokens and API keys can be checked."""
        return self._has_keys

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
        self._keyring.set_api_keys((key.sha256, key.id) for key in trust.api_keys)
        try:
            self._keyring.set_jwks(trust.jwks)
        except ValueError:
            logger.exception("auth sent public keys that can't be read")
            return
        self._has_keys = True

    # `Accounts`, see domain/ports.py.

    async def register(self, username: str, password: str, peer: str) -> TokenPair:
        request = pb.RegisterRequest(username=username, password=password, peer=peer)
        return await self._pair(lambda stub: stub.Register(request, timeout=CALL_S))

    async def login(self, username: str, password: str, peer: str) -> TokenPair:
        request = pb.LoginRequest(username=username, password=password, peer=peer)
        return await self._pair(lambda stub: stub.Login(request, timeout=CALL_S))

    async def refresh(self, refresh_token: str) -> TokenPair:
        request = pb.RefreshSessionRequest(refresh_token=refresh_token)
        return await self._pair(lambda stub: stub.RefreshSession(request, timeout=CALL_S))

    async def logout(self, refresh_token: str) -> EndedSession | None:
        request = pb.LogoutRequest(refresh_token=refresh_token)

        async def call(channel: grpc.aio.Channel) -> pb.LogoutResponse:
            return await AuthServiceStub(channel).Logout(request, timeout=CALL_S)

        try:
            ended = await self._replicas.call(call, CALL_S)
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from error
        return EndedSession(ended.user, ended.session, ended.access_ttl_s or _ACCESS_TTL_S) if ended.session else None

    async def _pair(self, ask: Callable[[AuthServiceAsyncStub], Awaitable[pb.TokenPair]]) -> TokenPair:
        async def call(channel: grpc.aio.Channel) -> pb.TokenPair:
            return await ask(AuthServiceStub(channel))

        try:
            pair = await self._replicas.call(call, CALL_S)
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from error
        return TokenPair(pair.access_token, pair.expires_in_s, pair.refresh_token, pair.user, pair.username)


def _refused(error: grpc.aio.AioRpcError) -> AccountRefused | Busy | Unavailable:
    """Return the error to raise for a failed call."""
    known = _HTTP.get(error.code())
    if error.details() == NO_SERVICE:  # auth refused this edge, not the user
        logger.error("auth does not know this edge: SERVICE_TOKEN_FILE is another one there")
        known = None
    if known is None:
        return Unavailable(f"auth failed: {error.code().name}")
    trailers = dict(error.trailing_metadata() or ())
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "retry-after-s" not in trailers:
        return Busy("auth has too much to do")  # a limit of auth's queues or of gRPC, not of the user
    ended = None
    if "ended-session" in trailers:
        ended = EndedSession(
            str(trailers["ended-user"]),
            str(trailers["ended-session"]),
            int(trailers.get("access-ttl-s", 0)) or _ACCESS_TTL_S,
        )
    # gRPC itself, and whatever else listens there, words its errors for operators: with addresses.
    text = error.details() if trailers.get(FOR_USERS[0]) == FOR_USERS[1] else None
    return AccountRefused(*known, text or known[1].message, int(trailers.get("retry-after-s", 0)), ended)
