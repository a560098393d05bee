"""Signing in and out over HTTP at an edge, with a scripted auth service."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from services.edge.api.app import create_app
from services.edge.api.context import ApiContext
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.ports import EndedSession, TokenPair
from services.edge.transport.origins import OriginRules
from services.shared.errors import ErrorCode, ThalamusError
from tests.support.edge import Cluster

OWN = "https://edge.internal"
NAMED = "https://app.example.com"


class Accounts:
    """Every password and refresh token is right."""

    def __init__(self) -> None:
        self.sign_ins = 0

    async def login(self, *_: object) -> TokenPair:
        self.sign_ins += 1
        return TokenPair("access", 600, "refresh", "u1", "ann")

    async def register(self, *_: object) -> TokenPair:
        return await self.login()

    async def refresh(self, *_: object) -> TokenPair:
        return await self.login()

    async def logout(self, _: str) -> EndedSession:
        return EndedSession("u1", "s1", 600)


class FullList:
    """A `Revoker` whose list is full."""

    async def revoke(self, *_: Any, **__: Any) -> None:
        raise ThalamusError("too many revocations are kept", ErrorCode.LIMIT_EXCEEDED)


class NoDevices:
    """Conversations of which no user has a device."""

    async def forget_devices_of_sessions(self, *_: Any) -> None: ...


def http_of(accounts: Accounts, listed: tuple[str, ...] = ()) -> httpx.AsyncClient:
    rules = OriginRules(listed)
    context = ApiContext(
        node=Cluster().edge(),
        cluster=cast(Any, None),
        revoker=cast(Any, FullList()),
        granter=cast(Any, None),
        accounts=cast(Any, accounts),
        users=cast(Any, None),
        profile_news=cast(Any, None),
        tickets=cast(Any, None),
        chat=cast(Any, NoDevices()),
        keyring=KeyRing(),
        web_dir=Path("web"),
        websocket_path="/connection/websocket",
        origin_allowed=lambda origin: rules.allows(origin, ""),
        is_own_page=rules.names,
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(context)), base_url=OWN)


async def test_signing_out_with_a_full_list_of_revocations_is_no_fault_of_the_request() -> None:
    async with http_of(Accounts()) as http:
        response = await http.post("/auth/logout", json={"refresh_token": "refresh"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, 100)
    assert response.headers["retry-after"] == "1"


BODIES: dict[str, dict[str, str]] = {
    "login": {"username": "ann", "password": "correct horse"},
    "register": {"username": "ann", "password": "correct horse"},
    "refresh": {"refresh_token": "refresh"},
}


@pytest.mark.parametrize("method", BODIES)
@pytest.mark.parametrize(
    ("listed", "origin", "status"),
    [
        ((), None, 200),  # no browser
        ((), OWN, 200),
        ((), OWN.replace("https", "http"), 403),
        ((NAMED,), NAMED, 200),
        ((), NAMED, 403),
        (("*",), NAMED, 403),
        ((), "null", 403),
        (("null",), "null", 403),
        ((), "", 403),
    ],
    ids=["no-browser", "own", "own-http", "named", "foreign", "any", "null", "null-listed", "empty"],
)
async def test_a_page_gets_the_cookie_only_if_it_may_use_it(
    method: str, listed: tuple[str, ...], origin: str | None, status: int
) -> None:
    """A form of any page may be sent here.

    With the cookie of the page's own user, whoever looks at it would connect
    as that user."""
    accounts = Accounts()
    headers = {} if origin is None else {"Origin": origin}
    async with http_of(accounts, listed) as http:
        response = await http.post(f"/auth/{method}", json={**BODIES[method], "cookie": True}, headers=headers)
        assert response.status_code == status
        assert ("set-cookie" in response.headers) is (status == 200)
        assert accounts.sign_ins == (status == 200)
        plain = await http.post(f"/auth/{method}", json=BODIES[method], headers=headers)
        assert plain.status_code == 200
        assert "set-cookie" not in plain.headers
