"""Keeps one gRPC channel to every replica of a service, found by DNS.

**Purpose.** A service name resolves to the addresses of all its replicas, and they change: replicas are added, replaced
and moved. `BatchStream` needs one stream to each replica. So names are resolved here, and each address has a channel
with a connection of its own.

**Rules.**

* The name is resolved every 2 s (with jitter). New addresses get a channel, channels of addresses that are gone are
  closed with a grace of 3 s. Listeners (`on_change`) are called after each change.
* If the resolver fails, gives nothing or takes longer than 2 s, the known addresses stay. A lookup that hangs is waited
  for: there is never a second one at the same time.
* A single call (`call`, `any`) goes to the connected replicas in turn, else to one that may still connect. If none is
  left it fails at once with `Unavailable`.
* A replica that did not answer a call in time gets none until it answers a probe (`breaker`).
* With an `identity` connections use mTLS: the replica must show a certificate with the name of its service. When the
  files of the identity have changed, each address gets a new channel, and the old one is closed as if it were gone.
* Nothing is repeated here. UNAVAILABLE, DEADLINE_EXCEEDED and CANCELLED become `Unavailable`: the outcome is unknown.
* Keepalive pings notice a frozen or unplugged peer within 5 s.

**Example.** `persistence:9003` resolves to two addresses: calls alternate between them. A third appears: after the next
lookup it has a channel, and `BatchStream` is told and opens a stream to it.

**Trade-offs.** The name is polled, so a new replica is found about 2 s late at worst. A replica that crashed is in the
list until DNS drops it, but gets no calls while another one is connected.

See docs/architecture.md, "gRPC is batched".
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.shared.addresses import with_port, without_brackets
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.process.cancellation import is_being_cancelled
from services.shared.process.config import ConfigError
from services.shared.process.metrics import client_metrics
from services.shared.rpc.breaker import PROBE_S, Breaker
from services.shared.rpc.channel import IdentifiedChannel
from services.shared.rpc.tls import ServiceIdentity, channel_credentials

logger = logging.getLogger(__name__)

RESOLVE_S = 2.0  # pause between lookups, and the longest wait for one, seconds
_CLOSE_GRACE_S = 3.0  # time for calls on a channel that is closed, seconds
_OPTIONS = (
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    # Ping after 3 s, wait 2 s for the response: a frozen or unplugged peer is noticed within 5 s.
    ("grpc.keepalive_time_ms", 3_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # this is also the longest time of one attempt to connect
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),  # we repeat ourselves, where that is safe
    ("grpc.enable_http_proxy", 0),  # a proxy in the environment is for the outside, such as AWS
    ("grpc.use_local_subchannel_pool", 1),  # channels to the same address share no connection
)
_UNKNOWN_OUTCOME = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)
_TOO_LARGE = "message larger than max"  # in gRPC's own text; the status is that of an overload, too
_State = grpc.ChannelConnectivity
T = TypeVar("T")


class Replicas:
    """All replicas behind one name. `service` is the caller, for metric names."""

    def __init__(
        self,
        target: str,
        *,
        service_token: bytes | None,
        service: str,
        resolve: Callable[[str, int], Awaitable[set[str]]] | None = None,
        identity: ServiceIdentity | None = None,
        server_name: str = "",
    ) -> None:
        """Take the address; makes no connection yet.

        Args:
            target: "host:port" of the service.
            service_token: Sent with every call; None: calls carry no token.
            service: Name of the calling service, for metric names.
            resolve: Returns the addresses of a host and port; None: the system's resolver.
            identity: Certificates of the caller, for mTLS. Then no token is sent. None: no TLS.
            server_name: Name of the called service in its certificate, with an `identity`.

        Raises:
            ConfigError: the target is not "host:port", or the token is not ASCII.
        """
        host, colon, port = target.rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise ConfigError(f"an address must be host:port, not {target!r}")
        if service_token is not None and not service_token.isascii():
            raise ConfigError("SERVICE_TOKEN_FILE: the token must be ASCII")
        self.target = target
        self.service = service
        self._host, self._port = without_brackets(host), int(port)
        self._identity = identity
        self._server_name = server_name
        self._certificates = None if identity is None else identity.current()
        self._metadata = (
            ()
            if service_token is None or identity is not None
            else (("authorization", f"Bearer {service_token.decode('ascii')}"),)
        )
        self._metrics = client_metrics(service)
        self._channels: dict[str, IdentifiedChannel] = {}
        self._turn = 0
        self._listeners: list[Callable[[], None]] = []
        self._resolve = resolve or _resolve
        self._lookup: asyncio.Task[set[str]] | None = None
        self._follower: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def channels(self) -> Mapping[str, IdentifiedChannel]:
        """Channels by address, as they are now."""
        return self._channels

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change of `channels`."""
        self._listeners.append(listener)

    async def start(self) -> None:
        """Resolve the name once, for 2 s at most, then follow it.

        Connections are opened without waiting for them.
        """
        await self.refresh()
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Close all channels. Calls that still run end as cancelled."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        for task in (*self._closing, *([] if self._lookup is None else [self._lookup])):
            task.cancel()
        channels = list(self._channels.values())
        self._channels.clear()
        await asyncio.gather(*self._closing, *(_close(channel, None) for channel in channels), return_exceptions=True)

    def is_ready(self) -> bool:
        """Whether at least one replica is connected."""
        return any(
            channel.get_state() is _State.READY and not channel.breaker.is_open for channel in self._channels.values()
        )

    def any(self) -> IdentifiedChannel:
        """Return the next connected channel in turn, else one that may still connect.

        Raises:
            Unavailable: there is none. The name resolves to nothing, or no address accepts connections or answers.
        """
        return self._pick()

    async def call(self, make: Callable[[grpc.aio.Channel], Awaitable[T]], timeout_s: float) -> T:
        """Await the call that `make` starts on a replica's channel.

        The call is sent with a deadline of `timeout_s` seconds.

        Raises:
            Unavailable: no response in time, or the connection broke; the outcome is unknown.
            ThalamusError: 106, if request or response is larger than a message may be; a repeat does not help.
            grpc.aio.AioRpcError: the service answered with any other status.
        """
        channel = self._pick().with_timeout(timeout_s)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_s):
                return await make(channel)
        except TimeoutError as error:
            channel.breaker.failed()
            raise self._unavailable(channel, "DEADLINE_EXCEEDED") from error
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                channel.breaker.failed()
            if error.code() in _UNKNOWN_OUTCOME:
                raise self._unavailable(channel, error.code().name) from error
            self._metrics.failures.labels(channel.method, error.code().name).inc()
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in (error.details() or ""):
                logger.error("a message is too large", extra={"method": channel.method, "target": self.target})
                # not who it was for: the text reaches the public
                raise ThalamusError("the message is too large", ErrorCode.LIMIT_EXCEEDED) from error
            raise
        finally:
            self._metrics.seconds.labels(channel.method).observe(time.perf_counter() - began)

    def _unavailable(self, channel: IdentifiedChannel, status: str) -> Unavailable:
        self._metrics.failures.labels(channel.method, status).inc()
        return Unavailable(f"{channel.method} at {self.target}: {status}")

    def _pick(self) -> IdentifiedChannel:
        states = [
            (channel, channel.get_state(try_to_connect=True))
            for channel in self._channels.values()
            if not channel.breaker.is_open
        ]
        usable = [channel for channel, state in states if state is _State.READY] or [
            channel for channel, state in states if state in (_State.IDLE, _State.CONNECTING)
        ]
        if not usable:
            raise Unavailable(f"nobody answers at {self.target}")
        self._turn += 1
        return usable[self._turn % len(usable)]

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(RESOLVE_S * random.uniform(0.9, 1.1))
            await self.refresh()

    async def refresh(self) -> None:
        """Look up the addresses now. Without a response in 2 s the known ones stay."""
        # A lookup that hangs blocks a thread: wait for it instead of starting another every 2 s.
        if self._lookup is None or self._lookup.done():
            self._lookup = asyncio.create_task(self._resolve_quietly())
        done, _ = await asyncio.wait({self._lookup}, timeout=RESOLVE_S)
        found = self._lookup.result() if done else set()
        self._set(found or set(self._channels))

    async def _resolve_quietly(self) -> set[str]:
        try:
            return await self._resolve(self._host, self._port)
        except OSError as error:
            logger.debug("a name does not resolve", extra={"host": self._host, "error": str(error)})
            return set()

    def _set(self, addresses: set[str]) -> None:
        for channel in self._channels.values():
            channel.get_state(try_to_connect=True)  # an idle channel does not reconnect by itself
        gone = set(self._channels) - addresses
        if self._identity is not None and self._certificates is not (renewed := self._identity.current()):
            self._certificates, gone = renewed, set(self._channels)
        new = sorted(addresses - (set(self._channels) - gone))
        if not gone and not new:
            return
        for address in gone:
            task = asyncio.create_task(_close(self._channels.pop(address), _CLOSE_GRACE_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for address in new:
            connection = self._connect(address)
            breaker = Breaker(address, functools.partial(_answers, connection))
            channel = IdentifiedChannel(connection, self._metadata, breaker)
            channel.get_state(try_to_connect=True)
            self._channels[address] = channel
        logger.info("replicas", extra={"target": self.target, "addresses": sorted(self._channels)})
        for listener in self._listeners:
            listener()

    def _connect(self, address: str) -> grpc.aio.Channel:
        if self._certificates is None:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        # The address is one that a name had at this moment; the certificate has the name of the service.
        options = (*_OPTIONS, ("grpc.ssl_target_name_override", self._server_name))
        return grpc.aio.secure_channel(address, channel_credentials(self._certificates), options=options)


async def _close(channel: IdentifiedChannel, grace_s: float | None) -> None:
    await channel.breaker.end()
    await channel.close(grace_s)


async def _answers(connection: grpc.aio.Channel) -> bool:
    """Return whether the replica answers a health check, whatever it says."""
    check = health_pb2_grpc.HealthStub(connection).Check
    try:
        async with asyncio.timeout(PROBE_S):
            await check(health_pb2.HealthCheckRequest(), timeout=PROBE_S, wait_for_ready=True)
    except TimeoutError:
        return False
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise
        return False  # grpc.aio also raises this for a call that ended by itself
    except grpc.aio.AioRpcError as error:
        return error.code() not in _UNKNOWN_OUTCOME
    return True


async def _resolve(host: str, port: int) -> set[str]:
    """Return all addresses of a name, looked up by getaddrinfo in a thread."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return {with_port(str(sockaddr[0]), port) for _, _, _, _, sockaddr in found}
