"""Deltas with the official SDKs, over two edges, a cut and a resubscribe.

Patches with the decoders of JavaScript.
"""

from __future__ import annotations

import json
import random
import secrets
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.edge.protocols.centrifugal import fossil
from tests.support.deltas import payloads
from tests.support.sdk import CLIENTS, SDKS, run_scenario
from tests.support.stack import Stack
from tests.support.tcp_proxy import TcpProxy

_ROOT = Path(__file__).parents[3]
_STATES = """
[namespaces.states]
delta = "fossil"
recovery = "force"
subscribe = ["authenticated"]
publish = ["subscriber"]
history = ["subscriber"]
"""
_SCRIPT = Path(__file__).parent / "deltas.mjs"
_COUNT = 4_000


@pytest.fixture(scope="module")
def stack_of_states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two edges with the default channels and a namespace with deltas."""
    channels = tmp_path_factory.mktemp("channels") / "channels.toml"
    channels.write_text((_ROOT / "config" / "channels.toml").read_text(encoding="utf-8") + _STATES, encoding="utf-8")
    with Stack(channels_file=channels) as running:
        yield running


@pytest.mark.parametrize(("sdk", "encoding"), CLIENTS)
async def test_deltas_by_an_sdk(
    sdk: str, encoding: str, request: pytest.FixtureRequest, stack_of_states: Stack
) -> None:
    command: list[str] = request.getfixturevalue(SDKS[sdk])
    edge1, edge2 = stack_of_states.ws_urls[:2]
    host, port = edge2.removeprefix("ws://").split("/", maxsplit=1)[0].split(":")
    async with TcpProxy(host, int(port)) as proxy:
        addresses = {
            "edge1": edge1,
            "edge2": edge2,
            "proxied2": edge2.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}"),
            "run": secrets.token_hex(4),
            "version": sdk.rpartition("-")[2],
        }

        def token(user: str, ttl_s: float, claims: dict[str, object]) -> str:
            return stack_of_states.token(user, ttl_s=ttl_s, **claims)

        code, errors = await run_scenario([*command, "deltas"], addresses, token, proxy, encoding=encoding)
    assert code == 0, errors


def test_random_patches_are_read_by_both_decoders_of_centrifuge_js(javascript: list[str]) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    pairs = list(payloads(seed, _COUNT))
    texts = [_is_json(base) and _is_json(result) for base, result in pairs]
    assert 0 < sum(texts) < _COUNT
    cases = [
        [is_text, b64encode(base).decode(), b64encode(fossil.create(base, result)).decode()]
        for is_text, (base, result) in zip(texts, pairs, strict=True)
    ]
    node = javascript[0]
    done = subprocess.run(
        [node, str(_SCRIPT)],
        input="\n".join(map(json.dumps, cases)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    results = [b64decode(line) for line in done.stdout.splitlines()]
    assert results == [result for _, result in pairs]


def _is_json(data: bytes) -> bool:
    """Whether the JSON decoder, which parses what it made, can take it."""
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
