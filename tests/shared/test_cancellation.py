"""A task ends when asked to, also where somebody below swallows that."""

from __future__ import annotations

import asyncio

import pytest

from services.shared.process import cancellation
from services.shared.process.cancellation import end_task, is_being_cancelled


async def test_a_task_that_swallows_a_cancellation_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellation, "_AGAIN_S", 0.01)
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await end_task(task)
    assert task.cancelled()
    assert swallowed == 3


async def test_an_error_at_the_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("at the end")

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    await end_task(task)
    assert "a task ended with an error" in caplog.text


async def test_whose_cancellation_it_is() -> None:
    seen: list[bool] = []

    async def work() -> None:
        try:
            raise asyncio.CancelledError
        except asyncio.CancelledError:
            seen.append(is_being_cancelled())
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append(is_being_cancelled())

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert seen == [False, True]
