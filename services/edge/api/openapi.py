"""The OpenAPI description of the server API and of accounts.

Requests, examples, and every status with its body and headers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import msgspec
from fastapi import FastAPI

from services.edge.api import chat_examples
from services.edge.api.results import Error
from services.shared.chat_requests import ChatRequest

_REF = "#/components/schemas/{name}"
_CHANNEL = "chat:lobby"
_FOREIGN_USER = "urn:example:bob"  # whose tokens come from another login server
_LOGGED_IN = {"username": "alice", "password": "correct horse battery"}
# Swagger UI is prefilled with these. They work with the channels file of the repository, but for `users_password` and
# `invites_revoke`, and calls about a group: the ids of users with a password, of invites and of groups are random.
EXAMPLES: dict[str, dict[str, Any]] = {
    "publish": {"channel": _CHANNEL, "data": {"text": "hello"}},
    "broadcast": {"channels": [_CHANNEL, "chat:news"], "data": {"text": "hello"}},
    "subscribe": {"user": "alice", "channel": _CHANNEL},
    "unsubscribe": {"user": "alice", "channel": _CHANNEL},
    "disconnect": {"user": "alice"},
    "revoke": {"user": "alice", "ttl_s": 600},
    "refresh": {"user": "alice", "expire_at": 0},
    "grants_give": {"user": "alice", "channels": ["private:board"], "operations": ["subscribe", "publish"]},
    "grants_take": {"user": "alice", "channels": ["private:board"]},
    "grants_list": {"user": "alice"},
    "history": {"channel": _CHANNEL, "limit": 10, "reverse": True},
    "history_remove": {"channel": _CHANNEL},
    "presence": {"channel": _CHANNEL},
    "presence_stats": {"channel": _CHANNEL},
    "presence_members": {"channel": _CHANNEL, "limit": 10},
    "presence_counts": {"channels": [_CHANNEL, "chat:news"]},
    "presence_channels": {"user": "alice"},
    "presence_online": {"users": ["alice", "bob"]},
    "presence_enter": {"user": "alice", "channel": _CHANNEL, "data": {"mood": "good"}},
    "presence_update": {"user": "alice", "channel": _CHANNEL, "data": {"mood": None}},
    "presence_leave": {"user": "alice", "channel": _CHANNEL},
    "presence_remove": {"user": "alice"},
    "channels": {"pattern": "chat:*"},
    "connections": {"user": "alice"},
    "info": {},
    "users_create": {"user": _FOREIGN_USER, "display_name": "Bob"},
    "users_get": {"user": _FOREIGN_USER},
    "users_profiles": {"users": [_FOREIGN_USER]},
    "users_list": {"limit": 10},
    "users_update": {"user": _FOREIGN_USER, "status": "on a train"},
    "users_password": {"user": "the id of a user", "password": "correct horse battery"},
    "users_disable": {"user": _FOREIGN_USER},
    "users_enable": {"user": _FOREIGN_USER},
    "users_delete": {"user": _FOREIGN_USER},
    "invites_create": {"note": "for Bob"},
    "invites_list": {},
    "invites_revoke": {"invite": "the id of an invite"},
    **chat_examples.EXAMPLES,
    "batch": {"commands": [{"publish": {"channel": _CHANNEL, "data": 1}}, {"presence_stats": {"channel": _CHANNEL}}]},
}
EXAMPLES_OF_ACCOUNTS: dict[str, dict[str, Any]] = {
    "register": _LOGGED_IN,
    "login": _LOGGED_IN,
    "session": _LOGGED_IN,
}
SECURITY: list[dict[str, list[str]]] = [{"apiKey": []}, {"apiKeyInAuthorization": []}]
_SCHEMES = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "apiKeyInAuthorization": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`apikey <key>`, as clients of Centrifugo's server API send it",
    },
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "a connection token"},
}
_RETRY_AFTER = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
_CHALLENGE = {"WWW-Authenticate": {"description": "how to show who you are", "schema": {"type": "string"}}}
_HEADERS = {401: _CHALLENGE, 429: _RETRY_AFTER, 503: _RETRY_AFTER}
_LARGE = "The body is larger than 1 MiB."
_MEMBER = "The body can't be read, or a member of it is not allowed; the text names it."
_ATTEMPTS = {
    429: "Too many attempts.",
    503: "The service behind it does not answer, or has too much to do.",
}
# Why each kind of endpoint refuses, by status.
_OF_THE_SERVER_API = {
    400: "The body can't be read: no JSON, a member of the wrong type, or one that is not taken.",
    401: "The API key is missing or wrong, or has expired.",
    403: "The API key has no scope for this; the text names the operation that it lacks.",
    413: _LARGE,
    429: "This API key makes too many calls.",
    503: "Too much is under way, or the edge does not know the API keys yet; nothing was done.",
}
_OF_ACCOUNTS = {
    400: _MEMBER,
    401: "The name and the password, or the refresh token, are not known together.",
    403: "The user is disabled, registration is not open, the invite is not good, or a page of this origin may not have"
    " the cookie.",
    409: "That name is taken.",
    413: "The body is larger than 8 KiB.",
    **_ATTEMPTS,
}
_OF_USERS = {
    400: _MEMBER,
    401: "There is no token, it is not valid, or it names no user.",
    403: "The old password is wrong.",
    404: "There is nothing of that name, or the user has no password here.",
    409: "Somebody else has changed it; the text says how.",
    413: _LARGE,
    **_ATTEMPTS,
}
_OF_TICKETS = {
    401: "There is no token, or it is not valid.",
    429: "This user has asked for too many.",
    503: "Redis does not answer.",
}
_OF_CHAT = {
    400: "A parameter is missing or not allowed; the text names it.",
    401: "There is no token, it is not valid, or it names no user.",
    403: "The user may not do this, or may not know whether there is such a conversation.",
    404: "There is no such message, or no conversation can lie there.",
    409: "It was changed meanwhile, or is there already.",
    410: "It was deleted.",
    413: "It is too large, or there would be too many.",
    429: "This user does that too often.",
    503: "The service behind it does not answer. With an Idempotency-Key a repeat is safe.",
}
_OF_WHAT_AUTH_SAYS = {503: "Auth has not said so yet, or is of an earlier version."}
_Statuses = dict[int | str, dict[str, Any]]
JWK_SET = {
    "description": "A JWK Set (RFC 7517).",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"keys": {"type": "array", "items": {"type": "object"}}},
                "required": ["keys"],
            }
        }
    },
}


class Schemas:
    """JSON schemas of the structs, and the parts of OpenAPI that are made from them."""

    def __init__(self, kinds: Sequence[type[msgspec.Struct]]) -> None:
        schemas, self.components = msgspec.json.schema_components([*kinds, Error], ref_template=_REF)
        self._of = dict(zip([*kinds, Error], schemas, strict=True))
        _one_type_of_integers(self.components)
        for kind in kinds:
            if issubclass(kind, ChatRequest):
                self.components[kind.__name__] |= kind.json_schema

    def request(self, kind: type[msgspec.Struct], example: dict[str, Any] | None) -> dict[str, Any]:
        """Return the description of a request body."""
        content: dict[str, Any] = {"schema": self._of[kind]}
        if example is not None:
            content["example"] = example
        return {"required": not _may_be_empty(kind), "content": {"application/json": content}}

    def answered(self, kind: type[msgspec.Struct], *, fails: bool) -> dict[str, Any]:
        """Return the description of status 200: `result`, or `error` too if `fails`."""
        result = _only("result", self._of[kind])
        return _described(
            "`result`; or `error`, where the call could not be executed" if fails else "`result`",
            {"oneOf": [result, _only("error", self._of[Error])]} if fails else result,
        )

    def refused(self, why: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the description of another status, whose body is `error`."""
        return _described(why, _only("error", self._of[Error])) | ({"headers": headers} if headers else {})

    def of_the_server_api(self, kind: type[msgspec.Struct]) -> _Statuses:
        """Return every status of a method of the server API."""
        return self._statuses(kind, _OF_THE_SERVER_API, fails=True)

    def of_accounts(self, kind: type[msgspec.Struct], *others: int) -> _Statuses:
        """Return all statuses of an accounts endpoint; 401, 403, 409 only if in `others`."""
        return self._statuses(kind, _OF_ACCOUNTS, {401, 403, 409} - set(others))

    def of_users(self, kind: type[msgspec.Struct], *others: int) -> _Statuses:
        """Return all statuses of an endpoint of signed-in users.

        403, 404, 409 only if they are in `others`.
        """
        return self._statuses(kind, _OF_USERS, {403, 404, 409} - set(others))

    def of_chat(self, kind: type[msgspec.Struct]) -> _Statuses:
        """Return every status of an endpoint of conversations."""
        return self._statuses(kind, _OF_CHAT) | {414: {"description": "The path and the query are longer than 8 KiB."}}

    def of_what_auth_says(self, kind: type[msgspec.Struct]) -> _Statuses:
        """Return every status of an endpoint that only repeats what auth has told."""
        return self._statuses(kind, _OF_WHAT_AUTH_SAYS)

    def of_tickets(self, kind: type[msgspec.Struct]) -> _Statuses:
        """Return every status of the ticket endpoint."""
        return self._statuses(kind, _OF_TICKETS)

    def _statuses(
        self,
        kind: type[msgspec.Struct],
        why: Mapping[int, str],
        without: Set[int] = frozenset(),
        *,
        fails: bool = False,
    ) -> _Statuses:
        """Return 200 and the refusals, with the headers that each has."""
        refusals: _Statuses = {
            status: self.refused(text, _HEADERS.get(status)) for status, text in why.items() if status not in without
        }
        return {200: self.answered(kind, fails=fails), **refusals}


def describe(app: FastAPI, components: dict[str, Any]) -> None:
    """Add our schemas and the security schemes to the document that FastAPI generates."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        own = document.setdefault("components", {})
        own.setdefault("schemas", {}).update(components)
        own["securitySchemes"] = _SCHEMES
        for methods in document["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)  # added by FastAPI; this application never sends it
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _may_be_empty(kind: type[msgspec.Struct]) -> bool:
    try:
        msgspec.convert({}, kind)
    except msgspec.ValidationError:
        return False
    return True


def _only(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}


def _described(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _one_type_of_integers(part: Any) -> None:
    """Describe members of type `int | float` as integers.

    They are read as either, because JSON does not distinguish `1` from `1.0`; only integers are accepted.
    """
    if isinstance(part, dict):
        if part.get("type") == "integer":
            part.pop("anyOf", None)
        for inner in part.values():
            _one_type_of_integers(inner)
    elif isinstance(part, list):
        for inner in part:
            _one_type_of_integers(inner)
