"""Publishing: what is refused, which log gets the rest, what the caller is told.

The logs are in memory; Redis and the store have a log each, so it shows who got a publication.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from services.edge.domain.channels.publish_admission import ALWAYS
from services.edge.domain.channels.publisher import Outcome, Publisher
from services.edge.domain.model import AppendResult, ClientInfo, Publication
from services.edge.domain.settings import Settings
from services.edge.domain.timings import ACK_SECONDS
from services.shared.errors import Busy, ErrorCode, ThalamusError, Unavailable
from services.shared.namespaces import DataFormat, Durability, Namespace, Namespaces
from tests.support.edge import settle
from tests.support.memory import MemoryBroker, MemoryBus, MemoryStore

HOT = Namespace(name="hot", history_size=5, max_data_bytes=100)
STORED = replace(HOT, name="stored", durability=Durability.STORED)
NONE = replace(HOT, name="none", durability=Durability.NONE)
OBJECTS = replace(HOT, name="objects", data_format=DataFormat.OBJECT)
NAMESPACES = Namespaces(None, {one.name: one for one in (HOT, STORED, NONE, OBJECTS)})
NOW_MS = 1_800_000_000_000


class Log:
    """What a log was asked for; it answers once `go` is set, or fails with `error`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.error: BaseException | None = None
        self.asked: list[dict[str, Any]] = []

    async def answer(self, channel: str, publication: Publication, **options: Any) -> None:
        self.asked.append({"channel": channel, "publication": publication, **options})
        await self.go.wait()
        if self.error is not None:
            raise self.error


class WatchedBroker(MemoryBroker):
    """Appends give a future, as those of the real broker do."""

    def __init__(self, bus: MemoryBus) -> None:
        super().__init__(bus)
        self.log = Log()

    def append(self, channel: str, publication: Publication, **options: Any) -> Awaitable[AppendResult]:  # type: ignore[override]
        async def done() -> AppendResult:
            await self.log.answer(channel, publication, **options)
            return await MemoryBroker.append(self, channel, publication, **options)

        return asyncio.ensure_future(done())


class WatchedStore(MemoryStore):
    """Appends give a coroutine."""

    def __init__(self, bus: MemoryBus) -> None:
        super().__init__(bus)
        self.log = Log()

    async def append(self, channel: str, publication: Publication, **options: Any) -> AppendResult:
        await self.log.answer(channel, publication, **options)
        return await super().append(channel, publication, **options)


class Listener:
    """A subscriber of every channel, at pub/sub."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str, Publication]] = []

    def publication(self, channel: str, epoch: str, publication: Publication) -> None:
        self.received.append((channel, epoch, publication))


class Rig:
    """A publisher with its two logs, and a clock that the test moves."""

    def __init__(self, **settings: Any) -> None:
        self.redis, self.disk = MemoryBus(), MemoryBus()
        self.broker, self.store = WatchedBroker(self.redis), WatchedStore(self.disk)
        self.listener = Listener()
        self.broker.listener = self.listener  # type: ignore[assignment]
        self.broker.subscribed = {"hot:a", "none:a", "stored:a"}
        self.now = 50.0
        self.publisher = Publisher(self.broker, self.store, NAMESPACES, Settings(**settings), lambda: self.now)
        self.outcomes: list[Outcome] = []

    async def publish(self, namespace: Namespace, data: bytes | None = b"1", **options: Any) -> AppendResult:
        return await self.publisher.publish(f"{namespace.name}:a", namespace, data, time_ms=NOW_MS, **options)

    async def refusal(self, namespace: Namespace, data: bytes | None = b"1", **options: Any) -> ThalamusError:
        with pytest.raises(ThalamusError) as caught:
            await self.publish(namespace, data, **options)
        assert self.nothing_was_done
        return caught.value

    def begin(self, namespace: Namespace, data: bytes | None = b"1", **options: Any) -> None:
        self.publisher.begin(f"{namespace.name}:a", namespace, data, self.outcomes.append, time_ms=NOW_MS, **options)

    @property
    def nothing_was_done(self) -> bool:
        return not (
            self.broker.log.asked or self.store.log.asked or self.listener.received or self.waiting != (0, 0, 0)
        )

    @property
    def waiting(self) -> tuple[int, int, int]:
        """Publications that wait for Redis and for the store, and bytes of all."""
        admission = self.publisher.admission
        return admission.redis.waiting, admission.store.waiting, admission.bytes


@pytest.fixture
async def rig() -> Rig:
    return Rig()


# Which log gets it.


async def test_a_hot_publication_is_acknowledged_with_its_position_in_the_log_of_redis(rig: Rig) -> None:
    results = [await rig.publish(HOT, b"%d" % number) for number in range(3)]
    assert [result.position.offset for result in results] == [1, 2, 3]
    assert {result.position.epoch for result in results} == {rig.redis.log("hot:a").epoch}
    assert [one.data for one in rig.redis.log("hot:a").entries] == [b"0", b"1", b"2"]
    assert not rig.disk.logs
    assert rig.publisher.published == 3


async def test_a_stored_publication_goes_to_the_store_alone_which_publishes_it(rig: Rig) -> None:
    result = await rig.publish(STORED)
    assert (result.position.offset, result.position.epoch) == (1, rig.disk.log("stored:a").epoch)
    assert not rig.redis.logs
    assert not rig.listener.received
    assert rig.publisher.published == 1


async def test_a_publication_without_a_log_is_published_and_has_no_position(rig: Rig) -> None:
    result = await rig.publish(NONE)
    assert (result.position.offset, result.position.epoch, result.repeated_key) == (0, "", False)
    assert [(channel, epoch, one.data) for channel, epoch, one in rig.listener.received] == [("none:a", "", b"1")]
    assert not rig.redis.logs
    assert not rig.disk.logs
    assert rig.publisher.published == 1


@pytest.mark.parametrize("namespace", [HOT, STORED])
async def test_what_is_not_to_be_kept_is_published_past_the_log(rig: Rig, namespace: Namespace) -> None:
    result = await rig.publish(namespace, keep=False, key="k", key_user="ann")
    assert result.position.offset == 0
    assert [one.offset for _, _, one in rig.listener.received] == [0]
    assert not rig.redis.logs
    assert not rig.disk.logs
    again = await rig.publish(namespace, keep=False, key="k", key_user="ann")  # no log, no key
    assert not again.repeated_key
    assert len(rig.listener.received) == 2


async def test_the_log_gets_all_that_belongs_to_the_publication(rig: Rig) -> None:
    info = ClientInfo("ann", "c1", b'{"n":1}')
    rig.begin(HOT, b'{"text":"hi"}', info=info, tags={"a": "b"}, exclude_client="c2", key_user="ann", key="k")
    await settle()
    (asked,) = rig.broker.log.asked
    publication = asked.pop("publication")
    assert (publication.data, publication.info, publication.tags) == (b'{"text":"hi"}', info, {"a": "b"})
    assert (publication.exclude_client, publication.time_ms, len(publication.id)) == ("c2", NOW_MS, 16)
    assert asked == {
        "channel": "hot:a",
        "key_user": "ann",
        "key": "k",
        "history_size": HOT.history_size,
        "history_ttl_s": HOT.history_ttl_s,
        "feed": False,
    }


async def test_every_publication_has_an_id_of_its_own(rig: Rig) -> None:
    for _ in range(600):  # more than two calls of the kernel give
        await rig.publish(HOT)
    ids = {asked["publication"].id for asked in rig.broker.log.asked}
    assert len(ids) == 600
    assert {len(one) for one in ids} == {16}


# Keys.


@pytest.mark.parametrize("namespace", [HOT, STORED])
async def test_a_repeated_key_publishes_nothing_and_gives_the_first_position(rig: Rig, namespace: Namespace) -> None:
    first = await rig.publish(namespace, b"1", key_user="ann", key="k")
    again = await rig.publish(namespace, b"2", key_user="ann", key="k")
    assert (first.position, first.repeated_key) == (again.position, False)
    assert again.repeated_key
    of_another = await rig.publish(namespace, b"3", key_user="bob", key="k")
    assert (of_another.position.offset, of_another.repeated_key) == (2, False)


async def test_a_hot_publication_without_a_key_leaves_none(rig: Rig) -> None:
    await rig.publish(HOT)
    assert rig.broker.log.asked[0]["key"] == ""


async def test_a_stored_publication_without_a_key_has_its_id_as_one_so_that_it_can_be_repeated(rig: Rig) -> None:
    await rig.publish(STORED)
    (asked,) = rig.store.log.asked
    assert asked["key"] == asked["publication"].id.hex()


async def test_a_key_that_is_too_long_in_bytes_is_refused_with_107() -> None:
    rig = Rig(idempotency_key_max_bytes=4)
    for key in ("12345", "éé1", "\ud800\ud800"):
        assert (await rig.refusal(HOT, key=key)).code == ErrorCode.BAD_REQUEST, key
    for key in ("1234", "éé", "\ud800"):
        await rig.publish(HOT, key=key)


# What is refused.


@pytest.mark.parametrize("namespace", [HOT, STORED, NONE, OBJECTS])
async def test_a_publication_without_data_is_refused_with_107(rig: Rig, namespace: Namespace) -> None:
    assert (await rig.refusal(namespace, None)).code == ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("data", [b"1", b'"{"', b"[{}]", b"null", b" 1", b""])
async def test_where_objects_are_wanted_other_data_is_refused_with_107(rig: Rig, data: bytes) -> None:
    assert (await rig.refusal(OBJECTS, data)).code == ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("data", [b"{}", b' \n\t{"a":1}'])
async def test_where_objects_are_wanted_they_are_taken(rig: Rig, data: bytes) -> None:
    assert (await rig.publish(OBJECTS, data)).position.offset == 1


@pytest.mark.parametrize("data", [b"1", b'"text"', b"[1]", b"null", b"{}", b"true"])
async def test_elsewhere_every_json_value_is_taken(rig: Rig, data: bytes) -> None:
    assert (await rig.publish(HOT, data)).position.offset == 1


async def test_data_above_the_limit_of_the_namespace_is_refused_with_106(rig: Rig) -> None:
    assert (await rig.refusal(HOT, b"1" * 101)).code == ErrorCode.LIMIT_EXCEEDED
    await rig.publish(HOT, b"1" * 100)


@pytest.mark.parametrize("durability", [HOT, STORED, NONE])
async def test_tags_count_with_the_data_and_there_are_at_most_32(rig: Rig, durability: Namespace) -> None:
    many = {str(number): "" for number in range(10, 43)}
    for data, tags in (
        (b"1" * 98, {"a": "bc"}),
        (b"1" * 98, {"\N{GREEK SMALL LETTER ALPHA}": "b"}),  # bytes, not characters
        (b"1", {"a": "b" * 99}),
        (b"1", many),
    ):
        refused = await rig.refusal(durability, data, tags=tags)
        assert refused.code == ErrorCode.LIMIT_EXCEEDED, tags
        assert "tags" in str(refused)
    assert rig.nothing_was_done
    many.popitem()
    await rig.publish(durability, b"1" * 36, tags=many)
    await rig.publish(durability, b"1" * 97, tags={"\N{GREEK SMALL LETTER ALPHA}": "b"})


async def test_what_is_refused_never_settles(rig: Rig) -> None:
    with pytest.raises(ThalamusError):
        rig.begin(HOT, None)
    await settle()
    assert rig.outcomes == []
    assert rig.nothing_was_done


# Overload.


def overload(rig: Rig, namespace: Namespace) -> Log:
    """As many publications as may wait, and then no answer for too long.

    Longer than one may wait.
    """
    log = (rig.store if namespace is STORED else rig.broker).log
    log.go.clear()
    for _ in range(ALWAYS):
        rig.begin(namespace)
    rig.now += 1.5
    return log


@pytest.mark.parametrize("namespace", [HOT, STORED])
async def test_an_overload_is_refused_as_busy_with_111_and_a_time_and_nothing_is_done(namespace: Namespace) -> None:
    rig = Rig()
    log = overload(rig, namespace)
    await settle()
    asked = len(log.asked)
    with pytest.raises(Busy) as caught:
        rig.begin(namespace)
    assert caught.value.code == ErrorCode.TOO_MANY_REQUESTS
    assert caught.value.retry_after_s > 0
    await settle()
    assert (len(log.asked), sum(rig.waiting[:2])) == (asked, ALWAYS)
    log.go.set()
    await settle()
    assert len(rig.outcomes) == ALWAYS
    rig.begin(namespace)  # it is over
    await settle()
    assert len(rig.outcomes) == ALWAYS + 1


async def test_a_slow_store_keeps_nothing_from_redis_and_the_other_way_round() -> None:
    rig = Rig()
    overload(rig, STORED)
    assert (await rig.publish(HOT)).position.offset == 1
    assert (await rig.publish(NONE)).position.offset == 0
    assert (await rig.publish(STORED, keep=False)).position.offset == 0  # past the log: Redis alone
    rig = Rig()
    overload(rig, HOT)
    assert (await rig.publish(STORED)).position.offset == 1
    with pytest.raises(Busy):
        await rig.publish(NONE)


async def test_what_was_admitted_on_arrival_is_not_asked_again() -> None:
    rig = Rig()
    overload(rig, HOT)
    rig.begin(HOT, admitted=True)
    await settle()
    assert rig.waiting[0] == ALWAYS + 1


async def test_what_waits_counts_with_its_bytes_until_the_log_has_answered(rig: Rig) -> None:
    rig.broker.log.go.clear()
    rig.store.log.go.clear()
    rig.begin(HOT, b"12345")
    rig.begin(STORED, b"123")
    assert rig.waiting == (1, 1, 8)
    rig.broker.log.go.set()
    await settle()
    assert rig.waiting == (0, 1, 3)
    rig.store.log.error = Unavailable("gone")
    rig.store.log.go.set()
    await settle()
    assert rig.waiting == (0, 0, 0)


async def test_bytes_that_wait_are_bounded() -> None:
    rig = Rig(max_pending_publish_bytes=10)
    rig.broker.log.go.clear()
    rig.begin(HOT, b"1" * 50)  # one is always taken
    with pytest.raises(Busy):
        rig.begin(HOT, b"1")
    assert rig.publisher.admission.refused["bytes"] == 1


def test_a_channel_has_the_backlog_of_its_log() -> None:
    rig = Rig()
    admission = rig.publisher.admission
    assert rig.publisher.backlog_of("stored:a") is admission.store
    assert rig.publisher.backlog_of("hot:a") is admission.redis
    assert rig.publisher.backlog_of("none:a") is admission.redis
    assert rig.publisher.backlog_of("unknown:a") is None


# The outcome.


async def test_the_outcome_comes_after_begin_has_returned_even_if_the_log_answers_at_once(rig: Rig) -> None:
    for namespace in (NONE, STORED, HOT):
        rig.begin(namespace)
        assert rig.outcomes == []
    await settle()
    assert len(rig.outcomes) == 3


@pytest.mark.parametrize("namespace", [HOT, STORED])
@pytest.mark.parametrize("error", [Unavailable("gone"), Busy("full"), ThalamusError("no", ErrorCode.BAD_REQUEST)])
async def test_an_error_of_the_log_is_told_as_it_is(namespace: Namespace, error: ThalamusError) -> None:
    rig = Rig()
    (rig.store if namespace is STORED else rig.broker).log.error = error
    rig.begin(namespace)
    await settle()
    assert rig.outcomes == [error]
    with pytest.raises(type(error)):
        await rig.publish(namespace)
    assert rig.publisher.published == 0
    assert rig.waiting == (0, 0, 0)


async def test_a_pubsub_that_is_away_is_told_to_who_publishes_without_a_log(rig: Rig) -> None:
    rig.redis.down = True
    with pytest.raises(Unavailable):
        await rig.publish(NONE)


async def test_an_unexpected_error_is_told_as_100_without_its_text_and_stands_in_the_log(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.broker.log.error = ZeroDivisionError("a secret of the code")
    rig.begin(HOT)
    await settle()
    (outcome,) = rig.outcomes
    assert isinstance(outcome, ThalamusError)
    assert outcome.code == ErrorCode.INTERNAL
    assert "secret" not in str(outcome)
    assert "a secret of the code" in caplog.text


async def test_an_append_that_is_cancelled_has_an_unknown_outcome(rig: Rig) -> None:
    rig.broker.log.error = asyncio.CancelledError()
    rig.begin(HOT)
    await settle()
    (outcome,) = rig.outcomes
    assert isinstance(outcome, Unavailable)
    assert rig.waiting == (0, 0, 0)


async def test_who_gives_up_waiting_breaks_nothing_and_the_publication_counts_all_the_same(rig: Rig) -> None:
    rig.broker.log.go.clear()
    waiting = asyncio.create_task(rig.publish(HOT))
    await settle()
    waiting.cancel()
    await settle()
    assert waiting.cancelled()
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    rig.broker.log.go.set()
    await settle()
    assert not failures
    assert rig.publisher.published == 1
    assert rig.waiting == (0, 0, 0)


@pytest.mark.parametrize("namespace", [HOT, STORED, NONE])
async def test_the_time_until_the_answer_is_measured_by_durability(namespace: Namespace) -> None:
    rig = Rig()
    held = asyncio.Event()

    async def publish(channel: str, publication: Publication) -> None:
        await held.wait()

    rig.broker.publish = publish  # type: ignore[method-assign]
    rig.broker.log.go = rig.store.log.go = held
    before = {name: seconds.total for name, seconds in ACK_SECONDS.items()}
    rig.begin(namespace)
    await settle()
    rig.now += 0.25
    held.set()
    await settle()
    took = {name: seconds.total - before[name] for name, seconds in ACK_SECONDS.items()}
    assert took == {name: pytest.approx(0.25 if name == namespace.durability else 0.0) for name in ACK_SECONDS}


async def test_what_failed_is_not_measured_as_acknowledged(rig: Rig) -> None:
    rig.broker.log.error = Unavailable("gone")
    before = [count for _, count in ACK_SECONDS["hot"].cumulative()]
    rig.begin(HOT)
    await settle()
    assert [count for _, count in ACK_SECONDS["hot"].cumulative()] == before
