"""The parts of the edge that the HTTP API uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.control.cluster import Cluster
from services.edge.domain.control.granter import Granter
from services.edge.domain.control.profile_news import ProfileNews
from services.edge.domain.control.revoker import Revoker
from services.edge.domain.conversations.methods import ChatMethods
from services.edge.domain.limits.api_calls import ApiCallLimit
from services.edge.domain.ports import Accounts, Tickets
from services.edge.domain.session.node import Node
from services.edge.domain.user_ports import Users


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """Parts of one edge, passed to every method of the HTTP API."""

    node: Node
    cluster: Cluster
    revoker: Revoker
    granter: Granter
    accounts: Accounts
    users: Users
    profile_news: ProfileNews
    tickets: Tickets
    chat: ChatMethods
    keyring: KeyRing
    web_dir: Path
    websocket_path: str
    origin_allowed: Callable[[str], bool]
    call_limit: ApiCallLimit | None = None  # None: no limit
    is_own_page: Callable[[str, str], bool]  # whether pages of this origin may use the cookie, at this Host
