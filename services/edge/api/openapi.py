"""The OpenAPI description of the server API and of accounts.

Requests, examples, and every status with its body and headers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import FastAPI

from services.edge.api.results import Error

_REF = "#/components/schemas/{name}"
_CHANNEL = "chat:lobby"
_LOGGED_IN = {"username": "alice", "password": "correct horse battery"}
# Swagger UI is prefilled with these. Each of them works with the channels file of the repository.
EXAMPLES: dict[str, dict[str, Any]] = {
    "publish": {"channel": _CHANNEL, "data": {"text": "hello"}},
    "broadcast": {"channels": [_CHANNEL, "chat:news"], "data": {"text": "hello"}},
    "subscribe": {"user": "alice", "channel": _CHANNEL},
    "unsubscribe": {"user": "alice", "channel": _CHANNEL},
    "disconnect": {"user": "alice"},
    "revoke": {"user": "alice", "ttl_s": 600},
    "refresh": {"user": "alice", "expire_at": 0},
    "history": {"channel": _CHANNEL, "limit": 10, "reverse": True},
    "history_remove": {"channel": _CHANNEL},
    "presence": {"channel": _CHANNEL},
    "presence_stats": {"channel": _CHANNEL},
    "channels": {"pattern": "chat:*"},
    "info": {},
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

    def request(self, kind: type[msgspec.Struct], example: dict[str, Any] | None) -> dict[str, Any]:
        """Return the description of a request body."""
        content: dict[str, Any] = {"schema": self._of[kind]}
        if example is not None:
            content["example"] = example
        needed = any(field.required for field in msgspec.structs.fields(kind))
        return {"required": needed, "content": {"application/json": content}}

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

    def of_the_server_api(self, kind: type[msgspec.Struct]) -> dict[int | str, dict[str, Any]]:
        """Return every status of a method of the server API."""
        return {
            200: self.answered(kind, fails=True),
            400: self.refused("The body can't be read: no JSON, a member of the wrong type, or one that is not taken."),
            401: self.refused("The API key is missing or wrong.", _CHALLENGE),
            413: self.refused("The body is larger than 1 MiB."),
            503: self.refused("Too much is under way; nothing was done.", _RETRY_AFTER),
        }

    def of_accounts(self, kind: type[msgspec.Struct], *others: int) -> dict[int | str, dict[str, Any]]:
        """Return all statuses of an accounts endpoint; 401, 403, 409 only if in `others`."""
        more = {
            401: self.refused("The name and the password, or the refresh token, are not known together.", _CHALLENGE),
            403: self.refused("A page of this origin may not have the cookie."),
            409: self.refused("That name is taken."),
        }
        return {
            200: self.answered(kind, fails=False),
            400: self.refused("The body can't be read, or a member of it is not allowed; the text names it."),
            **{status: more[status] for status in others},
            413: self.refused("The body is larger than 8 KiB."),
            429: self.refused("Too many attempts.", _RETRY_AFTER),
            503: self.refused("The service behind it does not answer, or has too much to do.", _RETRY_AFTER),
        }

    def of_tickets(self, kind: type[msgspec.Struct]) -> dict[int | str, dict[str, Any]]:
        """Return every status of the ticket endpoint."""
        return {
            200: self.answered(kind, fails=False),
            401: self.refused("There is no token, or it is not valid.", _CHALLENGE),
            429: self.refused("This user has asked for too many.", _RETRY_AFTER),
            503: self.refused("Redis does not answer.", _RETRY_AFTER),
        }


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
