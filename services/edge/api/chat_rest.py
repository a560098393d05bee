"""The HTTP endpoints `/chat/*`: conversations, for signed-in users.

One table of routes. Each names a method of `services/shared/chat_methods.py`, and which of its parameters the path has.
The others are in the query of GET and DELETE, and in the body of what remains. Who asks is the user of the bearer
token; cookies do not count, so no page of another origin can act for somebody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NamedTuple

import msgspec
from fastapi import FastAPI, Request, Response

from services.edge.api.bearer import BEARER, NotSignedIn, claims_of, not_signed_in
from services.edge.api.bodies import (
    NO_STORE,
    BodyRefused,
    decode,
    error_response,
    read_body,
    refusal_by_status,
    result_response,
    unforeseen,
)
from services.edge.api.chat_examples import OF_USERS
from services.edge.api.chat_results import RESULTS_BY_METHOD
from services.edge.api.context import ApiContext
from services.edge.api.openapi import Schemas
from services.edge.api.texts import in_words
from services.edge.api.user_limit import UserLimit
from services.edge.domain.access.claims import ConnectionClaims
from services.edge.domain.conversations.calls import ChatRefused
from services.edge.domain.conversations.methods import Caller
from services.edge.domain.model import ClientInfo
from services.shared.chat_methods import METHODS
from services.shared.chat_requests import MAX_KEY_BYTES, ChatRequest, UserId
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.namespaces import Namespace

_CONVERSATION = "/chat/conversations/{id}"
_MESSAGE = _CONVERSATION + "/messages/{offset}"
_CHANNEL = {"id": "channel"}
_USER = {**_CHANNEL, "user": "user"}
_AT = {**_CHANNEL, "offset": "offset"}
_OF = {**_CHANNEL, "offset": "of"}


class Route(NamedTuple):
    """One endpoint.

    `in_path`: which parameter of the method each part of the path is. `without`: parameters that it does not take.
    """

    verb: str
    path: str
    method: str
    in_path: Mapping[str, str] = {}
    without: Collection[str] = ()

    @property
    def has_body(self) -> bool:
        """Whether parameters that are not in the path are in the body."""
        return self.verb not in ("GET", "DELETE")


ROUTES = (
    Route("GET", "/chat/conversations", "conversations.list"),
    Route("POST", "/chat/conversations", "conversations.create"),
    Route("GET", "/chat/inbox", "inbox.list"),
    Route("GET", "/chat/search", "messages.search"),
    Route("GET", "/chat/search/conversations", "conversations.search"),
    Route("GET", "/chat/directory", "conversations.directory"),
    Route("GET", _CONVERSATION, "conversations.get", _CHANNEL),
    Route("PATCH", _CONVERSATION, "conversations.update", _CHANNEL),
    Route("DELETE", _CONVERSATION, "conversations.delete", _CHANNEL),
    *(
        Route("POST", f"{_CONVERSATION}/{name}", f"conversations.{name}", _CHANNEL)
        for name in ("close", "reopen", "join", "leave", "decline")
    ),
    Route("GET", f"{_CONVERSATION}/members", "members.list", _CHANNEL),
    Route("POST", f"{_CONVERSATION}/members", "members.add", _CHANNEL),
    Route("PATCH", f"{_CONVERSATION}/members/{{user:path}}", "members.role", _USER),
    Route("DELETE", f"{_CONVERSATION}/members/{{user:path}}", "members.remove", _USER),
    Route("POST", f"{_CONVERSATION}/invites", "members.invite", _CHANNEL),
    Route("PUT", f"{_CONVERSATION}/bans/{{user:path}}", "members.ban", _USER),
    Route("DELETE", f"{_CONVERSATION}/bans/{{user:path}}", "members.unban", _USER),
    Route("PUT", f"{_CONVERSATION}/silences/{{user:path}}", "members.silence", _USER),
    Route("DELETE", f"{_CONVERSATION}/silences/{{user:path}}", "members.silence", _USER, ("until",)),
    Route("POST", f"{_CONVERSATION}/purge", "messages.purge", _CHANNEL),
    Route("GET", f"{_CONVERSATION}/pins", "pins.list", _CHANNEL),
    Route("PUT", f"{_CONVERSATION}/pins/{{offset}}", "pins.add", _OF),
    Route("DELETE", f"{_CONVERSATION}/pins/{{offset}}", "pins.remove", _OF),
    Route("GET", f"{_CONVERSATION}/markers", "markers.get", _CHANNEL),
    Route("GET", f"{_CONVERSATION}/messages", "messages.list", _CHANNEL),
    Route("POST", f"{_CONVERSATION}/messages", "messages.send", _CHANNEL, ("to", "namespace")),
    Route("GET", _MESSAGE, "messages.get", _AT),
    Route("PATCH", _MESSAGE, "messages.edit", _OF),
    Route("DELETE", _MESSAGE, "messages.delete", _OF),
    Route("GET", f"{_MESSAGE}/thread", "messages.thread", {**_CHANNEL, "offset": "thread"}),
    Route("GET", f"{_MESSAGE}/versions", "messages.versions", _AT),
    Route("GET", f"{_MESSAGE}/reactions", "reactions.list", _AT),
    Route("PUT", f"{_MESSAGE}/reactions/{{name:path}}", "reactions.add", {**_OF, "name": "name"}),
    Route("DELETE", f"{_MESSAGE}/reactions/{{name:path}}", "reactions.remove", {**_OF, "name": "name"}),
    *(
        Route("POST", f"{_CONVERSATION}/{name}", f"markers.{name}", _CHANNEL)
        for name in ("read", "unread", "delivered")
    ),
    Route("GET", f"{_CONVERSATION}/receipts/{{offset}}", "receipts.list", _AT),
    Route("PUT", f"{_CONVERSATION}/preferences", "conversations.preferences", _CHANNEL),
    Route("POST", f"{_CONVERSATION}/typing", "typing.start", _CHANNEL),
    Route("DELETE", f"{_CONVERSATION}/typing", "typing.stop", _CHANNEL),
    Route("GET", "/chat/messages", "messages.between"),
    Route("POST", "/chat/messages", "messages.send", {}, ("channel",)),
    Route("GET", "/chat/devices", "devices.list"),
    Route("PUT", "/chat/devices/{id}", "devices.set", {"id": "id"}),
    Route("DELETE", "/chat/devices/{id}", "devices.remove", {"id": "id"}),
    Route("GET", "/chat/export", "me.export"),
    Route("DELETE", "/chat/me", "me.erase"),
    Route("GET", "/chat/me/preferences", "me.preferences", {}, ("receipts",)),
    Route("PUT", "/chat/me/preferences", "me.preferences"),
)


class _Parts:
    """The parameters of a route: those in its path, and the others."""

    def __init__(self, route: Route) -> None:
        fields = msgspec.structs.fields(METHODS[route.method].request)
        in_path = set(route.in_path.values())
        left_out = {"key", *route.without}  # the key is in a header
        self.path = _struct(route, "Path", [field for field in fields if field.encode_name in in_path])
        others = [field for field in fields if field.encode_name not in in_path | left_out]
        self.rest = _struct(route, "Body", others)
        self._names = route.in_path
        self._has_body = route.has_body

    async def params(self, request: Request) -> bytes:
        """Return the parameters of a request, a JSON object.

        Raises:
            BodyRefused: the body can't be used.
            ChatRefused: 107, the path or the query can't.
        """
        path = {self._names[part]: text for part, text in request.path_params.items()}
        try:
            given = msgspec.convert(path, self.path, strict=False)
            if not self._has_body:
                rest = msgspec.convert(dict(request.query_params), self.rest, strict=False)
        except msgspec.ValidationError as error:
            raise ChatRefused(ErrorCode.BAD_REQUEST, in_words(str(error)), "malformed") from error
        if self._has_body:
            rest = decode(await read_body(request), self.rest)
        return msgspec.json.encode({**_members(given), **_members(rest)})


def _struct(route: Route, part: str, fields: list[msgspec.structs.FieldInfo]) -> type[msgspec.Struct]:
    """Return a struct with some fields of a request."""
    request = METHODS[route.method].request
    keeps_rules = part == "Body" and route.method.startswith("conversations.")  # those of others name the path
    made: list[tuple[str, Any, Any]] = []
    for field in fields:
        default: dict[str, Any] = {"name": field.encode_name}
        if field.default_factory is not msgspec.NODEFAULT:
            default["default_factory"] = field.default_factory
        elif field.default is not msgspec.NODEFAULT:
            default["default"] = field.default
        if "channel" in route.without and field.name == "to":  # then it is needed
            made.append((field.name, UserId, msgspec.field()))
            continue
        made.append((field.name, field.type, msgspec.field(**default)))
    name = "".join(word.title() for word in METHODS[route.method].call.split("_"))
    return msgspec.defstruct(
        name + ("To" if "channel" in route.without else "") + part,
        made,
        bases=(ChatRequest,),
        namespace={"__doc__": request.__doc__, "json_schema": request.json_schema if keeps_rules else {}},
        kw_only=True,
    )


def _members(part: msgspec.Struct) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.to_builtins(part, builtin_types=(msgspec.Raw,))
    return members


_PARTS = {(route.verb, route.path): _Parts(route) for route in ROUTES}
SCHEMAS: tuple[type[msgspec.Struct], ...] = tuple(
    {
        kind.__name__: kind
        for route in ROUTES
        for kind in (_PARTS[route.verb, route.path].rest, RESULTS_BY_METHOD[route.method])
        if kind is not _PARTS[route.verb, route.path].rest or route.has_body
    }.values()
)


def add_routes(app: FastAPI, context: ApiContext, schemas: Schemas) -> None:
    """Add the routes of the table."""
    settings = context.node.settings
    limit = (
        UserLimit(settings.commands_per_s, settings.commands_burst, context.node.clock.monotonic, "requests")
        if settings.commands_per_s
        else None
    )
    for route in ROUTES:
        method = METHODS[route.method]
        extra: dict[str, Any] = {"security": BEARER, "parameters": _parameters(route)}
        if route.has_body:
            extra["requestBody"] = schemas.request(_PARTS[route.verb, route.path].rest, _example(route))
        app.add_api_route(
            route.path,
            _endpoint(context, route, limit),
            methods=[route.verb],
            name=f"chat_{method.call}{'_to' if 'channel' in route.without else ''}_{route.verb.lower()}",
            tags=["conversations"],
            summary=method.summary,
            openapi_extra=extra,
            responses=schemas.of_chat(RESULTS_BY_METHOD[route.method]),
        )


def _endpoint(context: ApiContext, route: Route, limit: UserLimit | None) -> Callable[[Request], Awaitable[Response]]:
    method, parts, node = METHODS[route.method], _PARTS[route.verb, route.path], context.node

    async def answer(request: Request, claims: ConnectionClaims) -> Response:
        try:
            params = await parts.params(request)

            def permit(_: Collection[Namespace]) -> None:
                claims_of(context, request)  # again behind a hook: the token may not be good any more

            info = ClientInfo(claims.user, "", claims.info)
            caller = Caller(info, f"u:{claims.user}", session=claims.session)
            key = request.headers.get("idempotency-key", "")
            result = await context.chat.call(method, params, caller, key=key, permit=permit)
            return result_response(msgspec.Raw(result))
        except NotSignedIn as error:
            return not_signed_in(error)
        except ThalamusError as error:
            return refusal_by_status(error)
        except BodyRefused:
            raise
        except Exception as error:
            return error_response(unforeseen(error), 503)

    async def run(request: Request) -> Response:
        try:
            claims, token = claims_of(context, request)
            if not claims.user:
                raise NotSignedIn("the token names no user")
            if node.newcomers.is_wanted and node.verifier.is_foreign(token):
                node.newcomers.saw(claims.user, claims.info)
        except (NotSignedIn, Unavailable) as error:
            return not_signed_in(error)
        response = None if limit is None else limit.refusal(claims.user)  # before the body is read
        if response is None:
            response = await answer(request, claims)
        response.headers.update(NO_STORE)
        return response

    return run


def _parameters(route: Route) -> list[dict[str, Any]]:
    """Return the parameters of a route in its path, in the query and in headers."""
    of_member = {member: part for part, member in route.in_path.items()}
    found = [
        {"name": of_member[name], "in": "path", "required": True, "schema": schema}
        for name, schema in _properties(_PARTS[route.verb, route.path].path).items()
    ]
    if not route.has_body:
        needed = {
            field.encode_name for field in msgspec.structs.fields(_PARTS[route.verb, route.path].rest) if field.required
        }
        found += [
            {"name": name, "in": "query", "required": name in needed, "schema": schema}
            for name, schema in _properties(_PARTS[route.verb, route.path].rest).items()
        ]
    if METHODS[route.method].writes:
        key = {"type": "string", "maxLength": MAX_KEY_BYTES}
        found.append({"name": "Idempotency-Key", "in": "header", "required": False, "schema": key})
    return found


def _example(route: Route) -> dict[str, Any] | None:
    example = OF_USERS.get(route.method)
    if "channel" in route.without and example is not None:
        return {**example, "to": "bob"}
    return example


def _properties(kind: type[msgspec.Struct]) -> dict[str, Any]:
    _, components = msgspec.json.schema_components([kind])
    properties: dict[str, Any] = components[kind.__name__]["properties"]
    return properties
