"""The tests of centrifuge-python itself against an edge, in both encodings.

From its source distribution.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.stack import Stack

_HERE = Path(__file__).parent
_VERSION = "0.7.0"
_BUILD = _HERE.parents[2] / "build" / "sdk"
_LIMIT_S = 200.0
_TEST_S = 15.0  # for one of its tests; the SDK waits 5 s for an answer, and a reconnect may follow
_SHOWN = 6_000  # characters of what the suite printed
_OF_TWO = re.compile(r"^(?P<indent> +)await (?P<sub>sub[12])\.subscribe\(\)$", re.MULTILINE)
_DOWNLOAD_S = 300.0  # pip makes the package's metadata, for which it installs what builds it


@pytest.fixture(scope="session")
def suite() -> Path:
    """A fresh copy of the source distribution, which is downloaded once."""
    archive = _BUILD / f"centrifuge_python-{_VERSION}.tar.gz"
    if not archive.is_file():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "centrifuge-python"]
        what = ["--dest", str(_BUILD), f"centrifuge-python=={_VERSION}"]
        done = subprocess.run([*pip, *what], check=False, timeout=_DOWNLOAD_S)
        if done.returncode != 0:
            if os.environ.get("REQUIRE_ALL") == "1":
                pytest.fail("the tests of centrifuge-python can't be downloaded, and REQUIRE_ALL=1")
            pytest.skip("the tests of centrifuge-python can't be downloaded")
    folder = _BUILD / f"centrifuge_python-{_VERSION}"
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as packed:
        packed.extractall(_BUILD, filter="data")
    return folder


def adapted(text: str, address: str, secret: str) -> str:
    """A module of the suite, told where the edge is and what signs its tokens.

    `subscribe()` returns before the server has answered. Where two clients meet, the suite relies on the answer to the
    first one's subscribe coming before the second one has connected. On a busy machine it may come later, so these
    wait for it.
    """
    text = text.replace("localhost:8000", address)
    text = text.replace('hmac_secret = "secret"', f'hmac_secret = "{secret}"')
    return _OF_TWO.sub(r"\g<0>\n\g<indent>await \g<sub>.ready()", text)


def log_of(test: str, said: str) -> str:
    """The last of what the suite printed during one of its tests."""
    began = said.find(f"\n{test} (")
    ended = re.compile(r"^test_\w+ \(", re.MULTILINE).search(said, began + len(test)) if began >= 0 else None
    return said[max(began, 0) : ended.start() if ended else len(said)][-_SHOWN:]


async def test_the_suite_of_centrifuge_python_passes(suite: Path) -> None:
    environment = {"EDGE_ALLOW_ANONYMOUS": "true", "EDGE_PERSONAL_CHANNEL": "true"}
    with Stack(edges=1, environment=environment, channels_file=_HERE / "official.toml") as stack:
        for path in (suite / "tests").glob("*.py"):
            path.write_text(adapted(path.read_text(), stack.http_urls[0].removeprefix("http://"), stack.secret))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(_HERE / "limited_suite.py"),
            *("tests.test_client", str(_TEST_S)),  # the others bring a server of their own
            cwd=suite,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, in_time = await _output(process)
    failed = sorted(set(re.findall(r"^(?:FAIL|ERROR): (\w+)", said, re.MULTILINE)))
    ran = re.search(r"^Ran (\d+) tests", said, re.MULTILINE)
    assert in_time, f"it hangs:\n{said[-_SHOWN:]}"
    assert ran is not None, said[-_SHOWN:]
    print(f"{ran[1]} tests")
    assert int(ran[1]) >= 50
    assert not failed, "\n".join([f"{failed}", *(log_of(test, said) for test in failed), said[-_SHOWN:]])


async def _output(process: asyncio.subprocess.Process) -> tuple[str, bool]:
    """What the process printed, and whether it ended in time.

    One that did not is killed.
    """
    assert process.stdout is not None
    lines: list[bytes] = []

    async def read(stdout: asyncio.StreamReader) -> None:
        async for line in stdout:
            lines.append(line)

    reading = asyncio.create_task(read(process.stdout))
    done, _ = await asyncio.wait([reading], timeout=_LIMIT_S)
    if not done:
        process.kill()
    await process.wait()
    await reading
    return b"".join(lines).decode(), bool(done)
