"""Adds the tag `time` to publications, for SDKs that ignore the member `time`."""

from __future__ import annotations

from collections.abc import Iterable

from services.edge.domain.model import Publication
from services.shared.namespaces import Namespace


def tag_times(namespace: Namespace, publications: Iterable[Publication]) -> None:
    """Set the tag `time` of each publication to its time, in Unix milliseconds.

    It replaces a tag of that name. No effect unless the namespace asks for it.
    """
    if not namespace.time_in_tags:
        return
    for publication in publications:
        if publication.time_ms:
            publication.tags = publication.tags | {"time": str(publication.time_ms)}
