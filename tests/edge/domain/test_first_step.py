"""Work runs without a task until it waits, then as it would have in one.

Sessions connect and subscribe so.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from opentelemetry import trace

from services.edge.domain import commands as c
from services.edge.domain.replies import Result
from services.edge.domain.session import command_runner, handlers
from services.edge.domain.session.first_step import run_until_it_waits
from services.edge.domain.session.handlers.subscribe import subscribe
from services.edge.domain.session.session import Session
from services.shared.namespaces import Durability, Namespace
from tests.support.edge import SIGNED_IN, Client, Cluster, connected, settle

Handler = Callable[[Session, c.Subscribe, int], Awaitable[None]]
WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
NEWS = Namespace(name="", durability=Durability.NONE, subscribe=SIGNED_IN)


async def test_what_waits_for_nothing_has_ended_at_once() -> None:
    seen: list[str] = []

    async def work() -> None:
        seen.append("done")

    assert run_until_it_waits(work(), contextvars.copy_context()) is None
    assert seen == ["done"]


async def test_what_waits_goes_on_with_what_it_waited_for() -> None:
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    seen: list[object] = []

    async def work() -> None:
        seen.append(await first)
        await asyncio.sleep(0)
        try:
            await second
        except ValueError as error:
            seen.append(str(error))

    rest = run_until_it_waits(work(), contextvars.copy_context())
    assert rest is not None
    task = asyncio.create_task(rest)
    await settle()
    assert not task.done()
    first.set_result("one")
    second.set_exception(ValueError("two"))
    await task
    assert seen == ["one", "two"]


async def test_what_waits_is_cancelled_where_it_waits() -> None:
    seen: list[str] = []

    async def work() -> None:
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")

    rest = run_until_it_waits(work(), contextvars.copy_context())
    assert rest is not None
    task = asyncio.create_task(rest)
    for _ in range(2):
        await settle()
        task.cancel()
    await task
    assert seen == ["cancelled"] * 2


async def test_what_only_let_others_run_is_cancelled_too() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            seen.append("cancelled")

    rest = run_until_it_waits(work(), contextvars.copy_context())
    assert rest is not None
    task = asyncio.create_task(rest)
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert seen == ["cancelled"]


async def test_an_error_before_the_first_wait_is_raised_at_once() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_until_it_waits(work(), contextvars.copy_context())


def frame(*commands: object) -> bytes:
    return b"\n".join(json.dumps(command).encode() for command in commands)


async def test_connect_and_subscribe_are_answered_in_the_tick_of_their_message() -> None:
    cluster = Cluster(default=NEWS)
    node = cluster.edge()
    first = Client(cluster, node)
    await first.raw(
        frame({"id": 1, "connect": {"token": cluster.token("ann")}}, {"id": 2, "subscribe": {"channel": "a"}})
    )
    second = Client(cluster, node)
    second.protocol.message(
        frame({"id": 1, "connect": {"token": cluster.token("bob")}}, {"id": 2, "subscribe": {"channel": "a"}}),
        binary=False,
    )
    assert [next(name for name in line if name != "id") for line in second.lines] == ["connect", "subscribe"]


async def test_many_commands_of_one_message_are_answered_in_order_and_not_in_one_tick() -> None:
    cluster = Cluster(default=NEWS)
    node = cluster.edge(commands_per_s=0.0)
    await Client(cluster, node).raw(
        frame({"id": 1, "connect": {"token": cluster.token("ann")}}, {"id": 2, "subscribe": {"channel": "a"}})
    )
    client = Client(cluster, node)
    subscribes = [{"id": number, "subscribe": {"channel": "a"}} for number in range(2, 900)]
    client.protocol.message(frame({"id": 1, "connect": {"token": cluster.token("bob")}}, *subscribes), binary=False)
    assert len(client.lines) == 16
    for _ in range(100):
        await settle()
    assert [line["id"] for line in client.lines] == list(range(1, 900))


async def test_a_context_variable_set_before_the_first_wait_is_not_seen_by_the_caller_and_can_be_reset_after_it() -> (
    None
):
    gate = asyncio.Event()
    seen: list[str] = []

    async def work() -> None:
        token = WHO.set("work")
        await gate.wait()
        seen.append(WHO.get())
        WHO.reset(token)
        seen.append(WHO.get())

    context = contextvars.copy_context()
    rest = run_until_it_waits(work(), context)
    assert rest is not None
    assert WHO.get() == "nobody"
    task = asyncio.get_running_loop().create_task(rest, context=context)
    gate.set()
    await task
    assert seen == ["work", "nobody"]


def slow_subscribes(cluster: Cluster) -> asyncio.Event:
    """The broker's subscribes wait for the event."""
    gate = asyncio.Event()
    broker = cluster.bus.brokers[-1]
    real = broker.subscribe

    async def slow(channel: str) -> None:
        await gate.wait()
        await real(channel)

    broker.subscribe = slow  # type: ignore[method-assign]
    return gate


def handle_subscribes_by(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a handler of our own in the place of that of subscribe commands."""

    async def handle(session: Session, command: c.Command) -> Result | None:
        if isinstance(command.request, c.Subscribe):
            await handler(session, command.request, command.id)
            return None
        return await handlers.handle(session, command)

    monkeypatch.setattr(command_runner, "handle", handle)


def message(client: Client, *channels: str) -> None:
    """Subscribe commands of one message, as the transport hands it over."""
    commands = [{"id": number, "subscribe": {"channel": name}} for number, name in enumerate(channels, 10)]
    client.protocol.message(frame(*commands), binary=False)


async def test_commands_see_no_context_variables_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str, str]] = []

    async def marked(session: Session, request: c.Subscribe, command_id: int) -> None:
        before = WHO.get()
        token = WHO.set(f"{session.user} {request.channel}")
        await subscribe(session, request, command_id)
        seen.append((before, request.channel, WHO.get()))
        if request.channel.startswith("reset"):
            WHO.reset(token)  # else it stays set, for the rest of this command only

    handle_subscribes_by(marked, monkeypatch)
    cluster = Cluster(default=NEWS)
    node = cluster.edge()
    ann, bob = await connected(cluster, node, "ann"), await connected(cluster, node, "bob")
    gate = slow_subscribes(cluster)
    message(ann, "a", "reset-b", "c")
    message(bob, "d", "reset-e")
    assert WHO.get() == "nobody"
    await settle()
    gate.set()
    await settle()
    assert sorted(seen) == [
        ("nobody", "a", "ann a"),
        ("nobody", "c", "ann c"),
        ("nobody", "d", "bob d"),
        ("nobody", "reset-b", "ann reset-b"),
        ("nobody", "reset-e", "bob reset-e"),
    ]
    message(ann, "a-already-open", "a")  # one that waits for nothing behind one that waits
    assert WHO.get() == "nobody"
    assert [line["error"]["code"] for line in ann.lines if "error" in line] == []
    await settle()
    assert [line["error"]["code"] for line in ann.lines if "error" in line] == [105]


class Spans:
    """Spans of OpenTelemetry's API.

    Its SDK would be loaded by every service that a test starts, if it were installed for this.
    """

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._names: dict[int, str] = {}
        self.ended: list[tuple[str | None, str]] = []  # names of the parent and of the span

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Context manager: a new span is current; the one before is its parent."""
        parent = self._names.get(trace.get_current_span().get_span_context().span_id)
        number = next(self._ids)
        self._names[number] = name
        with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, number, is_remote=False))):
            yield
        self.ended.append((parent, name))


async def test_a_span_around_a_command_is_the_parent_of_all_in_it_and_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spans = Spans()

    async def traced(session: Session, request: c.Subscribe, command_id: int) -> None:
        with spans.span(f"{session.user} {request.channel}"):
            with spans.span("before"):
                pass
            await subscribe(session, request, command_id)
            with spans.span("after"):
                await asyncio.sleep(0)

    handle_subscribes_by(traced, monkeypatch)
    cluster = Cluster(default=NEWS)
    node = cluster.edge()
    ann, bob = await connected(cluster, node, "ann"), await connected(cluster, node, "bob")
    gate = slow_subscribes(cluster)
    with caplog.at_level(logging.WARNING):  # OpenTelemetry logs what it can't detach
        message(ann, "a", "b")
        assert trace.get_current_span() is trace.INVALID_SPAN
        message(bob, "a")
        assert trace.get_current_span() is trace.INVALID_SPAN
        await settle()
        gate.set()
        await settle()
    assert not caplog.records
    assert [line["id"] for client in (ann, bob) for line in client.lines if "subscribe" in line] == [10, 11, 10]
    commands = ["ann a", "ann b", "bob a"]
    inside = [(command, name) for command in commands for name in ("after", "before")]
    assert sorted(one for one in spans.ended if one[0]) == inside
    assert sorted(name for parent, name in spans.ended if parent is None) == commands
