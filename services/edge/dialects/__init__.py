"""Client protocols of the edge, and which of them a connection speaks. Source: wire protocol, 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from services.edge.dialects.centrifugal_json import CentrifugalJson
from services.edge.domain.ports import Dialect


class Dialects:
    """Every dialect that this edge speaks, once; a new one is one more entry in the two tables here.

    Args:
        text_frame: Makes a WebSocket text frame, ready for the socket, of a payload.
    """

    def __init__(self, text_frame: Callable[[bytes], bytes]) -> None:
        self._default: Dialect = CentrifugalJson(text_frame)
        self._by_name: dict[str, Dialect] = {self._default.name: self._default}
        self._by_subprotocol: dict[str, Dialect] = {"centrifuge-json": self._default}

    def __getitem__(self, name: str) -> Dialect:
        """The dialect that `select` named."""
        return self._by_name[name]

    def select(self, offers: Sequence[str], query: Mapping[str, str]) -> tuple[str | None, str]:
        """The subprotocol that the answer to an upgrade selects, None for none, and the name of the dialect.

        Nothing is refused: where no offer is known, and where the offers or the query ask for Protobuf, JSON is spoken.

        Args:
            offers: Subprotocols in the order of the client's liking.
            query: Parameters of the address; those that choose a dialect all ask for one that is not served yet.
        """
        for offer in offers:
            dialect = self._by_subprotocol.get(offer)
            if dialect is not None:
                return offer, dialect.name
        return None, self._default.name
