"""Wraps every gRPC method of a service: authentication, error statuses, timing.

**Purpose.** Servicers contain only what is special about a method. What all methods share happens here, once: who
calls, whether the request can be parsed, which status an exception becomes, and how long the call took.

**Rules.**

* Every call but health checks must carry the service token (`authorization: Bearer …`), or the previous token during a
  rotation. Without a configured token every caller is trusted. An unauthenticated request is not even parsed.
* Over mTLS the name in the caller's certificate must be one of `callers` instead (`tls`). A token is not asked for.
* Exceptions become statuses as follows. Anything else is logged with its traceback, and the caller learns only
  "internal error".

      Refused              the status that the servicer chose, with its trailers
      Unavailable          UNAVAILABLE            the outcome is unknown
      Busy                 RESOURCE_EXHAUSTED     nothing was done
      other ThalamusError  INVALID_ARGUMENT       unless its code is INTERNAL, which is treated as unexpected

* A call is one observation of the time metric. Of a stream of batches every response is one, measured from the latest
  batch received before it.
* A stream of batches sends its initial metadata at once: the client then knows that somebody is there before it sends a
  batch.
* `end_streams` lets streams of batches end as if the client had closed them: batches that were received are still
  answered. A stream does not end by itself, so at a shutdown it would otherwise run until it is cancelled.

**Example.** A servicer raises `Refused(NOT_FOUND, "there is no such key")`. The client sees NOT_FOUND with that text,
and `thalamus_auth_grpc_failures_total{method, status="NOT_FOUND"}` grows by one.

**Trade-offs.** The status that an exception becomes is not visible where it is raised. In return all services map
errors alike.

The exceptions: `services/shared/errors.py`. Decision: docs/decisions/0006 (overload).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, NoReturn

import grpc

from services.shared.errors import Busy, ErrorCode, ThalamusError, Unavailable
from services.shared.process.metrics import server_metrics, short_method
from services.shared.rpc.input import DETAIL, UNREADABLE, checked, tolerant
from services.shared.rpc.tls import names_of_caller

logger = logging.getLogger(__name__)

NO_SERVICE = "the caller is no service of this deployment"
FOR_USERS = ("text", "for-users")  # trailer of a refusal whose text an edge may pass on to its client

_HEALTH = "/grpc.health.v1.Health/"


class Refused(Exception):
    """A servicer refuses a call with this status, and optional trailers."""

    def __init__(self, status: grpc.StatusCode, detail: str, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        self.status = status
        self.trailers = trailers
        super().__init__(detail)


class ServiceInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of a server but health checks. See the module."""

    def __init__(
        self,
        service: str,
        service_token: bytes | None,
        previous_token: bytes | None = None,
        *,
        callers: Collection[str] | None = None,
    ) -> None:
        """Accept calls with one of these tokens. If `service_token` is None, accept all.

        `previous_token` is the token before, accepted while the token is rotated. With `callers` the names in the
        certificate of the caller count instead.
        """
        self._callers = None if callers is None else frozenset(callers)
        tokens = [] if service_token is None else [service_token] + ([previous_token] if previous_token else [])
        self._expected = [b"Bearer " + token for token in tokens]
        self._metrics = server_metrics(service)
        self._stopping = False
        self._batches: set[_Batches] = set()

    def end_streams(self) -> None:
        """End every stream of batches once the batches that it received are answered."""
        self._stopping = True
        for batches in list(self._batches):
            batches.end()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return handler
        parse = tolerant(handler.request_deserializer, method)
        if method.startswith(_HEALTH):
            return _handler_like(handler, checked(handler.unary_unary), checked(handler.unary_stream), parse)
        if not self._identified(handler_call_details):
            return _handler_like(handler, _refuse, _refuse_stream, None)  # the request is not parsed
        if handler.request_streaming:
            unary, stream = self._one_response(handler.stream_unary, method), self._batch_stream(handler, method)
        else:
            unary, stream = self._one_response(handler.unary_unary, method), self._many_responses(handler, method)
        if self._callers is not None:
            unary, stream = _named(unary, self._callers), _named_stream(stream, self._callers)
        return _handler_like(handler, unary, stream, parse)

    def _identified(self, details: grpc.HandlerCallDetails) -> bool:
        """Whether the call carries an accepted token."""
        if not self._expected:
            return True
        for key, value in details.invocation_metadata or ():
            if key == "authorization":
                given = value.encode("utf-8", "replace") if isinstance(value, str) else value
                # Compares with all tokens even after a match, so that the time taken reveals nothing.
                return sum(hmac.compare_digest(given, expected) for expected in self._expected) > 0
        return False

    def _one_response(self, behaviour: Any, method: str) -> Any:
        """Wrap a method with one answer: one observation."""
        seconds = self._metrics.seconds.labels(short_method(method))

        async def call(request: Any, context: Any) -> Any:
            began = time.perf_counter()
            try:
                if request is UNREADABLE:
                    raise _unreadable()
                return await behaviour(request, context)
            except Exception as error:
                await self._abort(context, method, error)
            finally:
                seconds.observe(time.perf_counter() - began)

        return call

    def _many_responses(self, handler: Any, method: str) -> Any:
        """Wrap a method with a request and a stream of responses: one observation."""
        seconds = self._metrics.seconds.labels(short_method(method))

        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            began = time.perf_counter()
            try:
                if request is UNREADABLE:
                    raise _unreadable()
                async for response in handler.unary_stream(request, context):
                    yield response
            except Exception as error:
                await self._abort(context, method, error)
            finally:
                seconds.observe(time.perf_counter() - began)

        return call

    def _batch_stream(self, handler: Any, method: str) -> Any:
        """Wrap a stream of batches: each response is one observation."""
        seconds = self._metrics.seconds.labels(short_method(method))

        async def call(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            # At once: the caller knows that somebody is there before it sends a batch.
            await context.send_initial_metadata(())
            batches = _Batches(requests)
            if self._stopping:
                return
            self._batches.add(batches)
            try:
                async for response in handler.stream_stream(batches, context):
                    seconds.observe(time.perf_counter() - batches.received_at)
                    yield response
            except Exception as error:
                await self._abort(context, method, error)
            finally:
                self._batches.discard(batches)

        return call

    async def _abort(self, context: Any, method: str, error: Exception) -> NoReturn:
        """End the call with the status that belongs to the error.

        Unexpected errors are logged, and their text is not sent to the caller.
        """
        if isinstance(error, grpc.aio.AbortError):
            raise error
        trailers: tuple[tuple[str, str], ...] = ()
        match error:
            case Refused():
                status, detail, trailers = error.status, str(error), error.trailers
            case Unavailable():
                status, detail = grpc.StatusCode.UNAVAILABLE, str(error)
            case Busy():
                status, detail = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
            case ThalamusError() if error.code is not ErrorCode.INTERNAL:
                status, detail = grpc.StatusCode.INVALID_ARGUMENT, str(error)
            case _:
                logger.error("a call failed", extra={"method": method}, exc_info=error)
                status, detail = grpc.StatusCode.INTERNAL, "internal error"
        self._metrics.failures.labels(short_method(method), status.name).inc()
        await context.abort(status, detail, trailers)
        raise AssertionError("abort always raises")


class _Batches:
    """The requests of a stream. `end` works even while it waits for the next request."""

    __slots__ = ("_ended", "_requests", "_waiting", "received_at")

    def __init__(self, requests: AsyncIterator[Any]) -> None:
        self._requests = requests
        self._waiting: asyncio.Task[Any] | None = None
        self._ended = False
        self.received_at = time.perf_counter()

    def __aiter__(self) -> _Batches:
        return self

    async def __anext__(self) -> Any:
        if self._ended:
            raise StopAsyncIteration
        task = asyncio.current_task()
        self._waiting = task
        try:
            request = await anext(self._requests)
        except asyncio.CancelledError:
            # `end` cancelled this task, unless the caller went away at the same moment and nobody is left to answer.
            if not self._ended or task is None or task.uncancel() > 0:
                raise
            raise StopAsyncIteration from None
        finally:
            self._waiting = None
        if request is UNREADABLE:
            raise _unreadable()
        self.received_at = time.perf_counter()
        return request

    def end(self) -> None:
        """End the stream once the handler asks for the next request."""
        self._ended = True
        if self._waiting is not None:
            self._waiting.cancel()


def _unreadable() -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, DETAIL)


def _handler_like(handler: Any, unary: Any, stream: Any, parse: Callable[[bytes], Any] | None) -> Any:
    """Return a handler of the same shape that calls `unary` or `stream` instead.

    `parse` reads the request; None passes its bytes on.
    """
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            make: Any = grpc.unary_unary_rpc_method_handler
        case False, True:
            make = grpc.unary_stream_rpc_method_handler
        case True, False:
            make = grpc.stream_unary_rpc_method_handler
        case _:
            make = grpc.stream_stream_rpc_method_handler
    return make(
        stream if handler.response_streaming else unary,
        request_deserializer=parse,
        response_serializer=handler.response_serializer,
    )


def _named(behaviour: Any, callers: frozenset[str]) -> Any:
    """Wrap a method with one answer so that only these callers may use it."""

    async def call(request: Any, context: Any) -> Any:
        if callers.isdisjoint(names_of_caller(context.auth_context())):
            await _refuse(request, context)
        return await behaviour(request, context)

    return call


def _named_stream(behaviour: Any, callers: frozenset[str]) -> Any:
    """Wrap a method with a stream of answers likewise."""

    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        if callers.isdisjoint(names_of_caller(context.auth_context())):
            await _refuse(request, context)
        async for answer in behaviour(request, context):
            yield answer

    return call


async def _refuse(_: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, NO_SERVICE)


async def _refuse_stream(_: Any, context: Any) -> AsyncIterator[Any]:
    await _refuse(_, context)
    yield None
