"""Registry of the methods that clients may call with the `rpc` command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from services.shared.errors import ErrorCode, ThalamusError

RpcMethod = Callable[[str, str, bytes], Awaitable[bytes]]  # (user, client id, data) → data


class RpcMethods:
    """RPC methods by name."""

    def __init__(self) -> None:
        self._methods: dict[str, RpcMethod] = {}

    def register(self, name: str, method: RpcMethod) -> None:
        """Make a method callable under this name."""
        self._methods[name] = method

    async def call(self, name: str, user: str, client: str, data: bytes) -> bytes:
        """Call a method and return its reply.

        Raises:
            ThalamusError: 108 if this server has no methods at all, 104 if it has none of this name.
        """
        if not self._methods:
            raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)
        method = self._methods.get(name)
        if method is None:
            raise ThalamusError(code=ErrorCode.METHOD_NOT_FOUND)
        return await method(user, client, data)
