"""Asks a hook over gRPC: unary calls of `thalamus.hooks.v1.HooksService`.

The secret, if there is one, goes as `authorization: Bearer <secret>`; with it calls should use TLS. An answer may have
`max_answer_bytes`. Nothing is repeated, and proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from services.edge.domain.access.claims import Override, ServerSub
from services.edge.domain.hooks.answers import checked, json_payload, refusal, require_for
from services.edge.domain.hooks.model import Answer, Event, Failure, HookFailed, HookPublication, HookRequest, Refusal
from services.edge.domain.hooks.options import HookOptions
from services.shared.errors import ErrorCode
from services.shared.json_text import InvalidJson
from services.shared.process.cancellation import is_being_cancelled
from services.shared.process.config import ConfigError, read_secret_file
from thalamus.hooks.v1 import hooks_pb2 as pb
from thalamus.hooks.v1.hooks_pb2_grpc import HooksServiceStub

if TYPE_CHECKING:
    from thalamus.hooks.v1.hooks_pb2_grpc import HooksServiceAsyncStub

_PROBE_S = 1.0  # longest wait for the response to a ping, seconds: what `Breaker` asks for
_MAX_REQUEST_BYTES = 4 << 20  # more than any message of a client has
_NO_ANSWER = {
    grpc.StatusCode.UNAVAILABLE: Failure.UNREACHABLE,
    grpc.StatusCode.CANCELLED: Failure.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Failure.TIMEOUT,
}
_TOO_LARGE = "larger than max"  # in gRPC's own text; the status is that of an overload, too


class GrpcBackend:
    """Implements `Backend` by calls of `HooksService`."""

    def __init__(self, options: HookOptions) -> None:
        """Make a channel; connects to nothing yet.

        Raises:
            ConfigError: the secret or the authorities can't be used.
        """
        self._options = options
        where = f"[hooks.{options.name}]"
        self._metadata: tuple[tuple[str, str], ...] = ()
        for path in options.secret_files:  # one at most
            secret = read_secret_file(Path(path), f"{where} secret_files").strip()
            if not (secret.isascii() and secret.decode().isprintable()):
                raise ConfigError(f"{where} secret_files: {path} must be printable ASCII")
            self._metadata = (("authorization", f"Bearer {secret.decode()}"),)
        channel_options = (
            ("grpc.max_receive_message_length", options.max_answer_bytes),
            ("grpc.max_send_message_length", _MAX_REQUEST_BYTES),
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1_000),  # this is also the longest time of one attempt to connect
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.enable_retries", 0),  # a backend may have acted on a question whose answer was lost
            ("grpc.enable_http_proxy", 0),
        )
        if options.tls:
            credentials = grpc.ssl_channel_credentials(_authorities(options, where))
            self._channel = grpc.aio.secure_channel(options.grpc, credentials, options=channel_options)
        else:
            self._channel = grpc.aio.insecure_channel(options.grpc, options=channel_options)
        self._stub: HooksServiceAsyncStub = HooksServiceStub(self._channel)

    async def ask(self, request: HookRequest) -> Answer:
        answer = await self._call(request, self._options.timeout_s)
        try:
            return _answer(request.event, answer)
        except InvalidJson as error:
            raise HookFailed(Failure.BAD_ANSWER, f"a payload is no JSON that clients can read: {error}") from None

    async def probe(self) -> bool:
        try:
            await self._call(HookRequest(event=Event.PING, id="ping"), _PROBE_S)
        except HookFailed as error:
            return error.failure not in _NO_ANSWER.values()
        return True

    async def close(self) -> None:
        await self._channel.close()

    async def _call(self, request: HookRequest, timeout_s: float) -> pb.HookAnswer:
        message = pb.HookRequest(
            id=request.id,
            event=request.event.value,
            time_ms=request.time_ms,
            edge=request.edge,
            client=request.client,
            user=request.user,
            info=request.info,
            peer=request.peer,
            name=request.name,
            headers=request.headers,
            has_token=request.has_token,
            expires_at=request.expires_at,
            channel=request.channel,
            method=request.method,
            data=request.data,
            idempotency_key=request.idempotency_key,
        )
        try:
            return await self._stub.Decide(message, timeout=timeout_s, metadata=self._metadata)
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            raise HookFailed(Failure.UNREACHABLE, "the call ended by itself") from None  # grpc.aio says it so
        except grpc.aio.AioRpcError as error:
            failure = _NO_ANSWER.get(error.code(), Failure.STATUS)
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in (error.details() or ""):
                failure = Failure.TOO_LARGE
            raise HookFailed(failure, f"{error.code().name}: {error.details()}") from error


def _authorities(options: HookOptions, where: str) -> bytes | None:
    try:
        return Path(options.ca_file).read_bytes() if options.ca_file else None
    except OSError as error:
        raise ConfigError(f"{where} ca_file: can't read {options.ca_file}: {error.strerror}") from error


def _answer(event: Event, found: pb.HookAnswer) -> Answer:
    require_for(event, (field.name for field, _ in found.ListFields()))
    is_json = event is not Event.PUBLISH  # there it depends on the namespace
    data = found.data if found.HasField("data") else None
    return checked(
        Answer(
            refuse=_refusal(found.refuse) if found.HasField("refuse") else None,
            data=json_payload(data) if data and is_json else data,
            skip=found.skip,
            tags=dict(found.tags),
            user=found.user if found.HasField("user") else None,
            info=_json(found.info) if found.HasField("info") else None,
            expires_at=found.expires_at if found.HasField("expires_at") else None,
            channels={
                name: ServerSub(_json(one.info), _json(one.data), _override(one.override))
                for name, one in found.channels.items()
            },
            override=_override(found.override),
            publish=tuple(
                HookPublication(
                    channel=one.channel, data=one.data, tags=dict(one.tags), idempotency_key=one.idempotency_key
                )
                for one in found.publish
            ),
        )
    )


def _json(text: bytes) -> bytes:
    return json_payload(text) if text else b""


def _refusal(found: pb.Refusal) -> Refusal:
    temporary = found.temporary if found.HasField("temporary") else None
    return refusal(found.code or ErrorCode.PERMISSION_DENIED, found.message, temporary)


def _override(found: pb.Override) -> Override:
    return Override(**{field.name: value for field, value in found.ListFields()})
