"""Serialized form of a publication, as the log, the store and pub/sub carry it."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import DecodeError

from services.shared.errors import ThalamusError
from thalamus.common.v1 import common_pb2 as pb


def encode(
    data: bytes,
    info: pb.ClientInfo | None = None,
    tags: Mapping[str, str] | None = None,
    id: bytes = b"",
    exclude_client: str = "",
    time_ms: int = 0,
) -> bytes:
    """Serialize a publication.

    `id` is 16 random bytes, `time_ms` is Unix time in milliseconds. The offset is not part of it: the log adds it.
    """
    return pb.Publication(
        data=data, info=info, tags=tags, id=id, exclude_client=exclude_client, time_ms=time_ms
    ).SerializeToString()


def parse(payload: bytes) -> pb.Publication:
    """Parse the bytes that `encode` returned.

    Raises:
        ThalamusError: the bytes are not a publication, so another program writes under our keys.
    """
    try:
        return pb.Publication.FromString(payload)
    except DecodeError as error:
        raise ThalamusError("a publication in the log can't be read") from error
