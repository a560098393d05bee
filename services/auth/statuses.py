"""Refusals of auth as gRPC statuses."""

from __future__ import annotations

import contextlib
from typing import Any

import grpc

from services.auth.domain.refusals import Conflict, Denied, Forbidden, Invalid, Missing, Refusal, Taken, TooMany
from services.shared.rpc.interceptor import FOR_USERS
from services.shared.rpc.server import Refused


@contextlib.contextmanager
def refusals_as_statuses(access_ttl_s: int = 0) -> Any:
    """Context manager that raises refusals of `Accounts` as gRPC statuses.

    `access_ttl_s`: how long access tokens are good, for refusals that name an ended session.
    """
    try:
        yield
    except TooMany as error:
        trailers = (FOR_USERS, ("retry-after-s", str(error.retry_after_s)))
        raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), trailers) from error
    except Denied as error:
        ended = error.ended
        names = (
            ()
            if ended is None
            else (
                ("ended-user", ended.user_id),
                ("ended-session", ended.family),
                ("access-ttl-s", str(access_ttl_s)),
            )
        )
        raise Refused(grpc.StatusCode.UNAUTHENTICATED, str(error), (FOR_USERS, *names)) from error
    except Refusal as error:
        statuses = {
            Invalid: grpc.StatusCode.INVALID_ARGUMENT,
            Taken: grpc.StatusCode.ALREADY_EXISTS,
            Conflict: grpc.StatusCode.ABORTED,
            Forbidden: grpc.StatusCode.PERMISSION_DENIED,
            Missing: grpc.StatusCode.NOT_FOUND,
        }
        raise Refused(statuses[type(error)], str(error), (FOR_USERS,)) from error
