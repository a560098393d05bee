"""gRPC channel that adds the caller's identity and a deadline to calls."""

from __future__ import annotations

from typing import Any

import grpc

from services.shared.process.metrics import short_method
from services.shared.rpc.breaker import Breaker

Metadata = tuple[tuple[str, str], ...]


class IdentifiedChannel(grpc.aio.Channel):
    """A `grpc.aio` channel that adds metadata and a deadline to every call.

    Interceptors would do the same, but an intercepted stream of grpc.aio costs a task and a queue in each direction.
    """

    def __init__(
        self, channel: grpc.aio.Channel, metadata: Metadata, breaker: Breaker, timeout_s: float | None = None
    ) -> None:
        self._channel: Any = channel
        self.breaker = breaker  # of the replica that this is a connection to
        self._metadata = metadata
        self._timeout_s = timeout_s
        self.method = "none"  # metric label of the method that was called last

    def with_timeout(self, timeout_s: float) -> IdentifiedChannel:
        """Return the same connection with this deadline for every call, in seconds."""
        return IdentifiedChannel(self._channel, self._metadata, self.breaker, timeout_s)

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._identified(method, self._channel.unary_unary(method, *args, **kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._identified(method, self._channel.unary_stream(method, *args, **kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._identified(method, self._channel.stream_unary(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._identified(method, self._channel.stream_stream(method, *args, **kwargs))

    def _identified(self, method: str, multi_callable: Any) -> Any:
        def call(*args: Any, timeout: float | None = None, metadata: Metadata = (), **kwargs: Any) -> Any:
            self.method = short_method(method)
            within_s = self._timeout_s if timeout is None else timeout
            return multi_callable(*args, timeout=within_s, metadata=(*self._metadata, *metadata), **kwargs)

        return call

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        state: grpc.ChannelConnectivity = self._channel.get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def __aenter__(self) -> IdentifiedChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
