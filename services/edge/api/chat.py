"""Methods of the server API on conversations.

`messages.send` is `/api/messages_send`. A backend acts as the user that `as` names; without, as the
platform, which has every right.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec

from services.edge.api.chat_results import RESULTS_BY_METHOD
from services.edge.api.context import ApiContext
from services.edge.api.texts import text_of
from services.edge.domain.conversations.methods import Caller
from services.edge.domain.model import ClientInfo
from services.shared.chat_methods import METHODS, Method
from services.shared.chat_requests import CONVERSATION_ID, DEVICE_ID, LINK, TOKEN

for rule in (LINK, CONVERSATION_ID, DEVICE_ID, TOKEN):
    text_of(rule)  # errors have its words

_USER = Annotated[str, msgspec.Meta(max_length=255)]
_AS = " `as`: the user who acts; left out: the platform, which has every right."
_Call = Callable[[ApiContext, Any], Awaitable[dict[str, Any]]]


def _kind(method: Method) -> type[msgspec.Struct]:
    """Return the request of a method, with `as`."""
    words = (method.request.__doc__ or "").rstrip()
    return msgspec.defstruct(
        "".join(part.title() for part in method.call.split("_")),
        [("acts_as", _USER, msgspec.field(default="", name="as"))],
        bases=(method.request,),
        namespace={"__doc__": words + _AS},
        kw_only=True,
    )


def _calling(method: Method) -> _Call:
    async def call(context: ApiContext, request: Any) -> dict[str, Any]:
        user, request.acts_as = request.acts_as, ""
        caller = Caller(ClientInfo(user, "") if user else None, f"api:{user}" if user else "api", is_backend=True)
        result = await context.chat.call(method, msgspec.json.encode(request), caller)
        return msgspec.json.decode(result, type=dict[str, msgspec.Raw])

    call.__doc__ = method.summary
    return call


CHAT_METHODS: dict[str, tuple[type[msgspec.Struct], _Call]] = {
    method.call: (_kind(method), _calling(method)) for method in METHODS.values()
}
CHAT_RESULTS = {method.call: RESULTS_BY_METHOD[name] for name, method in METHODS.items()}
