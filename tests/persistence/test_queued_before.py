"""A persistence of before stores what was acknowledged before it was stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.persistence.test_queued import begun, history, publish, publish_and_die
from tests.persistence.test_replicas import Process
from tests.support.before import checkout_of_before, environment_of
from tests.support.persistence import Site
from tests.support.redis import RedisServer
from tests.support.waiting import until


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout_of_before(tmp_path_factory.mktemp("before"))


async def test_a_sweep_of_before_stores_what_was_acknowledged_early(
    site: Site, redis_server: RedisServer, checkout: Path, tmp_path: Path
) -> None:
    dying = begun(site.process())
    first = await publish(dying, "one")
    await publish_and_die(site, dying, "two")
    before = Process(redis_server.url, tmp_path / "log.sqlite3", PYTHONSAFEPATH="1", **environment_of(checkout))
    await before.start()

    async def both_are_stored() -> bool:
        return len(await site.stored()) == 2

    try:
        await until(both_are_stored)
    finally:
        before.close()
    assert await site.stored() == [(1, "one"), (2, "two")]
    now = site.process()
    now.incarnation = "run1.1"
    after = await publish(now, "three")
    assert (after.epoch, after.offset) == (first.epoch, 3)
    assert await history(now) == [(1, "one"), (2, "two"), (3, "three")]
