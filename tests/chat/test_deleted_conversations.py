"""A deleted conversation is deleted for who did not see how, too.

Its history is gone, so who has the right to delete can't be found out from the log any more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import pytest

from services.persistence.chat.domain.state import Phase
from tests.support.chat import GROUP, ChatSite
from tests.support.chat_calls import CallRefused, Replica, Site


async def test_it_is_deleted_for_replicas_that_start_later_and_for_those_that_were_behind(chat: ChatSite) -> None:
    """Mutant: what follows a hole is folded as if nothing were missing."""
    first, behind = chat.replica(), chat.replica()
    await first.create("owner", "heir")
    await first.say("heir")
    assert (await behind.conversations.current(GROUP)).state.owner() == "owner"
    await first.did("", {"kind": "member", "op": "remove", "user": "owner"})  # the heir owns it from here on
    await first.did("heir", {"kind": "conversation", "op": "delete"})
    assert len(await chat.log()) == 1, "its history is gone"
    for replica in (behind, chat.replica()):  # `first` has died before it wrote anything in the background
        live = await replica.conversations.current(GROUP)
        assert live.state.phase is Phase.DELETED
        assert live.state.n == 1
        assert not live.state.members


class Interrupted:
    """Has something done in front of the n-th question that a reader asks the stores."""

    def __init__(self, reader: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left: int | None = None
        self._do: Callable[[], Awaitable[object]] = _nothing
        for owner, names in ((reader.rows, ("read", "read_counted")), (reader.store, ("overlays", "overlays_between"))):
            for name in names:
                monkeypatch.setattr(owner, name, self._asked(getattr(owner, name)))

    def after(self, questions: int, do: Callable[[], Awaitable[object]]) -> None:
        self._left, self._do = questions, do

    def end(self) -> bool:
        """Whether there were so many questions."""
        was_done, self._left = self._left is None, None
        return was_done

    def _asked(self, ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def asked(*arguments: Any, **options: Any) -> Any:
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    self._left = None
                    await self._do()
            return await ask(*arguments, **options)

        return asked


async def _nothing() -> None:
    pass


def _texts(answer: dict[str, Any]) -> list[str]:
    return [one["text"] for one in answer.get("messages", [answer])]


READS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = {
    "messages.list": ({"limit": 10}, lambda answer: _texts(answer) == ["second"]),
    "messages.get": ({"offset": 3}, lambda answer: _texts(answer) == ["second"]),
    "pins.list": ({}, lambda answer: _texts(answer) == ["second"]),
    "conversations.get": ({}, lambda answer: answer["unread"] == 1),
}


async def test_who_reads_while_it_is_deleted_gets_all_of_it_as_it_was_or_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: who has read documents does not look whether they were there."""
    await _read_while_deleted(site, monkeypatch, READS)


async def test_it_is_so_where_the_read_model_is_written_before_history_was_removed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: history is removed only by who has deleted the conversation."""

    async def dies(*_: object) -> None:
        pass

    monkeypatch.setattr(site.replicas[1].chat.eraser, "after", dies)
    await _read_while_deleted(site, monkeypatch, ["messages.list", "pins.list"])


async def test_it_is_so_on_dynamodb(dynamodb_calls: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await _read_while_deleted(dynamodb_calls, monkeypatch, ["messages.list"])


async def _read_while_deleted(site: Site, monkeypatch: pytest.MonkeyPatch, methods: Iterable[str]) -> None:
    """The deletion comes in front of each question that a page asks."""
    b, reader = site.replicas[1], site.another()
    interrupted = Interrupted(reader, monkeypatch)
    for method in methods:
        params, is_whole = READS[method]
        seen: list[str] = []
        for questions in range(20):
            channel = str((await b.call("u1", "conversations.create", users=["u2"]))["channel"])
            of = (await b.call("u1", "messages.send", channel=channel, text="first"))["offset"]
            assert of == 3
            await b.call("u1", "pins.add", channel=channel, of=of)
            await b.call("u1", "messages.edit", channel=channel, of=of, text="second")
            await site.settle(channel)
            reader.conversations.forget(channel)
            interrupted.after(questions, partial(b.call, "u1", "conversations.delete", channel=channel))
            try:
                answer = await reader.call("u2", method, channel=channel, **params)
                assert is_whole(answer), (method, questions, answer)
                seen.append("whole")
            except CallRefused as error:
                seen.append("refused" if error.code == 103 else str(error))
            if not interrupted.end():
                break
        assert set(seen) == {"refused", "whole"}
        assert seen[-1] == "whole", "nothing came in between"
