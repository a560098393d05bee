"""How often a user may read profiles of others over HTTP."""

from __future__ import annotations

import httpx

from services.edge.api.me import PROFILES_AT_ONCE, PROFILES_PER_S
from tests.edge.api.test_tickets import http_of
from tests.support.edge import Cluster
from tests.support.memory import MemoryTickets


async def test_a_user_reads_profiles_only_so_often() -> None:
    cluster = Cluster()
    async with http_of(cluster, MemoryTickets()) as http:

        async def ask(user: str, body: bytes = b'{"users":[]}') -> httpx.Response:
            headers = {"Authorization": f"Bearer {cluster.token(user)}"}
            return await http.post("/auth/profiles", content=body, headers=headers)

        assert [(await ask("eve")).status_code for _ in range(PROFILES_AT_ONCE)] == [200] * PROFILES_AT_ONCE
        for body in (b'{"users":[]}', b"x"):  # refused before the body is read
            refused = await ask("eve", body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, 111)
            assert refused.json()["error"]["message"].endswith("too many calls for profiles")
            assert int(refused.headers["Retry-After"]) == 1
            assert refused.headers["Cache-Control"] == "no-store"
        assert (await ask("bob")).status_code == 200  # others are served
        await cluster.advance(1.0)
        answers = [(await ask("eve")).status_code for _ in range(int(PROFILES_PER_S) + 1)]
        assert answers == [200] * int(PROFILES_PER_S) + [429]
