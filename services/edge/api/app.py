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

from services.edge.api import accounts, tickets
from services.edge.api.bodies import (
    BodyRefused,
    come_again,
    decode,
    error_response,
    plain_error,
    read_body,
    refusal,
    result_response,
    unauthorized,
    unforeseen,
)
from services.edge.api.context import ApiContext
from services.edge.api.cors import AccountsCors
from services.edge.api.head import HeadAsGet, allow
from services.edge.api.methods import METHODS, Method, batch
from services.edge.api.metrics import API_SECONDS
from services.edge.api.openapi import EXAMPLES, SECURITY, Schemas, describe
from services.edge.api.requests import Batch
from services.edge.api.results import RESULTS
from services.shared.errors import Busy, ThalamusError

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
CALLS: dict[str, tuple[type[msgspec.Struct], Method]] = {**METHODS, "batch": (Batch, batch)}
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
    schemas = Schemas([*(kind for kind, _ in CALLS.values()), *RESULTS.values(), *accounts.SCHEMAS, *tickets.SCHEMAS])
    _add_server_api(app, context, schemas)
    accounts.add_routes(app, context, schemas)
    tickets.add_routes(app, context, schemas)
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
    async def http_error(_: Request, error: HTTPException) -> Response:
        response = plain_error(error.status_code, str(error.detail).lower())
        response.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers["Allow"] = allow(response.headers.get("Allow"))
        return response

    return app


def _add_server_api(app: FastAPI, context: ApiContext, schemas: Schemas) -> None:
    for name, (kind, method) in CALLS.items():
        app.add_api_route(
            f"/api/{name}",
            _endpoint(context, name, kind, method),
            methods=["POST"],
            name=name,
            summary=(method.__doc__ or "").splitlines()[0],
            tags=["server API"],
            openapi_extra={"requestBody": schemas.request(kind, EXAMPLES[name]), "security": SECURITY},
            responses=schemas.of_the_server_api(RESULTS[name]),
        )


def _endpoint(
    context: ApiContext, name: str, kind: type[msgspec.Struct], method: Callable[[ApiContext, Any], Awaitable[Any]]
) -> Callable[[Request], Awaitable[Response]]:
    seconds = API_SECONDS.labels(name)

    async def endpoint(request: Request) -> Response:
        if context.keyring.api_key_id(_api_key(request)) is None:
            return unauthorized("the API key is missing or wrong", _CHALLENGE)
        body = decode(await read_body(request), kind)
        started = time.perf_counter()
        try:
            return result_response(await method(context, body))
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
