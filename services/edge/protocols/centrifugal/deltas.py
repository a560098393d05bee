"""Chooses which publications are sent as patches to subscriptions with delta.

A patch is shorter than the data, and kept with its publication: all encodings, and all clients that recover it from the
ring, share it. So it is bounded like the ring, whose publications it makes at most twice as large.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from services.edge.domain.model import Publication
from services.edge.protocols.centrifugal import fossil
from services.shared.json_text import is_utf8

_MARK_BYTES = 2  # that say in Protobuf that data is a patch
_TEXT_MARK_BYTES = len(',"delta":true') + 1  # the same in JSON; and the line feed of a patch is escaped there


def patch_of(publication: Publication, previous: bytes | None) -> bytes:
    """Return the patch that makes the data of `previous`.

    Empty: the data must be sent in full.
    """
    if not previous:
        return b""
    known = publication.patch
    if known is not None and (known[0] is previous or known[0] == previous):
        return known[1]
    patch = fossil.create(previous, publication.data)
    if len(patch) + _MARK_BYTES >= len(publication.data):
        patch = b""
    publication.patch = (previous, patch)
    return patch


def text_patch_of(publication: Publication, previous: bytes | None) -> bytes:
    """Return the patch as `patch_of`, for clients that get data as text.

    It is empty also if the data or its base is no UTF-8, or if the patch would not be shorter as text.
    """
    patch = patch_of(publication, previous)
    if not patch or len(patch) + _TEXT_MARK_BYTES >= len(publication.data):
        return b""
    return patch if previous and is_utf8(patch) and is_utf8(previous) else b""


def with_previous(publications: Iterable[Publication]) -> Iterator[tuple[Publication, bytes | None]]:
    """Return the publications of one list, each with the data of the one before it.

    The first has None.
    """
    previous = None
    for publication in publications:
        yield publication, previous
        previous = publication.data
