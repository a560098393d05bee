"""The HTTP application: server API, accounts, documentation and the console page."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from services.edge.api import accounts, chat_rest, me, tickets
from services.edge.api.bodies import (
    BodyRefused,
    come_again,
    decode,
    error_response,
    over_limit,
    plain_error,
    read_body,
    refusal,
    result_response,
    unauthorized,
    unforeseen,
)
from services.edge.api.chat import CHAT_RESULTS
from services.edge.api.context import ApiContext
from services.edge.api.cors import AccountsCors
from services.edge.api.head import HeadAsGet, allow
from services.edge.api.invites import INVITE_RESULTS
from services.edge.api.methods import METHODS, batch
from services.edge.api.metrics import API_SECONDS
from services.edge.api.openapi import EXAMPLES, SECURITY, Schemas, describe
from services.edge.api.requests import Batch
from services.edge.api.results import RESULTS
from services.edge.api.scopes import ScopeMissing, permits
from services.edge.api.users import USER_RESULTS
from services.shared.errors import Busy, ThalamusError, Unavailable

logger = logging.getLogger(__name__)

_CONSOLE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; style-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
CALLS: dict[str, tuple[type[msgspec.Struct], Callable[..., Awaitable[Any]]]] = {**METHODS, "batch": (Batch, batch)}
_CHALLENGE = 'apikey realm="server API"'


def create_app(context: ApiContext) -> FastAPI:
    """Return the ASGI application that the public port serves beside WebSocket."""
    app = FastAPIOffline(
        title="Thalamus",
        version=context.node.settings.version,
        description="Realtime messaging that a team runs itself. `/api/*` is for backends, `/auth/*` for users.",
        redoc_url=None,
        static_url="/docs-assets",
        redirect_slashes=False,  # a redirect would lead wherever the client's Host header says
    )
    results = {**RESULTS, **USER_RESULTS, **INVITE_RESULTS, **CHAT_RESULTS}
    kinds: list[type[msgspec.Struct]] = [*(kind for kind, _ in CALLS.values()), *results.values()]
    for of_users in (accounts, me, tickets, chat_rest):
        kinds += of_users.SCHEMAS
    schemas = Schemas(kinds)
    _add_server_api(app, context, schemas, results)
    accounts.add_routes(app, context, schemas)
    me.add_routes(app, context, schemas)
    tickets.add_routes(app, context, schemas)
    chat_rest.add_routes(app, context, schemas)
    describe(app, schemas.components)
    _add_console(app, context)
    app.add_middleware(
        AccountsCors, allowed=context.origin_allowed, named=lambda origin: context.is_own_page(origin, "")
    )
    app.add_middleware(HeadAsGet)

    @app.exception_handler(BodyRefused)
    async def body_refused(_: Request, error: BodyRefused) -> Response:
        return plain_error(error.status, str(error))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        response = plain_error(error.status_code, str(error.detail).lower())
        response.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers["Allow"] = allow(_methods_at(request))
        return response

    return app


def _methods_at(request: Request) -> set[str]:
    """Return the methods of all routes that have the path of a request."""
    found: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found or {"GET"}  # files of the console


def _add_server_api(
    app: FastAPI, context: ApiContext, schemas: Schemas, results: dict[str, type[msgspec.Struct]]
) -> None:
    for name, (kind, method) in CALLS.items():
        app.add_api_route(
            f"/api/{name}",
            _endpoint(context, name, kind, method),
            methods=["POST"],
            name=name,
            summary=(method.__doc__ or "").splitlines()[0],
            tags=["server API"],
            openapi_extra={"requestBody": schemas.request(kind, EXAMPLES.get(name)), "security": SECURITY},
            responses=schemas.of_the_server_api(results[name]),
        )


def _endpoint(
    context: ApiContext, name: str, kind: type[msgspec.Struct], method: Callable[..., Awaitable[Any]]
) -> Callable[[Request], Awaitable[Response]]:
    is_batch = method is batch  # it checks the scopes of each command
    seconds = API_SECONDS.labels(name)

    async def endpoint(request: Request) -> Response:
        key = context.keyring.api_keys.find(_api_key(request), context.node.clock.wall())
        if key is None and not context.keyring.api_keys.are_known:  # the edge has just started
            return come_again(Unavailable("auth has not told this edge yet which API keys there are"))
        if key is None:
            return unauthorized("the API key is missing or wrong", _CHALLENGE)
        try:
            if context.call_limit is not None:  # a body that is of no use is a call, too
                await context.call_limit.take(key.id)
            body = decode(await read_body(request), kind)
            if context.call_limit is not None and isinstance(body, Batch):
                await context.call_limit.take(key.id, len(body.commands), counted=1)
        except ThalamusError as error:
            return over_limit(error)
        if not is_batch and not permits(key, name, body):
            return refusal(ScopeMissing(name), HTTPStatus.FORBIDDEN)
        started = time.perf_counter()
        try:
            return result_response(await (method(context, body, key) if is_batch else method(context, body)))
        except Busy as error:
            return come_again(error)
        except ThalamusError as error:
            return refusal(error)
        except Exception as error:
            return error_response(unforeseen(error))
        finally:
            seconds.observe(time.perf_counter() - started)

    return endpoint


def _api_key(request: Request) -> str:
    """Return the API key of a request, or "" if it has none.

    It comes in `X-API-Key`, or in `Authorization: apikey <key>`.
    """
    key = request.headers.get("x-api-key", "")
    if key:
        return key
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "apikey" else ""


def _add_console(app: FastAPI, context: ApiContext) -> None:
    index, static = context.web_dir / "index.html", context.web_dir / "static"
    if not index.is_file():
        logger.warning("no console page", extra={"web_dir": str(context.web_dir)})
        return

    @app.get("/", include_in_schema=False)
    async def console() -> Response:
        return FileResponse(index, headers=_CONSOLE_HEADERS)

    app.mount("/static", _ConsoleFiles(directory=static), name="static")


class _ConsoleFiles(StaticFiles):
    """Static files that browsers must revalidate: no build step renames them."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_CONSOLE_HEADERS)
        return response
