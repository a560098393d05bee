"""What comes while a member who recovers is asked about."""

from __future__ import annotations

import pytest

from services.edge.domain.chat.ports import Access
from tests.support.edge import Cluster, connected, settle
from tests.support.edge_chat import CONV, GROUP
from tests.support.waiting import until


@pytest.mark.parametrize("count", [1, 5])
async def test_c32_what_is_said_while_the_membership_is_confirmed_makes_no_recovery_fail(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: what the ring has beyond the join is taken for a hole."""
    cluster = Cluster(conv=CONV)
    chat, node = cluster.chat, cluster.edge()
    chat.begin("ann", "bob")
    for number in range(5):
        chat.says(GROUP, "ann", f"before {number}")
    await (await connected(cluster, node, "ann")).call(subscribe={"channel": GROUP})
    since = chat.position(GROUP)
    chat.says(GROUP, "ann", "missed")
    await settle()
    check = chat.check

    async def check_slowly(channel: str, user: str) -> Access:
        access = await check(channel, user)
        for number in range(count):
            chat.says(GROUP, "ann", f"meanwhile {number}")
        await settle()
        return access

    monkeypatch.setattr(chat, "check", check_slowly)
    bob = await connected(cluster, node, "bob")
    asked = {"channel": GROUP, "recover": True, "epoch": since.epoch, "offset": since.offset}
    command_id = await bob.post(subscribe=asked)
    await until(lambda: any(line.get("id") == command_id for line in bob.lines))
    (result,) = (line["subscribe"] for line in bob.lines if line.get("id") == command_id)
    await settle()
    assert result["recovered"]
    top = chat.position(GROUP)
    assert top.offset == since.offset + 1 + 2 * count, "it was asked about again, behind the join"
    got = [one["offset"] for one in [*result.get("publications", []), *bob.publications(GROUP)]]
    assert got == list(range(since.offset + 1, top.offset + 1))
