"""The tag `time`, for SDKs that drop a publication's own: only where the namespace asks for it."""

from __future__ import annotations

from collections.abc import Iterable

from services.edge.domain.model import Publication
from services.shared.namespaces import Namespace


def tag_times(namespace: Namespace, publications: Iterable[Publication]) -> None:
    """Give each its time, in Unix ms, as a tag too, in place of a tag of that name."""
    if not namespace.time_in_tags:
        return
    for publication in publications:
        if publication.time_ms:
            publication.tags = publication.tags | {"time": str(publication.time_ms)}
