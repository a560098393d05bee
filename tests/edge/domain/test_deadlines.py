"""What a session's deadlines leave behind."""

from __future__ import annotations

import gc

import pytest

from services.edge.domain.session.session import Session
from tests.support.edge import Cluster, connected


@pytest.mark.parametrize("ended_here", [False, True])
async def test_a_session_that_is_over_goes_with_its_last_reference(ended_here: bool) -> None:
    """The collector of an edge runs rarely: what waits for it would add up."""
    cluster = Cluster()
    node = cluster.edge()
    client = await connected(cluster, node)
    await client.call(subscribe={"channel": "a"})
    gc.collect()
    gc.disable()
    try:
        if ended_here:
            client.session.disconnect(3503, "force disconnect")
        await client.hang_up()
        await cluster.advance(60)
        del client
        assert not [one for one in gc.get_objects() if isinstance(one, Session) and one.node is node]
    finally:
        gc.enable()


async def test_what_still_runs_after_the_end_finds_nothing_due(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    session = client.session
    await client.hang_up()
    session.deadlines.reschedule()
    session.deadlines.deadline_passed(cluster.clock.now + 1_000)
    assert session.deadlines.set_expiry(cluster.clock.unix + 10) == 10
    assert not caplog.records
