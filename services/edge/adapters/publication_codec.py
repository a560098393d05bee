"""Encodes and decodes publications and members, between protobuf and the model."""

from __future__ import annotations

import functools

from services.edge.domain.model import ClientInfo, Publication
from thalamus.common.v1 import common_pb2 as pb

_Publication = pb.Publication
_parse = pb.Publication.FromString
_TAGS = b"\x1a"  # first byte of every entry of `tags`; a search for it is much cheaper than reading an empty map


def encode_info(info: ClientInfo) -> pb.ClientInfo:
    """Return the protobuf message of a member."""
    return pb.ClientInfo(user=info.user, client=info.client, conn_info=info.conn_info, chan_info=info.chan_info)


def decode_info(info: pb.ClientInfo) -> ClientInfo:
    """Return the member in a protobuf message."""
    return ClientInfo(info.user, info.client, info.conn_info, info.chan_info)


def encode(publication: Publication, *, timed: bool = True) -> bytes:
    """Return the bytes of a publication, without its offset, which the log gives.

    Without `timed` the time is left out, too: the log adds its own.
    """
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
    return made.SerializeToString() + (_cached_info_field(info) if info.is_small else _info_field(info))


def _info_field(info: ClientInfo) -> bytes:
    """Return the encoded field `info`, which is appended to a publication.

    Protobuf messages that are concatenated are one message with the fields of both.
    """
    return pb.Publication(info=encode_info(info)).SerializeToString()


_cached_info_field = functools.lru_cache(maxsize=4_096)(_info_field)  # most publishers publish more than once


def decode(payload: bytes, offset: int) -> Publication:
    """Return the publication in `payload`, with its offset in the log (0: none).

    Raises:
        google.protobuf.message.DecodeError: the bytes are not a publication.
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
        None,
        found.flags,
    )
