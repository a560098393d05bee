"""Messages can be searched only where that is turned on."""

from __future__ import annotations

import sqlite3

import pytest

from tests.support.chat_client import Backend, Refused, some_key
from tests.support.chat_stack import ChatStack


async def test_search_is_off_unless_it_is_turned_on(chat_stack: ChatStack, backend: Backend) -> None:
    ann = f"{some_key()[:8]}-ann"
    channel = await backend.group(ann, f"{ann}-bob")
    await backend.do("messages.send", ann, channel=channel, text="word")
    for params in ({"query": "word"}, {"query": "word", "channel": channel}):
        with pytest.raises(Refused) as refused:
            await backend.do("messages.search", ann, **params)
        assert refused.value.error["code"] == 108
        assert "not available" in refused.value.error["message"]
    assert (await backend.do("conversations.search", ann, query="x"))["conversations"] == []
    file = chat_stack.stack.data / "persistence.sqlite3"
    if file.exists():  # not with DynamoDB
        with sqlite3.connect(file) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
        assert "conversations" in tables
        assert [name for name in tables if name.startswith("search")] == []
