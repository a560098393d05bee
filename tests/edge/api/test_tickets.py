"""Tickets over HTTP: how many one user may have."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import httpx

from services.edge.api.app import create_app
from services.edge.api.context import ApiContext
from services.edge.api.tickets import TICKETS_PER_USER
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.handshake import TICKET_TTL_S
from tests.support.edge import Cluster
from tests.support.memory import MemoryTickets


def http_of(cluster: Cluster, tickets: MemoryTickets) -> httpx.AsyncClient:
    context = ApiContext(
        node=cluster.edge(),
        cluster=cast(Any, None),
        revoker=cast(Any, None),
        granter=cast(Any, None),
        accounts=cast(Any, None),
        users=cast(Any, None),
        profile_news=cast(Any, None),
        tickets=tickets,
        chat=cast(Any, None),
        keyring=KeyRing(),
        web_dir=Path("web"),
        websocket_path="/connection/websocket",
        origin_allowed=lambda _: False,
        is_own_page=lambda _origin, _host: False,
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(context)), base_url="http://edge.internal")


async def test_a_user_can_not_fill_redis_with_tickets() -> None:
    cluster = Cluster()
    tickets = MemoryTickets()
    async with http_of(cluster, tickets) as http:

        async def ask(user: str) -> httpx.Response:
            return await http.post("/auth/ticket", headers={"Authorization": f"Bearer {cluster.token(user)}"})

        assert [(await ask("eve")).status_code for _ in range(TICKETS_PER_USER)] == [200] * TICKETS_PER_USER
        refused = await ask("eve")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, 111)
        assert 1 <= int(refused.headers["Retry-After"]) <= TICKET_TTL_S
        assert (await ask("bob")).status_code == 200  # others are served
        assert len(tickets.kept) == TICKETS_PER_USER + 1
        await cluster.advance(TICKET_TTL_S)  # all of before have ended
        assert [(await ask("eve")).status_code for _ in range(TICKETS_PER_USER)] == [200] * TICKETS_PER_USER
        assert (await ask("")).status_code == 200  # an anonymous user is counted by address
