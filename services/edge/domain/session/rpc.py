"""Methods that clients may call by `rpc`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from services.shared.errors import ErrorCode, ThalamusError

RpcMethod = Callable[[str, str, bytes], Awaitable[bytes]]  # (user, client, data) → data, both JSON texts


class RpcMethods:
    """Name → method. Empty: the server has no RPC at all (error 108), else an unknown name is 104."""

    def __init__(self) -> None:
        self._methods: dict[str, RpcMethod] = {}

    def register(self, name: str, method: RpcMethod) -> None:
        """Serve a method under this name."""
        self._methods[name] = method

    async def call(self, name: str, user: str, client: str, data: bytes) -> bytes:
        """Run it and return its answer."""
        if not self._methods:
            raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)
        method = self._methods.get(name)
        if method is None:
            raise ThalamusError(code=ErrorCode.METHOD_NOT_FOUND)
        return await method(user, client, data)
