"""Registry of the methods that clients may call with the `rpc` command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from services.edge.domain.access.authorize import require_tokens
from services.edge.domain.model import ClientInfo
from services.edge.domain.session.hooked import ask_rpc
from services.shared.errors import ErrorCode, ThalamusError

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session


@dataclass(frozen=True, slots=True)
class RpcContext:
    """Who calls a method, and how.

    `method` is the name that was called. `command_token` is the token beside the request, "" without one.
    """

    session: Session
    method: str
    command_token: str = ""

    @property
    def user(self) -> str:
        """User id of the caller; empty: anonymous."""
        return self.session.user

    @property
    def client(self) -> str:
        """Id of the caller's connection."""
        return self.session.client

    @property
    def info(self) -> ClientInfo:
        """The caller as other clients see it, without `chan_info`."""
        return self.session.info()


# Takes the caller and the data of the request (any JSON text; bytes of any kind from a Protobuf client), and returns
# the data of the reply, a JSON text. It may raise `ThalamusError` (an error reply) or `Disconnect` (a close).
RpcMethod = Callable[[RpcContext, bytes], Awaitable[bytes]]


class _Registered(NamedTuple):
    method: RpcMethod
    checks_tokens: bool


class RpcMethods:
    """RPC methods: those of the server by their names, all others by their hooks."""

    def __init__(self) -> None:
        self._methods: dict[str, _Registered] = {}

    @property
    def names(self) -> list[str]:
        """Names of the methods of the server."""
        return list(self._methods)

    def register(self, name: str, method: RpcMethod, *, checks_tokens: bool = False) -> None:
        """Make a method callable under this name.

        `checks_tokens`: the method calls `require_tokens` or `authorize` itself, because it concerns a channel, whose
        namespace says whether the command needs a token. For other methods the default namespace says it.
        """
        self._methods[name] = _Registered(method, checks_tokens)

    async def call(self, context: RpcContext, data: bytes) -> bytes:
        """Call the method that the context names, and return its reply.

        Raises:
            ThalamusError: 104 if there is no such method; 103 or 109 if a token is missing, wrong or expired; what a
                method or a hook says.
        """
        found = self._methods.get(context.method)
        if found is None or not found.checks_tokens:
            require_tokens(context.session, context.session.node.namespaces.default, context.command_token)
        if found is not None:
            return await found.method(context, data)
        hook = context.session.node.hooks.method(context.method)
        if hook is None:
            raise ThalamusError(code=ErrorCode.METHOD_NOT_FOUND)
        return await ask_rpc(context.session, hook, context.method, data)
