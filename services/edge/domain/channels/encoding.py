"""Encodes pushes that go to many clients.

An encoder that fails costs only its own connections.

An encoder must not raise (`Encoder`). If one does nevertheless, the push is not sent to its connections, the failure is
counted and, at most once in 10 s, logged, and all others get the push.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prometheus_client import Counter

from services.edge.domain.connections import Encoder
from services.edge.domain.replies import JoinPush, Push
from services.shared.process.log_limit import RateLimitedLog

_FAILURES = Counter("thalamus_edge_encoder_failures", "Pushes that an encoder of a client protocol failed to encode.")
_log = RateLimitedLog(logging.getLogger(__name__), logging.ERROR)


def note_failure(encoder: Encoder, error: Exception) -> None:
    """Count and log that an encoder raised."""
    _FAILURES.inc()
    _log("an encoder failed", exc_info=error, encoder=type(encoder).__name__)


def encoded(encoder: Encoder, push: Push) -> bytes | None:
    """Return the push as a frame; None also if the encoder fails."""
    try:
        return encoder.encode(push)
    except Exception as error:
        note_failure(encoder, error)
        return None


def encoded_joins(encoder: Encoder, pushes: Sequence[JoinPush]) -> bytes | None:
    """Return one frame with all the joins; None also if the encoder fails."""
    try:
        return encoder.encode_joins(pushes)
    except Exception as error:
        note_failure(encoder, error)
        return None
