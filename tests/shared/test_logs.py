"""Log lines: one event, one line, whatever is in it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from services.shared.process.config import ConfigError
from services.shared.process.logs import JsonFormatter, setup_logging


def line(record: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter("edge").format(record)
    assert len(text.splitlines()) == 1
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def record(msg: str, *args: object, **fields: object) -> logging.LogRecord:
    made = logging.getLogger("services.edge").makeRecord(
        "services.edge", logging.INFO, __file__, 1, msg, args, None, extra=fields
    )
    made.created = 0.25
    return made


def test_a_line_has_time_level_service_logger_message_and_fields() -> None:
    assert line(record("opened %s", "room:1", client="c1", count=3)) == {
        "ts": "1970-01-01T00:00:00.250Z",
        "level": "INFO",
        "service": "edge",
        "logger": "services.edge",
        "msg": "opened room:1",
        "client": "c1",
        "count": 3,
    }


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\u2028b", 'a"}\n{"level": "INFO"', "\x00\x1b[31m", "\ud800"])
def test_b32_one_event_stays_one_line(text: str) -> None:
    parsed = line(record("said %s", text, channel=text))
    assert (parsed["msg"], parsed["channel"]) == (f"said {text}", text)


def test_values_that_are_not_json_are_written_as_text() -> None:
    parsed = line(record("x", raw=b"\xffa", error=ValueError("no"), kinds={"a": {1}}))
    assert (parsed["raw"], parsed["error"], parsed["kinds"]) == ("\ufffda", "no", {"a": "{1}"})


def test_an_exception_is_part_of_its_line() -> None:
    made = record("failed")
    try:
        raise ValueError("because")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert "ValueError: because" in line(made)["exc"]


def test_a_level_that_is_none_names_its_variable() -> None:
    with pytest.raises(ConfigError, match="LOG_LEVEL"):
        setup_logging("edge", level="LOUD")


_SCRIPT = """
import asyncio, logging, warnings, uvloop
from services.shared.process.logs import setup_logging
setup_logging("edge")
logging.getLogger("somewhere").info("hello")
logging.getLogger("somewhere").debug("too quiet")
warnings.warn("careful")
async def main():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0.01)
uvloop.run(main())
"""


def test_libraries_warnings_and_loop_exceptions_are_lines_on_stderr_too() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    lines = [json.loads(text) for text in done.stderr.splitlines()]
    assert [entry["logger"] for entry in lines] == ["somewhere", "py.warnings", "asyncio"]
    assert "ZeroDivisionError" in lines[2]["exc"]


_GIVEN_UP = """
import asyncio, uvloop
from services.shared.process.logs import setup_logging
setup_logging("edge")
async def main():
    loop = asyncio.get_running_loop()
    attempt = asyncio.ensure_future(loop.create_connection(asyncio.Protocol, "nowhere.invalid", 1))
    await asyncio.sleep(0)
    attempt.cancel()
    await asyncio.wait([attempt])
    await asyncio.sleep(0.3)
    loop.create_future().set_exception(OSError("of something else"))
    await asyncio.sleep(0)
uvloop.run(main())
"""


_OUR_OWN = """
import asyncio, socket, uvloop
from services.shared.process.logs import setup_logging
setup_logging("edge")
async def fail():
    raise socket.gaierror("of a task that was forgotten")
async def main():
    asyncio.ensure_future(fail())
    await asyncio.sleep(0.01)
uvloop.run(main())
"""


def test_a_lookup_that_failed_in_a_task_of_ours_is_one() -> None:
    done = subprocess.run([sys.executable, "-c", _OUR_OWN], capture_output=True, text=True, timeout=60, check=True)
    (entry,) = [json.loads(text) for text in done.stderr.splitlines()]
    assert "of a task that was forgotten" in entry["exc"]


def test_a_lookup_that_nobody_waits_for_any_more_is_no_error() -> None:
    done = subprocess.run([sys.executable, "-c", _GIVEN_UP], capture_output=True, text=True, timeout=60, check=True)
    (entry,) = [json.loads(text) for text in done.stderr.splitlines()]
    assert "of something else" in entry["exc"]
