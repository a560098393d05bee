"""Binary data by the official SDKs in Protobuf; JSON clients are refused.

On Node.js, in Python and in Chromium.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sdk import CLIENTS, SDKS, run_scenario
from tests.support.stack import Stack
from tests.support.tcp_proxy import TcpProxy
from tests.web.test_console import chromium, node, playwright  # noqa: F401  # fixtures

ROOT = Path(__file__).parents[3]
WEB = ROOT / "tests" / "web"
SDK = ROOT / "tests" / "integration" / "sdk" / "node_modules" / "centrifuge" / "dist" / "centrifuge.protobuf.js"
BYTES = """
[namespaces.bytes]
data_format = "binary"
recovery = "force"
presence = true
join_leave = "allow"
subscribe = ["authenticated"]
publish = ["subscriber"]
history = ["subscriber"]
presence_read = ["subscriber"]
"""


@pytest.fixture(scope="module")
def stack_of_bytes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two edges with the default channels and a namespace of bytes."""
    channels = tmp_path_factory.mktemp("channels") / "channels.toml"
    channels.write_text((ROOT / "config" / "channels.toml").read_text(encoding="utf-8") + BYTES, encoding="utf-8")
    with Stack(channels_file=channels) as running:
        yield running


@pytest.mark.parametrize(("sdk", "encoding"), CLIENTS)
async def test_bytes_by_an_sdk(sdk: str, encoding: str, request: pytest.FixtureRequest, stack_of_bytes: Stack) -> None:
    command: list[str] = request.getfixturevalue(SDKS[sdk])
    edge1, edge2 = stack_of_bytes.ws_urls[:2]
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
            return stack_of_bytes.token(user, ttl_s=ttl_s, **claims)

        code, errors = await run_scenario([*command, "binary"], addresses, token, proxy, encoding=encoding)
    assert code == 0, errors


@pytest.mark.usefixtures("playwright", "javascript")
@pytest.mark.slow
def test_protobuf_in_chromium(node: str, chromium: str, stack_of_bytes: Stack, tmp_path: Path) -> None:  # noqa: F811
    """Connect, subscribe, publish, presence, history, recovery, bytes."""
    tokens = [stack_of_bytes.token(user) for user in ("alice", "bob")]
    command = [node, str(WEB / "protobuf.mjs"), stack_of_bytes.http_urls[0], str(tmp_path / "profile"), chromium]
    done = subprocess.run([*command, str(SDK), *tokens], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
