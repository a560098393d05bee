"""The parts of the edge that the HTTP API uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.control.cluster import Cluster
from services.edge.domain.control.revoker import Revoker
from services.edge.domain.ports import Accounts, Tickets
from services.edge.domain.session.node import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """Parts of one edge, passed to every method of the HTTP API."""

    node: Node
    cluster: Cluster
    revoker: Revoker
    accounts: Accounts
    tickets: Tickets
    keyring: KeyRing
    web_dir: Path
    websocket_path: str
    origin_allowed: Callable[[str], bool]
    is_own_page: Callable[[str, str], bool]  # whether pages of this origin may use the cookie, at this Host
