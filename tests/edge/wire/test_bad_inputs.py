"""Bad inputs by row: what a misused command is answered with.

Rows B01 to B21 are the transport's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from services.shared.namespaces import Permission
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace

NOBODY = frozenset({Permission.NOBODY})
SEALED = replace_namespace(OPEN, subscribe=NOBODY, publish=NOBODY, history=NOBODY, presence_read=NOBODY)


@dataclass(frozen=True)
class Row:
    """Frames from a client, and what must come of the last one.

    A close code, or the codes of its replies.
    """

    frames: tuple[str, ...]
    close: int = 0
    codes: tuple[int, ...] = ()
    connect: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    json_only: bool = False  # its syntax or its types are wrong


def command(number: int, name: str, body: str = "{}") -> str:
    return f'{{"id":{number},"{name}":{body}}}'


ROWS = {
    "B10-subscribe-first": Row((command(1, "subscribe", '{"channel":"a"}'),), 3501, connect=False),
    "B10-pong-first": Row(("{}",), 3501, connect=False),
    "B10-send-first": Row(('{"send":{"data":1}}',), 3501, connect=False),
    "B22-not-json": Row(("nonsense",), 3501, json_only=True),
    "B22-not-an-object": Row(("[]",), 3501, json_only=True),
    "B22-no-command": Row(('{"id":2}',), 3501),
    "B22-unknown-command": Row((command(2, "nope"),), 3501),
    "B23-wrong-type": Row((command(2, "subscribe", '{"channel":[]}'),), 3501, json_only=True),
    "B23-out-of-range": Row((command(2, "history", '{"channel":"a","limit":9999999999}'),), 3501, json_only=True),
    "B23-nan": Row((command(2, "publish", '{"channel":"a","data":NaN}'),), 3501, json_only=True),
    "B23-right-type-not-allowed": Row(
        (command(2, "history", '{"channel":"h:a","since":{"offset":0},"reverse":true,"limit":1}'),), codes=(107,)
    ),
    "B23-the-last-duplicate-wins": Row(('{"id":5,"id":2,"rpc":{}}',), codes=(104,), json_only=True),
    "B24-id-reused": Row(("\n".join([command(2, "rpc"), command(2, "rpc")]),), codes=(104, 104)),
    "B24-id-0": Row((command(0, "rpc"),), 3501),
    "B24-id-negative": Row((command(-1, "rpc"),), 3501, json_only=True),
    "B24-id-too-big": Row((command(2**32, "rpc"),), 3501, json_only=True),
    **{
        f"B25-{name}-{what}": Row((command(2, name, body),), close, codes)
        for name in ("subscribe", "publish", "presence", "presence_stats", "history")
        for what, body, close, codes in (
            ("absent", '{"data":1}', 3501, ()),
            ("empty", '{"channel":"","data":1}', 3501, ()),
            ("too-long", '{"channel":"' + "x" * 256 + '","data":1}', 0, (107,)),
            ("control", '{"channel":"a\\u0001","data":1}', 0, (107,)),
            ("blank", '{"channel":"a b","data":1}', 0, (107,)),
            ("non-ascii", '{"channel":"é","data":1}', 0, (107,)),
            ("hash-tag", '{"channel":"{a}","data":1}', 0, (107,)),
            ("reserved", '{"channel":"a*","data":1}', 0, (107,)),
        )
    },
    **{
        f"B26-{name}": Row((command(2, name, '{"channel":"sealed:x","data":1}'),), codes=(103,))
        for name in ("subscribe", "publish", "presence", "presence_stats", "history")
    },
    "B26-another-users-channel": Row((command(2, "subscribe", '{"channel":"dm#bob,carol"}'),), codes=(103,)),
    "B26-private-channel": Row((command(2, "subscribe", '{"channel":"$x"}'),), codes=(103,)),
    "B27-subscribe-twice": Row(
        (command(2, "subscribe", '{"channel":"a"}'), command(3, "subscribe", '{"channel":"a"}')), codes=(105,)
    ),
    "B27-too-many-subscriptions": Row(
        (command(2, "subscribe", '{"channel":"a"}'), command(3, "subscribe", '{"channel":"b"}')),
        codes=(106,),
        settings={"channels_per_client": 1},
    ),
    "B28-too-large": Row(
        (
            command(2, "subscribe", '{"channel":"a"}'),
            command(3, "publish", '{"channel":"a","data":"' + "x" * 32_767 + '"}'),
        ),
        codes=(106,),
    ),
}


_JSON_ONLY = pytest.mark.json_only("its syntax or its types are wrong; Protobuf has others: test_protobuf_wire.py")


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=name, marks=[_JSON_ONLY] * row.json_only) for name, row in ROWS.items()]
)
async def test_bad_input(row: Row) -> None:
    cluster = Cluster(sealed=SEALED, h=replace_namespace(OPEN, history=frozenset({Permission.AUTHENTICATED})))
    node = cluster.edge(**row.settings)
    bystander = await connected(cluster, node, "bystander")
    await bystander.call(subscribe={"channel": "a"})
    client = await connected(cluster, node) if row.connect else Client(cluster, node)
    *before, last = row.frames
    await client.raw(*before)
    seen = len(client.lines)
    await client.raw(last)
    replies = [line for line in client.lines[seen:] if "id" in line]
    if row.close:
        assert client.closed is not None
        assert client.closed[0] == row.close
        assert replies == []
    else:
        assert client.closed is None
        assert tuple(reply["error"]["code"] for reply in replies) == row.codes
    await bystander.call(publish={"channel": "a", "data": "unharmed"})
    assert bystander.publications("a")[-1]["data"] == "unharmed"


async def test_B10_no_connect_within_ten_seconds_closes_3502() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    await cluster.advance(10.2)
    assert client.closed == (3502, "stale")


async def test_B27_unsubscribing_what_is_not_subscribed_has_no_effect() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    assert await client.call(unsubscribe={"channel": "never"}) == {}


@pytest.mark.parametrize("name", ["subscribe", "publish", "presence", "presence_stats", "history"])
async def test_B26_the_reply_is_the_same_whether_or_not_the_channel_exists(name: str) -> None:
    cluster = Cluster(sealed=SEALED)
    node = cluster.edge()
    insider = await connected(cluster, node, "insider", claims={"channels": ["sealed:there"]})
    assert "sealed:there" in node.hub.channels
    client = await connected(cluster, node)
    errors = []
    for channel in ("sealed:there", "sealed:not-there"):
        reply = await client.reply(**{name: {"channel": channel, **({"data": 1} if name == "publish" else {})}})
        errors.append(reply["error"])
    assert errors[0] == errors[1]
    assert errors[0]["code"] == 103
    assert "sealed:not-there" not in node.hub.channels
    assert insider.publications("sealed:there") == []
