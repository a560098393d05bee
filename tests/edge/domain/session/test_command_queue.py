"""The queue of one client's commands.

Its order, and which publications in it the edge counts as waiting.
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from services.edge.domain import commands as c
from services.edge.domain.channels.publish_admission import ALWAYS, BYTES, OWN_QUEUE
from services.edge.domain.session.command_queue import CommandQueue
from services.shared.namespaces import Durability
from tests.support.edge import OPEN, Cluster, replace_namespace


class Edge:
    """The publications that wait on an edge, and queues of clients there.

    It has a `hot` and a `stored` namespace, and one with a hook.
    """

    def __init__(self, **settings: int) -> None:
        cluster = Cluster(
            stored=replace_namespace(OPEN, durability=Durability.STORED),
            hooked=replace_namespace(OPEN, publish_hook=True),
        )
        self.publisher = cluster.edge(**settings).publisher
        self.admission = self.publisher.admission

    def queue(self) -> CommandQueue:
        return CommandQueue(self.publisher)

    @property
    def counted(self) -> tuple[int, int, int]:
        """Publications that wait for Redis, and for the store; bytes of both."""
        return self.admission.redis.waiting, self.admission.store.waiting, self.admission.bytes


def publish(data: bytes | None = b"123", channel: str = "a") -> c.Command:
    return c.Command(1, c.Publish(channel=channel, data=data))


RPC = c.Command(2, c.Rpc())


def test_commands_leave_in_the_order_in_which_they_came() -> None:
    queue = Edge().queue()
    commands = [RPC, publish(), c.Command(3, c.Subscribe()), publish(), RPC]
    assert all(queue.add(command, running=True) for command in commands)
    assert queue.commands == commands
    assert queue.others == 3
    assert [queue.next() for _ in commands] == commands
    assert queue.others == 0


@pytest.mark.parametrize(("channel", "counted"), [("a", (2, 0, 7)), ("stored:a", (0, 2, 7))], ids=["hot", "stored"])
def test_publications_that_wait_are_counted_for_their_log_until_they_leave(
    channel: str, counted: tuple[int, int, int]
) -> None:
    edge = Edge()
    queue = edge.queue()
    for data in (b"123", b"1234"):
        queue.add(publish(data, channel), running=True)
    assert edge.counted == counted
    for _ in range(2):
        queue.next()
    assert edge.counted == (0, 0, 0)


def test_one_that_runs_at_once_is_counted_by_the_publisher_and_not_here() -> None:
    edge = Edge()
    queue = edge.queue()
    queue.add(publish(), running=False)
    assert edge.counted == (0, 0, 0)
    queue.add(publish(), running=False)  # behind the first
    assert edge.counted == (1, 0, 3)
    queue.next()
    assert edge.counted == (1, 0, 3)
    queue.next()
    assert edge.counted == (0, 0, 0)


def test_a_publication_behind_any_other_command_waits() -> None:
    edge = Edge()
    queue = edge.queue()
    queue.add(RPC, running=False)
    queue.add(publish(), running=False)
    assert edge.counted == (1, 0, 3)


def test_one_without_data_or_for_no_namespace_keeps_its_place_and_is_refused_when_it_runs() -> None:
    edge = Edge()
    queue = edge.queue()
    nothing, nowhere = publish(None), publish(channel="unknown:a")
    assert queue.add(nothing, running=True)
    assert queue.add(nowhere, running=True)
    assert edge.counted == (1, 0, 0)
    assert [queue.next(), queue.next()] == [nothing, nowhere]
    assert edge.counted == (0, 0, 0)


def test_the_publications_of_a_client_that_takes_no_replies_are_not_counted() -> None:
    edge = Edge()
    queue = edge.queue()
    queue.add(publish(), running=True)
    queue.hold(True)
    queue.hold(True)  # once is enough
    queue.add(publish(b"1234"), running=True)
    assert edge.counted == (0, 0, 0)
    queue.next()
    assert edge.counted == (0, 0, 0)
    queue.hold(False)
    queue.hold(False)
    assert edge.counted == (1, 0, 4)


@pytest.mark.parametrize("held", [False, True])
def test_the_end_of_a_session_gives_back_what_its_queue_took(held: bool) -> None:
    edge = Edge()
    queue, other = edge.queue(), edge.queue()
    other.add(publish(b"12345"), running=True)
    for _ in range(3):
        queue.add(publish(), running=True)
    queue.add(RPC, running=True)
    queue.hold(held)
    queue.clear()
    assert edge.counted == (1, 0, 5)
    assert not queue.commands
    assert queue.others == 0
    queue.clear()
    assert edge.counted == (1, 0, 5)


def test_a_refused_publication_is_not_queued_and_not_counted() -> None:
    edge = Edge(max_pending_publish_bytes=10)
    queue = edge.queue()
    assert queue.add(publish(b"1"), running=True)
    assert not queue.add(publish(b"12345"), running=True)
    assert edge.counted == (1, 0, 1)
    assert edge.admission.refused[BYTES] == 1
    assert queue.add(RPC, running=True)  # only publications are refused
    assert [queue.next().id, queue.next().id] == [1, 2]


def test_the_bytes_that_a_client_has_waiting_count_eight_times_against_it_alone() -> None:
    edge = Edge(max_pending_publish_bytes=1_000)
    queue, other = edge.queue(), edge.queue()
    assert queue.add(publish(b"x" * 100), running=True)
    assert not queue.add(publish(b"x" * 101), running=True)
    assert queue.add(publish(b"x" * 100), running=True)
    assert other.add(publish(b"x" * 101), running=True)


def test_what_a_client_has_waiting_and_running_counts_as_its_own() -> None:
    """Below `ALWAYS` of them, queues of others hold up nobody who has none."""
    edge = Edge()
    backlog = edge.admission.redis
    backlog.began(0.0)
    backlog.per_s = 0.5  # so slow that whoever is judged by time is refused
    backlog.waiting = ALWAYS
    assert edge.queue().add(publish(), running=False)
    assert not edge.queue().add(publish(), running=True)
    queue = edge.queue()
    queue.add(publish(), running=False)
    assert not queue.add(publish(), running=False)


@pytest.mark.parametrize("running", [False, True])
def test_one_that_runs_counts_into_the_deep_queue_of_its_client(running: bool) -> None:
    """Eight of its own are too many, if each takes an eighth of the longest wait."""
    edge = Edge()
    edge.admission.redis.waiting = ALWAYS
    edge.admission.redis.latency_s = 0.15
    queue = edge.queue()
    queue.add(RPC, running=running)
    accepted = [queue.add(publish(), running=running) for _ in range(9)]
    assert accepted == [True] * (8 - running) + [False] * (1 + running)
    assert edge.admission.refused[OWN_QUEUE] == 1 + running


def is_bounded(command: c.Command) -> bool:
    """Whether admission bounds it: a publication to a log, that no hook sees."""
    return isinstance(command.request, c.Publish) and command.request.channel in ("a", "stored:a")


OPERATIONS = st.one_of(
    st.tuples(
        st.just("add"),
        st.sampled_from(["a", "stored:a", "hooked:a", "unknown:a", ""]),
        st.booleans(),
        st.integers(0, 40),
    ),
    st.just(("next",)),
    st.tuples(st.just("hold"), st.booleans()),
    st.just(("clear",)),
)


@given(st.lists(OPERATIONS, max_size=40), st.sampled_from([100, 1 << 20]))
def test_whatever_happens_the_edge_counts_what_waits_in_queues_that_are_not_held(
    operations: list[tuple[str | int, ...]], most_bytes: int
) -> None:
    edge = Edge(max_pending_publish_bytes=most_bytes)
    queue = edge.queue()
    model: list[tuple[c.Command, str, int]] = []  # command, its log if it is counted, bytes
    held = False
    for name, *arguments in operations:
        if name == "add":
            channel, running, size = arguments
            command = publish(b"x" * int(size), str(channel)) if channel else RPC
            waits = bool(running or model)
            if queue.add(command, running=bool(running)):
                log = {"a": "redis", "stored:a": "store"}.get(str(channel), "") if waits else ""
                model.append((command, log, int(size) if log else 0))
        elif name == "next" and model:
            assert queue.next() is model.pop(0)[0]
        elif name == "hold":
            held = bool(arguments[0])
            queue.hold(held)
        elif name == "clear":
            queue.clear()
            model.clear()
        seen = [] if held else model
        assert queue.commands == [command for command, *_ in model]
        assert queue.others == sum(not is_bounded(command) for command, *_ in model)
        assert edge.counted == (
            sum(log == "redis" for _, log, _ in seen),
            sum(log == "store" for _, log, _ in seen),
            sum(size for *_, size in seen),
        )
