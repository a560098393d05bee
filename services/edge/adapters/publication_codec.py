"""Publications and members between their bytes and the edge's model."""

from __future__ import annotations

import functools

from services.edge.domain.model import ClientInfo, Publication
from thalamus.common.v1 import common_pb2 as pb

_Publication = pb.Publication
_parse = pb.Publication.FromString
_TAGS = b"\x1a"  # begins every entry of `tags`; looking for it is much cheaper than an empty map


def encode_info(info: ClientInfo) -> pb.ClientInfo:
    """The message of a member."""
    return pb.ClientInfo(user=info.user, client=info.client, conn_info=info.conn_info, chan_info=info.chan_info)


def decode_info(info: pb.ClientInfo) -> ClientInfo:
    """The member of a message."""
    return ClientInfo(info.user, info.client, info.conn_info, info.chan_info)


def encode(publication: Publication, *, timed: bool = True) -> bytes:
    """Bytes of a publication, without its offset: that belongs to the log, and so does its time unless `timed`."""
    made = _Publication(data=publication.data, id=publication.id)
    if timed:
        made.time_ms = publication.time_ms
    if publication.exclude_client:
        made.exclude_client = publication.exclude_client
    if publication.tags:
        made.tags.update(publication.tags)
    if publication.info is None:
        return made.SerializeToString()
    info = publication.info
    return made.SerializeToString() + (_small_publisher(info) if info.is_small else _publisher(info))


def _publisher(info: ClientInfo) -> bytes:
    """A publication of nothing but who published it: messages put together are one with the fields of all."""
    return pb.Publication(info=encode_info(info)).SerializeToString()


_small_publisher = functools.lru_cache(maxsize=4_096)(_publisher)  # who publishes once publishes again


def decode(payload: bytes, offset: int) -> Publication:
    """The publication that bytes hold, at its place in the log (0: none).

    Raises:
        google.protobuf.message.DecodeError: the bytes are something else.
    """
    found = _parse(payload)
    return Publication(
        found.data,
        decode_info(found.info) if found.HasField("info") else None,
        dict(found.tags) if _TAGS in payload else {},
        found.id,
        found.exclude_client,
        found.time_ms,
        offset,
    )
