"""What calls about conversations have in common: options of namespaces, refusals."""

from __future__ import annotations

from services.edge.domain.conversations.calls import ChatRefused
from services.shared.errors import ErrorCode, Unavailable
from services.shared.namespaces import ChannelEvent, Durability, Namespace
from thalamus.chat.v1 import chat_pb2 as pb

_KNOWN = frozenset(ErrorCode)


def options_of(namespace: Namespace, *, may_queue: bool) -> pb.NamespaceOptions:
    """Return the options of a namespace that persistence needs to know.

    `may_queue`: every persistence knows that the log of a `queued` conversation may have more than the store.
    """
    return pb.NamespaceOptions(
        history_size=namespace.history_size,
        history_ttl_s=namespace.history_ttl_s,
        feed=ChannelEvent.PUBLICATION in namespace.events,
        group_max_members=namespace.group_max_members,
        max_data_bytes=namespace.max_data_bytes,
        receipts_max_members=namespace.receipts_max_members,
        typing_max_members=namespace.typing_max_members,
        queued=may_queue and namespace.durability is Durability.QUEUED,
    )


def refused(refusal: pb.Refusal) -> ChatRefused | Unavailable:
    """Return the error of a refusal."""
    retry_after_s = refusal.retry_after_ms / 1000
    if refusal.code not in _KNOWN or refusal.code == ErrorCode.INTERNAL:
        return Unavailable(refusal.text or refusal.why, retry_after_s=retry_after_s)
    return ChatRefused(ErrorCode(refusal.code), refusal.text, refusal.why, retry_after_s=retry_after_s)
