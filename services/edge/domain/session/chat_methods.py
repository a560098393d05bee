"""The RPC methods on conversations, such as `messages.send`; see docs/chat.md."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from services.edge.domain.access.authorize import require_tokens
from services.edge.domain.conversations.methods import Caller, ChatMethods
from services.edge.domain.session.rpc import RpcContext, RpcMethods
from services.shared.chat_methods import METHODS, Method
from services.shared.errors import Unavailable
from services.shared.namespaces import Namespace

_EMPTY = b"{}"


def register(methods: RpcMethods, chat: ChatMethods) -> None:
    """Make the methods callable; a server without conversations has none of them."""
    if not chat.namespaces:
        return
    for method in METHODS.values():
        methods.register(method.name, _calling(method, chat), checks_tokens=True)


def _calling(method: Method, chat: ChatMethods) -> Callable[[RpcContext, bytes], Awaitable[bytes]]:
    async def call(context: RpcContext, data: bytes) -> bytes:
        def permit(namespaces: Collection[Namespace]) -> None:
            if context.session.was_sent_away:  # its user was revoked, or a backend sent the client away
                raise Unavailable("the connection is over")
            for namespace in namespaces:
                require_tokens(context.session, namespace, context.command_token)

        caller = Caller(context.info, f"u:{context.user}", session=context.session.token_session)
        return await chat.call(method, data or _EMPTY, caller, permit=permit)

    return call
