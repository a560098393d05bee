"""What the HTTP API needs of the edge, wired in `__main__`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.edge.domain.cluster import Cluster
from services.edge.domain.keyring import KeyRing
from services.edge.domain.node import Node
from services.edge.domain.ports import Accounts


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """One per edge."""

    node: Node
    cluster: Cluster
    accounts: Accounts
    keyring: KeyRing
    web_dir: Path
    origin_allowed: Callable[[str], bool]
