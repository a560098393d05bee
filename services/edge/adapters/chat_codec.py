"""What calls about conversations have in common: options of namespaces, refusals."""

from __future__ import annotations

from services.edge.domain.conversations.calls import ChatRefused
from services.shared.errors import ErrorCode, Unavailable
from services.shared.namespaces import ChannelEvent, Namespace
from thalamus.chat.v1 import chat_pb2 as pb

_KNOWN = frozenset(ErrorCode)


def options_of(namespace: Namespace) -> pb.NamespaceOptions:
    """Return the options of a namespace that persistence needs to know."""
    return pb.NamespaceOptions(
        history_size=namespace.history_size,
        history_ttl_s=namespace.history_ttl_s,
        feed=ChannelEvent.PUBLICATION in namespace.events,
        group_max_members=namespace.group_max_members,
        max_data_bytes=namespace.max_data_bytes,
        receipts_max_members=namespace.receipts_max_members,
        typing_max_members=namespace.typing_max_members,
    )


def refused(refusal: pb.Refusal) -> ChatRefused | Unavailable:
    """Return the error of a refusal."""
    retry_after_s = refusal.retry_after_ms / 1000
    if refusal.code not in _KNOWN or refusal.code == ErrorCode.INTERNAL:
        return Unavailable(refusal.text or refusal.why, retry_after_s=retry_after_s)
    return ChatRefused(ErrorCode(refusal.code), refusal.text, refusal.why, retry_after_s=retry_after_s)
