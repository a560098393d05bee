"""Users over HTTP, on two edges: profiles, passwords, sessions, disabled users."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from services.auth.domain.own_account import MAX_ENDS
from tests.support.lateness import Lateness
from tests.support.stack import Stack
from tests.support.waiting import until
from tests.support.wire_client import WireClient, WireError

PASSWORD = "correct horse battery"
FORGOTTEN = "another horse battery"
WITHIN_S = 5.0


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    environment = {"AUTH_ATTEMPTS_PER_ADDRESS": "0", "AUTH_LOGINS_PER_ACCOUNT": "6", "AUTH_SESSIONS_PER_USER": "6"}
    with Stack(edges=2, environment=environment) as running:
        yield running


@pytest.fixture
async def edges(stack: Stack) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as opened:
        yield [await opened.enter_async_context(httpx.AsyncClient(base_url=url, timeout=10)) for url in stack.http_urls]


class Person:
    """A user of the platform, who may sign in several times."""

    def __init__(self, stack: Stack, http: httpx.AsyncClient, name: str) -> None:
        self._stack, self._http, self.name, self.password = stack, http, name, PASSWORD
        self.user = ""

    async def sign_in(self, path: str = "login", agent: str = "test/1") -> dict[str, Any]:
        body = {"username": self.name, "password": self.password}
        response = await self._http.post(f"/auth/{path}", json=body, headers={"User-Agent": agent})
        assert response.status_code == 200, response.text
        pair: dict[str, Any] = response.json()["result"]
        self.user = pair["user"]
        return pair


async def person(stack: Stack, http: httpx.AsyncClient) -> tuple[Person, dict[str, Any]]:
    made = Person(stack, http, f"user-{secrets.token_hex(4)}")
    return made, await made.sign_in("register")


def bearer(pair: dict[str, Any] | str) -> dict[str, str]:
    token = pair if isinstance(pair, str) else pair["access_token"]
    return {"Authorization": f"Bearer {token}"}


async def api(stack: Stack, http: httpx.AsyncClient, method: str, **body: Any) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            response = await http.post(f"/api/{method}", json=body, headers={"X-API-Key": stack.api_key})
            if response.status_code != 503:  # an edge that began while auth did, too, does not know the keys yet
                break
            await asyncio.sleep(0.1)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def refused_by(url: str, token: str) -> int:
    """How a connect with this token is closed; 0: it is not."""
    async with WireClient(url) as client:
        try:
            await client.connect(token)
        except WireError:
            return (await client.expect_close())[0]
        return 0


async def test_a_profile_is_changed_by_its_user_and_by_a_backend(stack: Stack, edges: list[httpx.AsyncClient]) -> None:
    ann, pair = await person(stack, edges[0])
    first = (await edges[0].get("/auth/me", headers=bearer(pair))).json()["result"]
    assert (first["user"], first["username"], first["version"], first["custom"]) == (ann.user, ann.name, 0, None)
    assert abs(first["created_at"] - time.time()) < 60
    change = {
        "display_name": " Ann of Here ",
        "avatar_url": "https://img.example/a.png",
        "status": "on a train",
        "custom": {"a": [1, None]},
        "version": 0,
    }
    second = await edges[1].post("/auth/profile", json=change, headers=bearer(pair))
    expected = {**first, **change, "display_name": "Ann of Here", "version": 1}
    assert second.json()["result"] == expected
    again = await edges[0].post("/auth/profile", json={"status": "off", "version": 0}, headers=bearer(pair))
    assert again.status_code == 409
    assert again.json()["error"]["message"] == "the profile has version 1"
    third = await api(stack, edges[0], "users_update", user=ann.user, status="", custom=None, hidden=True)
    assert third["result"] == {**expected, "status": "", "custom": None, "hidden": True, "version": 2}
    for query in ({"user": ann.user}, {"username": ann.name.upper()}):
        assert await api(stack, edges[1], "users_get", **query) == third


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("display_name", "x" * 65),
        ("display_name", "a\nb"),
        ("avatar_url", "http://img.example/a.png"),
        ("avatar_url", "https://"),
        ("avatar_url", "https://user@img.example/"),
        ("avatar_url", "https://img.example/ a"),
        ("avatar_url", "javascript:alert(1)"),
        ("avatar_url", "https://img.example/" + "a" * 2_048),
        ("status", "x" * 141),
        ("custom", "x" * 2_047),
        ("custom", [1e308, 123456789012345678901234567890 * 10**300]),
        ("version", -1),
        ("nickname", "x"),
    ],
)
async def test_what_a_profile_may_not_say_is_refused_by_name(
    stack: Stack, edges: list[httpx.AsyncClient], member: str, value: object
) -> None:
    token = stack.token("elsewhere")
    response = await edges[0].post("/auth/profile", json={member: value}, headers=bearer(token))
    assert response.status_code == 400, response.text
    assert member in response.json()["error"]["message"]
    assert (await edges[0].get("/auth/me", headers=bearer(token))).json()["result"]["version"] == 0


@pytest.mark.parametrize("user", ["a,b", "#a", "user#x", "urn:uuid:1", "a b\u2028é", "x" * 2_000, "{t}", "%2C"])
async def test_a_user_of_another_login_server_has_a_profile_whatever_the_id(
    stack: Stack, edges: list[httpx.AsyncClient], user: str
) -> None:
    user = f"{user}{secrets.token_hex(4)}"
    token = stack.token(user)
    assert (await edges[0].get("/auth/me", headers=bearer(token))).json()["result"]["version"] == 0
    changed = await edges[1].post("/auth/profile", json={"display_name": "Ann"}, headers=bearer(token))
    assert changed.json()["result"]["user"] == user
    assert await api(stack, edges[0], "users_get", user=user) == changed.json()
    assert (await edges[0].get("/auth/sessions", headers=bearer(token))).json()["result"] == {"sessions": []}
    assert (await edges[0].post("/auth/sessions/end_all", json={}, headers=bearer(token))).status_code == 404
    body = {"old_password": PASSWORD, "new_password": FORGOTTEN}
    assert (await edges[0].post("/auth/password", json=body, headers=bearer(token))).status_code == 404
    await api(stack, edges[0], "users_disable", user=user)
    assert await refused_by(stack.ws_urls[1], token) == 3500
    assert await api(stack, edges[0], "users_delete", user=user) == {"result": {}}
    assert (await api(stack, edges[1], "users_get", user=user))["error"]["code"] == 108


async def test_a_new_password_ends_the_other_sessions_on_every_edge(
    stack: Stack, edges: list[httpx.AsyncClient]
) -> None:
    ann, mine = await person(stack, edges[0])
    others = [await ann.sign_in() for _ in stack.ws_urls]
    async with AsyncExitStack() as opened:
        clients = []
        for url, pair in [(stack.ws_urls[0], mine), *zip(stack.ws_urls, others, strict=True)]:
            clients.append(await opened.enter_async_context(WireClient(url)))
            await clients[-1].connect(pair["access_token"])
        wrong = {"old_password": "wrong password", "new_password": FORGOTTEN}
        assert (await edges[0].post("/auth/password", json=wrong, headers=bearer(mine))).status_code == 403
        common = {"old_password": PASSWORD, "new_password": "Password1"}
        assert (await edges[0].post("/auth/password", json=common, headers=bearer(mine))).status_code == 400
        right = {"old_password": PASSWORD, "new_password": FORGOTTEN}
        changed = await edges[0].post("/auth/password", json=right, headers=bearer(mine))
        assert changed.json() == {"result": {}}
        for client in clients[1:]:
            assert (await client.expect_close())[0] == 3503
        await clients[0].subscribe("chat:lobby")
    for pair in others:
        assert (await edges[1].post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})).status_code == 401
        assert (await edges[1].get("/auth/me", headers=bearer(pair))).status_code == 401
        assert await refused_by(stack.ws_urls[1], pair["access_token"]) == 3500
    assert (await edges[1].get("/auth/me", headers=bearer(mine))).status_code == 200
    old = {"username": ann.name, "password": PASSWORD}
    assert (await edges[0].post("/auth/login", json=old)).status_code == 401
    ann.password = FORGOTTEN
    await ann.sign_in()


async def test_wrong_old_passwords_are_limited_as_logins_are(stack: Stack, edges: list[httpx.AsyncClient]) -> None:
    _, mine = await person(stack, edges[0])
    body = {"old_password": "wrong password", "new_password": FORGOTTEN}
    codes = [(await edges[n % 2].post("/auth/password", json=body, headers=bearer(mine))).status_code for n in range(8)]
    assert codes == [403] * 6 + [429] * 2


async def test_sessions_are_listed_and_ended_one_by_one_or_all(stack: Stack, edges: list[httpx.AsyncClient]) -> None:
    ann, mine = await person(stack, edges[0])
    other = await ann.sign_in(agent="Phone/2 " + "x" * 500)
    third = await ann.sign_in()
    found = (await edges[1].get("/auth/sessions", headers=bearer(mine))).json()["result"]["sessions"]
    assert len(found) == 3
    assert [one["current"] for one in found].count(True) == 1
    (phone,) = [one for one in found if one["user_agent"].startswith("Phone/2")]
    assert len(phone["user_agent"]) == 256
    assert phone["peer"] == "127.0.0.1"
    assert abs(phone["begun_at"] - time.time()) < 60
    stranger, theirs = await person(stack, edges[0])
    end = {"session": phone["session"]}
    assert (await edges[0].post("/auth/sessions/end", json=end, headers=bearer(theirs))).status_code == 404
    async with WireClient(stack.ws_urls[1]) as client:
        await client.connect(other["access_token"])
        ended = await edges[0].post("/auth/sessions/end", json=end, headers=bearer(mine))
        assert ended.json() == {"result": {}}
        assert (await client.expect_close())[0] == 3503
    assert (await edges[1].get("/auth/me", headers=bearer(other))).status_code == 401
    refreshed = await edges[0].post("/auth/refresh", json={"refresh_token": third["refresh_token"]})
    third = refreshed.json()["result"]
    assert (await edges[0].post("/auth/sessions/end_all", json={}, headers=bearer(mine))).json() == {"result": {}}
    assert (await edges[0].post("/auth/refresh", json={"refresh_token": third["refresh_token"]})).status_code == 401
    left = (await edges[1].get("/auth/sessions", headers=bearer(mine))).json()["result"]["sessions"]
    assert [one["current"] for one in left] == [True]
    await edges[0].post("/auth/sessions/end_all", json={"this": True}, headers=bearer(mine))
    assert (await edges[1].get("/auth/me", headers=bearer(mine))).status_code == 401
    assert (await edges[1].get("/auth/me", headers=bearer(theirs))).status_code == 200
    assert stranger.user != ann.user


@pytest.mark.parametrize("path", ["login", "session"])
async def test_of_too_many_sessions_the_oldest_ends_on_every_edge(
    stack: Stack, edges: list[httpx.AsyncClient], path: str
) -> None:
    ann, oldest = await person(stack, edges[0])
    others = [await ann.sign_in() for _ in range(5)]
    async with WireClient(stack.ws_urls[1]) as client:
        await client.connect(oldest["access_token"])
        body = {"username": ann.name, "password": ann.password}
        assert (await edges[0].post(f"/auth/{path}".removesuffix("/session"), json=body)).status_code == 200
        assert (await client.expect_close())[0] == 3503
    assert (await edges[1].post("/auth/refresh", json={"refresh_token": oldest["refresh_token"]})).status_code == 401
    assert (await edges[1].get("/auth/me", headers=bearer(oldest))).status_code == 401
    found = (await edges[1].get("/auth/sessions", headers=bearer(others[0]))).json()["result"]["sessions"]
    assert len(found) == 6


WAYS_TO_END = ["logout", "end", "end_all", "password", "users_password", "used_twice"]


@pytest.mark.parametrize("way", WAYS_TO_END)
async def test_devices_set_in_a_session_are_forgotten_when_it_ends(
    stack: Stack, edges: list[httpx.AsyncClient], way: str
) -> None:
    """Devices of other sessions, and of other login servers, stay."""
    ann, mine = await person(stack, edges[0])
    other = await ann.sign_in()
    tokens = {"mine": mine["access_token"], "other": other["access_token"], "foreign": stack.token(ann.user)}
    for name, token in tokens.items():
        device = {"platform": "fcm", "token": secrets.token_hex(20)}
        put = await edges[1].put(f"/chat/devices/{name}", json=device, headers=bearer(token))
        assert put.status_code == 200, put.text
    refresh, left = {"refresh_token": other["refresh_token"]}, ["foreign", "mine"]
    if way == "logout":
        assert (await edges[0].post("/auth/logout", json=refresh)).status_code == 200
    elif way == "used_twice":
        codes = [(await edges[0].post("/auth/refresh", json=refresh)).status_code for _ in range(2)]
        assert codes == [200, 401]
    elif way == "users_password":
        assert await api(stack, edges[0], way, user=ann.user, password=FORGOTTEN) == {"result": {}}
        left = ["foreign"]
    else:
        found = (await edges[0].get("/auth/sessions", headers=bearer(mine))).json()["result"]["sessions"]
        (session,) = [one["session"] for one in found if not one["current"]]
        path, body = {
            "end": ("sessions/end", {"session": session}),
            "end_all": ("sessions/end_all", {}),
            "password": ("password", {"old_password": PASSWORD, "new_password": FORGOTTEN}),
        }[way]
        ended = await edges[0].post(f"/auth/{path}", json=body, headers=bearer(mine))
        assert ended.status_code == 200, ended.text
    found = await api(stack, edges[1], "devices_list", **{"as": ann.user})
    assert sorted(one["id"] for one in found["result"]["devices"]) == left


async def test_all_sessions_are_ended_only_so_often(stack: Stack, edges: list[httpx.AsyncClient]) -> None:
    """Each call tells every edge of all sessions that ended lately.

    The log of these commands has room for 10,000, of all users.
    """
    _, mine = await person(stack, edges[0])
    _, theirs = await person(stack, edges[0])
    for number in range(MAX_ENDS):
        ended = await edges[number % 2].post("/auth/sessions/end_all", json={}, headers=bearer(mine))
        assert ended.status_code == 200
    too_many = await edges[1].post("/auth/sessions/end_all", json={}, headers=bearer(mine))
    assert too_many.status_code == 429
    assert 1 <= int(too_many.headers["retry-after"]) <= 60
    assert (await edges[1].post("/auth/sessions/end_all", json={}, headers=bearer(theirs))).status_code == 200
    new = {"old_password": PASSWORD, "new_password": "another battery horse"}
    assert (await edges[0].post("/auth/password", json=new, headers=bearer(mine))).status_code == 200


@pytest.mark.parametrize("ended_by", ["users_disable", "users_delete"])
async def test_a_user_who_is_disabled_or_deleted_is_out_on_every_edge_and_stays_out(
    stack: Stack, edges: list[httpx.AsyncClient], ended_by: str
) -> None:
    ann, pair = await person(stack, edges[0])
    for_years = stack.token(ann.user, ttl_s=None)  # of another issuer, and without `iat`
    phone = {"platform": "fcm", "token": secrets.token_hex(20)}
    assert (await edges[0].put("/chat/devices/phone", json=phone, headers=bearer(for_years))).status_code == 200
    async with AsyncExitStack() as opened:
        clients = []
        for url in stack.ws_urls:
            for token in (pair["access_token"], for_years):
                clients.append(await opened.enter_async_context(WireClient(url)))
                await clients[-1].connect(token)
        async with Lateness() as late:
            assert await api(stack, edges[0], ended_by, user=ann.user) == {"result": {}}
            for client in clients:
                assert (await client.expect_close())[0] == 3503
        assert late.took_s < WITHIN_S
    assert await api(stack, edges[0], "devices_list", **{"as": ann.user}) == {"result": {"devices": []}}
    later = stack.token(ann.user, iat=time.time() + 30)
    body = {"username": ann.name, "password": PASSWORD}
    for _ in range(2):
        for url, http in zip(stack.ws_urls, edges, strict=True):
            for token in (pair["access_token"], for_years, later):
                assert await refused_by(url, token) == 3500
                assert (await http.get("/auth/me", headers=bearer(token))).status_code == 401
            login = await http.post("/auth/login", json=body)
            assert login.status_code == (403 if ended_by == "users_disable" else 401)
            refresh = await http.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})
            assert refresh.status_code == 401
        await asyncio.sleep(2.5)  # auth has told the edges by then, too
    wrong = {**body, "password": "wrong password"}
    unknown = {"username": "nobody-at-all", "password": "wrong password"}
    answers = [(await edges[0].post("/auth/login", json=one)).text for one in (wrong, unknown)]
    assert answers[0] == answers[1], "whoever does not know the password does not learn that the user is disabled"


async def test_a_user_who_is_enabled_is_in_soon_and_old_sessions_are_not(
    stack: Stack, edges: list[httpx.AsyncClient]
) -> None:
    ann, pair = await person(stack, edges[0])
    for_years = stack.token(ann.user, ttl_s=None)
    for number in range(3):
        old = await ann.sign_in()
        await api(stack, edges[number % 2], "users_disable", user=ann.user)
        assert (await api(stack, edges[0], "users_get", user=ann.user))["result"]["disabled"] is True
        assert await api(stack, edges[(number + 1) % 2], "users_enable", user=ann.user) == {"result": {}}
        new = await ann.sign_in()
        async with asyncio.timeout(30):  # auth tells the edges
            while any([await refused_by(url, for_years) for url in stack.ws_urls]):
                await asyncio.sleep(0.05)
        for url, http in zip(stack.ws_urls, edges, strict=True):
            for token in (new["access_token"], for_years):
                assert await refused_by(url, token) == 0
                assert (await http.get("/auth/me", headers=bearer(token))).status_code == 200
            for token in (old["access_token"], pair["access_token"]):
                assert await refused_by(url, token) == 3500
        assert (await edges[0].post("/auth/refresh", json={"refresh_token": old["refresh_token"]})).status_code == 401
    await asyncio.sleep(2.5)
    assert await refused_by(stack.ws_urls[0], for_years) == 0


async def test_an_edge_that_starts_later_knows_who_is_disabled(stack: Stack, edges: list[httpx.AsyncClient]) -> None:
    ann, _ = await person(stack, edges[0])
    await api(stack, edges[0], "users_disable", user=ann.user)
    stack.restart("edge-2")
    assert await refused_by(stack.ws_urls[1], stack.token(ann.user)) == 3500
    stack.restart("auth")
    assert await refused_by(stack.ws_urls[1], stack.token(ann.user)) == 3500
    async with asyncio.timeout(20):  # until the edges call auth again
        for http in edges:
            while "result" not in await api(stack, http, "users_get", user=ann.user):
                await asyncio.sleep(0.1)


async def failing(stack: Stack, name: str) -> list[str]:
    """The checks of readiness that fail; "itself" where nobody answers."""
    async with httpx.AsyncClient(timeout=5) as http:
        try:
            found: list[str] = (await http.get(f"{stack.internal_urls[name]}/readyz")).json()["failing"]
        except httpx.TransportError:
            return ["itself"]
        return found


async def first_outcome(url: str, token: str) -> int:
    """How the first connection that an edge takes is closed; 0: it is not."""
    while True:
        with contextlib.suppress(OSError):  # the port is not open yet
            return await refused_by(url, token)
        await asyncio.sleep(0.005)


async def test_an_edge_takes_nobody_before_it_knows_who_is_disabled(
    stack: Stack, edges: list[httpx.AsyncClient]
) -> None:
    ann, _ = await person(stack, edges[0])
    await api(stack, edges[0], "users_disable", user=ann.user)
    token = stack.token(ann.user)
    await asyncio.to_thread(stack.terminate, "edge-2")
    await asyncio.to_thread(stack.stop, "auth")
    try:
        started = asyncio.create_task(asyncio.to_thread(stack.start, "edge-2"))
        outcome = asyncio.create_task(first_outcome(stack.ws_urls[1], token))
        async with asyncio.timeout(20):
            while await failing(stack, "edge-2") != ["accepting"]:  # all but auth is there
                assert not outcome.done()
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.3)
        assert not outcome.done()
    finally:
        await asyncio.to_thread(stack.cont, "auth")
    async with asyncio.timeout(20):
        assert await outcome == 3500
        await started


async def test_an_edge_that_is_stopped_while_it_waits_for_auth_ends_at_once_and_takes_nobody(stack: Stack) -> None:
    await asyncio.to_thread(stack.terminate, "edge-2")
    await asyncio.to_thread(stack.stop, "auth")
    try:
        begun = len(stack.lines("edge-2"))
        started = asyncio.create_task(asyncio.to_thread(stack.start, "edge-2"))
        async with asyncio.timeout(20):
            while await failing(stack, "edge-2") != ["accepting"]:
                await asyncio.sleep(0.005)
        await asyncio.to_thread(stack.terminate, "edge-2")
        said = "\n".join(stack.lines("edge-2")[begun:])
        assert "asked to stop" in said
        assert "auth does not answer: disabled" not in said, "it did not wait to the end"
        assert '"msg": "started"' not in said
    finally:
        await asyncio.to_thread(stack.cont, "auth")
    await started
    assert "edge-2 exited with code 0" in "\n".join(stack.lines("edge-2")[begun:])


async def test_an_edge_that_starts_while_auth_is_away_serves_tokens_of_others(stack: Stack) -> None:
    await asyncio.to_thread(stack.terminate, "edge-2")
    await asyncio.to_thread(stack.stop, "auth")
    try:
        await asyncio.to_thread(stack.start, "edge-2")
        assert await first_outcome(stack.ws_urls[1], stack.token("a-friend")) == 0
    finally:
        await asyncio.to_thread(stack.cont, "auth")


async def test_backends_make_find_and_list_users(stack: Stack, edges: list[httpx.AsyncClient]) -> None:
    name = f"bob-{secrets.token_hex(4)}"
    made = await api(stack, edges[0], "users_create", username=name, password=PASSWORD, display_name="Bob")
    bob = made["result"]
    assert (bob["username"], bob["display_name"], bob["version"], bob["disabled"]) == (name, "Bob", 1, False)
    again = await api(stack, edges[0], "users_create", username=name.upper(), password=PASSWORD)
    assert again["error"] == {"code": 107, "message": "bad request: that username is taken"}
    foreign = f"urn:user:{name}"
    assert (await api(stack, edges[0], "users_create", user=foreign))["result"]["username"] == ""
    assert (await api(stack, edges[1], "users_create", user=foreign))["error"]["code"] == 107
    for wrong in ({}, {"user": "a", "username": "bcd"}, {"username": "x", "password": PASSWORD}, {"username": "abcd"}):
        assert (await api(stack, edges[0], "users_create", **wrong))["error"]["code"] == 107, wrong
    found, after = [], ""
    while True:
        page = (await api(stack, edges[1], "users_list", limit=2, after=after))["result"]
        found += [user["user"] for user in page["users"]]
        after = page["next"]
        if not after:
            break
    assert len(found) == len(set(found))
    assert {bob["user"], foreign} <= set(found)
    for method in ("users_get", "users_update", "users_enable", "users_delete"):
        unknown = await api(stack, edges[0], method, user="nobody")
        assert unknown["error"] == {"code": 108, "message": "not available: there is no such user"}, method
    person_bob = Person(stack, edges[0], name)
    await person_bob.sign_in()
    assert await api(stack, edges[0], "users_password", user=bob["user"], password=FORGOTTEN) == {"result": {}}
    person_bob.password = FORGOTTEN
    await person_bob.sign_in()


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "me"), ("POST", "profile"), ("GET", "sessions"), ("POST", "password")]
)
async def test_whoever_is_not_signed_in_is_asked_for_a_token(
    stack: Stack, edges: list[httpx.AsyncClient], method: str, path: str
) -> None:
    for headers in ({}, bearer("nonsense"), bearer(stack.token("ann", ttl_s=-5)), bearer(stack.token(""))):
        response = await edges[0].request(method, f"/auth/{path}", headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith('Bearer realm="connection"')
        assert response.headers["cache-control"] == "no-store"


async def test_a_user_is_found_by_the_whole_name_unless_hidden_or_disabled(
    stack: Stack, edges: list[httpx.AsyncClient]
) -> None:
    (ann, mine), (bob, theirs) = await person(stack, edges[0]), await person(stack, edges[0])

    async def find(name: str, at: int = 0) -> httpx.Response:
        return await edges[at].post("/auth/find", json={"username": name}, headers=bearer(mine))

    unknown = await find("nobody-at-all")
    assert unknown.status_code == 404
    found = (await find(bob.name.upper(), 1)).json()["result"]
    assert (found["user"], found["username"]) == (bob.user, bob.name)
    assert not {"hidden", "created_at", "disabled"} & set(found)
    assert (await find(bob.name[:-1])).text == unknown.text
    await edges[0].post("/auth/profile", json={"hidden": True}, headers=bearer(theirs))
    assert (await find(bob.name, 1)).text == unknown.text
    await edges[0].post("/auth/profile", json={"hidden": False}, headers=bearer(theirs))
    assert (await find(bob.name)).status_code == 200
    await api(stack, edges[0], "users_disable", user=bob.user)
    assert (await find(bob.name)).text == unknown.text
    codes = [(await find("nobody-at-all", number % 2)).status_code for number in range(30)]
    assert set(codes) == {404, 429}
    assert ann.user


async def test_a_disable_beside_an_enable_leaves_every_edge_with_what_auth_says(
    stack: Stack, edges: list[httpx.AsyncClient]
) -> None:
    async def later(delay_s: float, call: Awaitable[object]) -> None:
        await asyncio.sleep(delay_s)
        await call

    users = [f"race-{secrets.token_hex(4)}" for _ in range(12)]
    for number, user in enumerate(users):
        await api(stack, edges[0], "users_disable", user=user)  # nobody knows the user yet
        await asyncio.gather(
            api(stack, edges[0], "users_enable", user=user),
            later(0.002 * (number % 5), api(stack, edges[1], "users_disable", user=user)),
        )
    await asyncio.sleep(2.5)
    for user in users:
        is_disabled = (await api(stack, edges[0], "users_get", user=user))["result"]["disabled"]

        async def is_known(user: str = user, is_disabled: bool = is_disabled) -> bool:
            refused = [bool(await refused_by(url, stack.token(user))) for url in stack.ws_urls]
            return refused == [is_disabled] * 2

        await until(is_known, what=f"{user}: {is_disabled}")


async def test_a_deleted_user_comes_back_by_nothing(stack: Stack, edges: list[httpx.AsyncClient]) -> None:
    user = f"urn:{secrets.token_hex(4)}"
    token = stack.token(user)
    await api(stack, edges[0], "users_create", user=user)
    await api(stack, edges[0], "users_delete", user=user)
    assert (await api(stack, edges[1], "users_create", user=user))["error"]["code"] == 107
    for method in ("users_enable", "users_disable", "users_get"):
        assert (await api(stack, edges[0], method, user=user))["error"]["code"] == 108
    await asyncio.sleep(2.5)
    assert [await refused_by(url, token) for url in stack.ws_urls] == [3500] * 2


async def test_to_delete_somebody_unknown_takes_no_grants(stack: Stack, edges: list[httpx.AsyncClient]) -> None:
    user = f"unknown-{secrets.token_hex(4)}"
    await api(stack, edges[0], "grants_give", user=user, channels=["chat:b"], operations=["publish"])
    assert (await api(stack, edges[0], "users_delete", user=user))["error"]["code"] == 108
    assert len((await api(stack, edges[1], "grants_list", user=user))["result"]["grants"]) == 1


async def test_a_new_password_is_finished_by_a_repeat_after_an_edge_did_not_answer(
    stack: Stack, edges: list[httpx.AsyncClient]
) -> None:
    ann, first = await person(stack, edges[0])
    pairs = [first] + [await ann.sign_in() for _ in range(2)]
    await asyncio.to_thread(stack.stop, "edge-2")
    try:
        failed = await api(stack, edges[0], "users_password", user=ann.user, password=FORGOTTEN)
    finally:
        await asyncio.to_thread(stack.cont, "edge-2")
    assert failed["error"]["code"] == 100
    assert [await refused_by(stack.ws_urls[0], pair["access_token"]) for pair in pairs] == [3500] * 3, "all were tried"
    async with asyncio.timeout(20):
        while "result" not in await api(stack, edges[0], "users_password", user=ann.user, password=FORGOTTEN):
            await asyncio.sleep(0.2)
    for url in stack.ws_urls:
        assert [await refused_by(url, pair["access_token"]) for pair in pairs] == [3500] * 3


async def test_a_user_is_deleted_also_while_an_edge_does_not_answer(
    stack: Stack, edges: list[httpx.AsyncClient]
) -> None:
    ann, pair = await person(stack, edges[0])
    await api(stack, edges[0], "grants_give", user=ann.user, channels=["chat:b"], operations=["publish"])
    await asyncio.to_thread(stack.stop, "edge-2")
    try:
        deleted = await api(stack, edges[0], "users_delete", user=ann.user)
    finally:
        await asyncio.to_thread(stack.cont, "edge-2")
    assert deleted == {"result": {}}
    assert (await api(stack, edges[0], "users_get", user=ann.user))["error"]["code"] == 108
    assert (await api(stack, edges[0], "grants_list", user=ann.user))["result"]["grants"] == []
    async with asyncio.timeout(30):
        while (await edges[1].get("/auth/me", headers=bearer(pair))).status_code != 401:
            await asyncio.sleep(0.1)
    assert [await refused_by(url, pair["access_token"]) for url in stack.ws_urls] == [3500] * 2


async def test_who_else_signs_tokens_sees_and_ends_no_sessions(stack: Stack, edges: list[httpx.AsyncClient]) -> None:
    ann, pair = await person(stack, edges[0])
    (session,) = (await edges[0].get("/auth/sessions", headers=bearer(pair))).json()["result"]["sessions"]
    for foreign in (stack.token(ann.user), stack.token(ann.user, sid="of-another-server")):
        assert (await edges[0].get("/auth/sessions", headers=bearer(foreign))).json()["result"] == {"sessions": []}
        for path, body in (("end", {"session": session["session"]}), ("end_all", {"this": True})):
            refused = await edges[1].post(f"/auth/sessions/{path}", json=body, headers=bearer(foreign))
            assert refused.status_code == 404
    assert (await edges[0].get("/auth/me", headers=bearer(pair))).status_code == 200
    stranger = bearer(stack.token(f"kc-{secrets.token_hex(4)}", sid="of-another-server"))
    assert (await edges[0].post("/auth/profile", json={"status": "here"}, headers=stranger)).status_code == 200


async def test_a_page_of_large_profiles_is_a_page(stack: Stack, edges: list[httpx.AsyncClient]) -> None:
    values = {"custom": "x" * 2_040, "avatar_url": "https://x.example/" + "a" * 2_000, "status": "\u4e16" * 140}
    mark = secrets.token_hex(4)
    for start in range(0, 960, 40):
        users = [f"{mark}-{number}" for number in range(start, start + 40)]
        await asyncio.gather(*(api(stack, edges[0], "users_create", user=user, **values) for user in users))
    found, after = 0, ""
    while True:
        page = (await api(stack, edges[0], "users_list", limit=1_000, after=after))["result"]
        found += sum(user["user"].startswith(mark) for user in page["users"])
        after = page["next"]
        if not after:
            break
    assert found == 960
