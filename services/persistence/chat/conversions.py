"""Options of a namespace and refusals, converted from and to protobuf."""

from __future__ import annotations

import functools

from services.persistence.chat.new_events import Options, Refused
from services.shared.checks import check_number
from services.shared.namespaces import (
    MAX_HISTORY_SIZE,
    MAX_HISTORY_TTL_S,
    MAX_RECEIPTS_MEMBERS,
    MAX_TYPING_MEMBERS,
)
from thalamus.chat.v1 import chat_pb2 as pb

_MAX_MEMBERS = 10_000
_MAX_DATA_BYTES = 1 << 30


def options_of(options: pb.NamespaceOptions) -> Options:
    """Check and convert the options of a namespace.

    Raises:
        ThalamusError: one is not allowed.
    """
    return _options_of(options.SerializeToString())


@functools.lru_cache(maxsize=256)
def _options_of(encoded: bytes) -> Options:
    """Return the options that these bytes are; edges send the same with each event."""
    options = pb.NamespaceOptions.FromString(encoded)
    check_number("history_size", options.history_size, 1, MAX_HISTORY_SIZE)
    check_number("history_ttl_s", options.history_ttl_s, 1, MAX_HISTORY_TTL_S)
    check_number("group_max_members", options.group_max_members, 1, _MAX_MEMBERS)
    check_number("max_data_bytes", options.max_data_bytes, 1, _MAX_DATA_BYTES)
    check_number("receipts_max_members", options.receipts_max_members, 0, MAX_RECEIPTS_MEMBERS)
    check_number("typing_max_members", options.typing_max_members, 0, MAX_TYPING_MEMBERS)
    return Options(
        options.history_size,
        options.history_ttl_s,
        options.feed,
        options.group_max_members,
        options.max_data_bytes,
        options.receipts_max_members,
        options.typing_max_members,
        options.queued,
    )


def refusal_of(refused: Refused) -> pb.Refusal:
    """Convert a refusal to protobuf."""
    return pb.Refusal(code=refused.code, why=refused.why, text=refused.text, retry_after_ms=refused.retry_after_ms)
