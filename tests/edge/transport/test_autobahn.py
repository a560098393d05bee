"""The Autobahn suite against the echo server.

`kosoku` runs the suite's own case files; Autobahn's runner needs Python 2. Each of the 216 cases of compression sends a
thousand messages. Three of each group run; in `make test-full` all of them do.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from kosoku import FailureError, run_fuzzingclient

from tests.support.full import FULL

_COMPRESSION = ["12.*", "13.*"]
_GROUPS = [f"12.{number}" for number in range(1, 6)] + [f"13.{number}" for number in range(1, 8)]
_SHORT = (1, 4, 11)  # of the cases of a group: 16 bytes, 1 KiB, and 8 KiB in fragments of 256 bytes
_NOT_OK = {
    "6.4.3": "NON-STRICT",  # a text that can't become UTF-8 is refused once its frame is whole,
    "6.4.4": "NON-STRICT",  # and not in the middle of it: a frame is at most 64 KiB, and looking at it twice costs all
    "7.1.6": "INFORMATIONAL",  # much is sent before a close frame: the suite only tells what comes of it
    "7.13.1": "INFORMATIONAL",  # close code 5000, on which the RFC has no word
    "7.13.2": "INFORMATIONAL",  # close code 65536
}


@pytest.fixture
def more() -> list[str]:
    """Options of the echo server."""
    return []


@pytest.fixture
async def echo_url(more: list[str]) -> AsyncIterator[str]:
    """The address of an echo server that takes messages of 16 MiB (section 9)."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.edge.echo", "--port", "0", "--path", "/"),
        *("--max-message-bytes", str(16 * 1_048_576), "--max-fragments", "200000", *more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    port = 0
    async with asyncio.timeout(30):
        while not port:
            line = await process.stdout.readline()
            assert line, "the echo server did not start"
            port = json.loads(line).get("port", 0)
    yield f"ws://127.0.0.1:{port}/"
    process.terminate()
    await asyncio.wait_for(process.wait(), 30)


async def test_all_cases_are_ok_but_for_a_few_that_are_listed(echo_url: str) -> None:
    ran, found = await run(echo_url, exclude_cases=_COMPRESSION)
    assert ran > 300
    assert {case: text.split(",")[0] for case, text in found.items()} == _NOT_OK, found


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the cases do not close their test data
@pytest.mark.parametrize("more", [["--compression"]], ids=["compression"])
@pytest.mark.parametrize("group", _GROUPS)
async def test_all_cases_of_compression_are_ok(echo_url: str, group: str) -> None:
    await run(echo_url, cases=["1.1.1"])  # loads the case files
    take_messages_as_python_2_does()
    numbers = range(1, 19) if FULL else _SHORT
    ran, found = await run(echo_url, cases=[f"{group}.{number}" for number in numbers])
    assert ran == len(numbers)
    assert found == {}


async def run(url: str, **which: Any) -> tuple[int, dict[str, str]]:
    """How many cases ran, and what became of those that are not OK."""
    try:
        async with asyncio.timeout(1_500):
            results = await run_fuzzingclient(url, concurrency=8, **which)
    except FailureError as error:
        results = error.results
    return len(results), {
        one.case_id: f"{one.behavior.value}, close {one.behavior_close.value}: {one.result}"
        for one in results
        if (one.behavior.value, one.behavior_close.value) != ("OK", "OK")
    }


def take_messages_as_python_2_does() -> None:
    """Give the cases of compression bytes.

    From kosoku they get a `str` where a message came uncompressed.
    """
    cases: Any = sys.modules["case12_x_x"]

    def taking(on_message: Callable[[Any, bytes, bool], None]) -> Callable[[Any, bytes | str, bool], None]:
        def take(case: Any, message: bytes | str, binary: bool) -> None:
            if isinstance(message, str):
                message = message.encode("latin-1" if binary else "utf-8")
            on_message(case, message, binary)

        return take

    for case in (*cases.Case12_X_X, *cases.Case13_X_X):
        case.onMessage = taking(case.onMessage)
