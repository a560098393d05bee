"""The transcript of docs/protocol.md is what an edge really says.

Its other numbers are those of the code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from services.edge.domain.channels.publisher import MAX_TAGS
from services.edge.domain.settings import Settings
from services.edge.protocols.centrifugal.codec import MAX_COMMANDS, MAX_ENTRIES
from services.edge.transport.options import TransportOptions
from services.shared.errors import ErrorCode, UnsubscribeCode
from services.shared.json_text import MAX_NESTING
from services.shared.namespaces import load_namespaces
from tests.support.edge import PROTOBUF, Client, Cluster

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
STEP = re.compile(r"([AB])(>|<| closed) (.*)")
EPOCH = "khFzNyMu"


def steps() -> list[tuple[str, str, str]]:
    (transcript,) = re.findall(r"## 19\. Transcript\n.*?```\n(.*?)```", PAGE, re.DOTALL)
    found = [STEP.fullmatch(line) for line in transcript.splitlines()]
    return [(match[1], match[2], match[3]) for match in found if match]


def canonical(line: dict[str, Any]) -> str:
    return json.dumps(line, sort_keys=True)


async def test_19_the_transcript_is_what_an_edge_says(encoding: str) -> None:
    namespaces = load_namespaces(ROOT / "config" / "channels.toml")
    cluster = Cluster(default=namespaces.default)
    node = cluster.edge()
    clients = {name: Client(cluster, node, client_id=name.lower() * 4) for name in "AB"}
    expected: dict[str, list[str]] = {"A": [], "B": []}
    seen = {"A": 0, "B": 0}
    outgoing: dict[str, list[str]] = {"A": [], "B": []}

    async def flush() -> None:
        for name, lines in outgoing.items():
            if lines:
                await clients[name].raw("\n".join(lines))
                lines.clear()

    async def check() -> None:
        """All that was to come has come, and nothing else; within a step in any order."""
        await flush()
        for name, client in clients.items():
            text = json.dumps(client.lines[seen[name] :]).replace("epoch1", EPOCH)
            assert sorted(map(canonical, json.loads(text))) == sorted(expected[name]), name
            seen[name] = len(client.lines)
            expected[name].clear()

    for name, kind, text in steps():
        if kind == ">":
            if any(expected.values()):
                await check()
            if encoding == PROTOBUF and text == steps()[-2][2]:
                break  # the message that is not a command, and the close: a JSON text of the wrong type
            line = text.replace(EPOCH, "epoch1")
            for user in ("alice", "bob"):
                token = cluster.token(user, ttl_s=None, info={"name": user.title()})
                line = line.replace(f"<{user}>", token)
            outgoing[name].append(line)
        elif text == "{}":
            await check()
            while not clients[name].lines.count({}):
                await cluster.advance(0.5)
            seen[name] = len(clients[name].lines)
        elif kind == "<":
            expected[name].append(canonical(json.loads(text)))
        else:
            await flush()
            code, reason = text.split(" ", 1)
            assert clients[name].closed == (int(code), reason)
    assert len(steps()) > 40


def test_8_the_codes_of_the_page_are_those_of_the_code() -> None:
    for code in ErrorCode:
        assert f"| {int(code)} | {code.message}" in PAGE
    for unsubscribe in set(UnsubscribeCode) - {UnsubscribeCode.STATE_INVALIDATED}:
        assert f"| {int(unsubscribe)} | {unsubscribe.reason} |" in PAGE


def test_17_the_limits_of_the_page_are_those_of_the_code() -> None:
    settings = Settings()
    for row in (
        f"under {TransportOptions().compression_min_bytes} bytes (`EDGE_COMPRESSION_MIN_BYTES`)",
        f"(namespace), {MAX_TAGS} tags | error 106 |",
        f"| commands in a message | {MAX_COMMANDS:,} |",
        f"| entries of `subs` and of `headers` in connect | {MAX_ENTRIES:,} each |",
        f"counted from the command | {MAX_NESTING} |",
        f"| commands | {settings.commands_per_s:.0f} per second, {settings.commands_burst} at once;",
        f"| subscriptions of a connection | {settings.channels_per_client} |",
        f"| connections of a user, on all edges | {settings.connections_per_user} |",
        f"| history page | {settings.history_limit} publications, 1 MiB |",
        f"| recovery | {settings.recovery_total:,} publications |",
        f"| idempotency key | {settings.idempotency_key_max_bytes} bytes |",
    ):
        assert row in PAGE
