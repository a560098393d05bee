"""What `/openapi.json` says is what the edge does.

Schemathesis, the examples, and answers with something in them.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from services.edge.api.chat_examples import GROUP
from services.edge.api.openapi import EXAMPLES, EXAMPLES_OF_ACCOUNTS
from tests.support.full import sized
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

SEED = 20_261
EXAMPLES_EACH = sized(12, 40)
LIMIT_S = sized(600, 3_600)  # a hang, not a slow machine
# A body that breaks a rule and is too long as well may be answered with 413: the length is checked first.
CONFIGURATION = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 414, 415, 422, 428, 429, "5xx"]
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    without_limits = {"AUTH_ATTEMPTS_PER_ADDRESS": "0", "AUTH_LOGINS_PER_ACCOUNT": "1000000"}
    with Stack(edges=1, environment={**without_limits, "PERSISTENCE_SEARCH": "on"}) as running:
        yield running


async def test_every_example_works_as_it_is_prefilled(stack: Stack) -> None:
    """The first of this module: a name can be registered once."""
    async with httpx.AsyncClient(base_url=stack.http_urls[0], headers={"X-API-Key": stack.api_key}) as http:
        document = (await http.get("/openapi.json")).json()
        found = _examples(document)
        assert len(found) == len(EXAMPLES | EXAMPLES_OF_ACCOUNTS)
        for path, example in found.items():
            if path in ("/api/users_password", "/api/invites_revoke") or example.get("channel") == GROUP:
                continue  # nobody knows these ids in advance
            if path == "/api/messages_delete":
                continue  # others need the message: see below
            response = await http.post(path, json=example)
            assert response.status_code == 200, (path, response.text)
            assert set(response.json()) == {"result"}, (path, response.text)
            assert '"error"' not in response.text, (path, response.text)
        response = await http.post("/api/messages_delete", json=found["/api/messages_delete"])
        assert response.json()["result"]["applied"], response.text


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
def test_schemathesis_finds_nothing(stack: Stack, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    run = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{stack.http_urls[0]}/openapi.json"),
            *("--header", f"X-API-Key: {stack.api_key}", "--checks", "all", "--continue-on-failure", "--no-color"),
            *("--max-examples", str(EXAMPLES_EACH), "--seed", str(SEED), "--workers", "2"),
            *("--generation-deterministic", "--request-timeout", "20"),
            "--suppress-health-check=filter_too_much",  # it says something of its own generators, not of the edge
        ],
        cwd=tmp_path,
        env=os.environ | {"NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    print(run.stdout[-20_000:], run.stderr[-2_000:])
    assert run.returncode == 0
    operations = sum(map(len, httpx.get(f"{stack.http_urls[0]}/openapi.json").json()["paths"].values()))
    assert f"{operations} selected / {operations} total" in run.stdout


def _examples(document: dict[str, Any]) -> dict[str, Any]:
    """The examples of backends and of accounts, by path.

    Those of `/chat` have no channel that exists.
    """
    found = {}
    for path, methods in document["paths"].items():
        if path.startswith("/chat/"):
            continue
        content = methods.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        if "example" in content:
            found[path] = content["example"]
    return found


async def test_answers_that_have_something_in_them_are_as_described(stack: Stack) -> None:
    async with (
        httpx.AsyncClient(base_url=stack.http_urls[0], headers={"X-API-Key": stack.api_key}) as http,
        WireClient(stack.ws_urls[0]) as client,
    ):
        document = (await http.get("/openapi.json")).json()

        async def check(path: str, body: Any, status: int = 200, **headers: str) -> Any:
            content = body if isinstance(body, bytes) else json.dumps(body)
            response = await http.post(path, content=content, headers=headers)
            assert response.status_code == status, response.text
            described = document["paths"][path]["post"]["responses"][str(status)]
            schema = described["content"]["application/json"]["schema"] | {"components": document["components"]}
            jsonschema_rs.validator_for(schema).validate(response.json())
            assert set(described.get("headers", {})) <= {
                name.title().replace("Www", "WWW") for name in response.headers
            }
            return response.json()

        await client.connect(stack.token("ann", info={"name": "Ann"}))
        await client.subscribe("chat:full")
        await client.publish("chat:full", {"n": 1})
        await check("/api/publish", {"channel": "chat:full", "data": [1.0], "tags": {"a": "b"}})
        await check("/api/publish", {"channel": "tick:full", "data": 1})
        await check("/api/publish", {"channel": "nope:full", "data": 1})
        await check("/api/broadcast", {"channels": ["chat:full", "nope:x", "tick:x"], "data": None})
        page = await check("/api/history", {"channel": "chat:full", "limit": -1})
        assert [set(one) - {"time"} for one in page["result"]["publications"]][:2] == [
            {"data", "offset", "info"},
            {"data", "offset", "tags"},
        ]
        assert (await check("/api/presence", {"channel": "chat:full"}))["result"]["presence"]
        assert (await check("/api/channels", {}))["result"]["channels"]
        assert (await check("/api/info", {}))["result"]["nodes"]
        await check("/api/batch", {"commands": [{"info": {}}, {"nope": {}}, {"presence": {"channel": "nope:x"}}]})
        await check("/api/publish", {"channel": "chat:full", "data": 1}, 401, **{"X-API-Key": "wrong"})
        await check("/api/publish", {"channel": "chat:full", "dat": 1}, 400)
        await check("/api/publish", b'{"channel":"chat:full","data":"' + b"x" * 1_048_576 + b'"}', 413)
        user = {"username": "described", "password": "correct horse battery"}
        pair = (await check("/auth/register", user))["result"]
        await check("/auth/register", user, 409)
        await check("/auth/login", user | {"password": "another one"}, 401)
        await check("/auth/login", user | {"password": "x" * 1_025}, 400)
        await check("/auth/login", user | {"cookie": True}, 403, Origin="https://elsewhere.example")
        await check("/auth/login", b'{"username":"' + b"x" * 8_192 + b'"}', 413)
        newer = (await check("/auth/refresh", {"refresh_token": pair["refresh_token"]}))["result"]
        await check("/auth/refresh", {"refresh_token": pair["refresh_token"]}, 401)
        await check("/auth/logout", {"refresh_token": newer["refresh_token"]})
        stack.kill9("auth")
        await asyncio.sleep(0.1)
        await check("/auth/login", user, 503)
        described = document["paths"]["/auth/registration"]["get"]["responses"]["200"]["content"]["application/json"]
        answer = (await http.get("/auth/registration")).json()
        jsonschema_rs.validator_for(described["schema"] | {"components": document["components"]}).validate(answer)
        assert answer == {"result": {"registration": "open"}}, "it is known although auth is away"
        stack.wait_ready("auth")
