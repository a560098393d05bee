"""Publications and members between their bytes and the edge's model."""

from __future__ import annotations

from services.edge.domain.model import ClientInfo, Publication
from thalamus.common.v1 import common_pb2 as pb


def encode_info(info: ClientInfo) -> pb.ClientInfo:
    """The message of a member."""
    return pb.ClientInfo(user=info.user, client=info.client, conn_info=info.conn_info, chan_info=info.chan_info)


def decode_info(info: pb.ClientInfo) -> ClientInfo:
    """The member of a message."""
    return ClientInfo(info.user, info.client, info.conn_info, info.chan_info)


def encode(publication: Publication) -> bytes:
    """Bytes of a publication, without its offset: that belongs to the log."""
    return pb.Publication(
        data=publication.data,
        info=encode_info(publication.info) if publication.info is not None else None,
        tags=publication.tags,
        id=publication.id,
        exclude_client=publication.exclude_client,
        time_ms=publication.time_ms,
    ).SerializeToString()


def decode(payload: bytes, offset: int) -> Publication:
    """The publication that bytes hold, at its place in the log (0: none).

    Raises:
        google.protobuf.message.DecodeError: the bytes are something else.
    """
    found = pb.Publication.FromString(payload)
    return Publication(
        data=found.data,
        info=decode_info(found.info) if found.HasField("info") else None,
        tags=dict(found.tags),
        id=found.id,
        exclude_client=found.exclude_client,
        time_ms=found.time_ms,
        offset=offset,
    )
