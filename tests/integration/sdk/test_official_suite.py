"""The tests of centrifuge-python itself, from its source distribution, against an edge; over JSON."""

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
_LIMIT_S = 120.0
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


async def test_the_suite_of_centrifuge_python_passes(suite: Path) -> None:
    environment = {"EDGE_ALLOW_ANONYMOUS": "true", "EDGE_PERSONAL_CHANNEL": "true"}
    with Stack(edges=1, environment=environment, channels_file=_HERE / "official.toml") as stack:
        address = stack.http_urls[0].removeprefix("http://")
        for path in (suite / "tests").glob("*.py"):  # its server has a fixed place and secret; ours has its own
            text = path.read_text().replace("localhost:8000", address)
            text = text.replace("(False, True)", "(False,)")  # of `use_protobuf`: only JSON is served
            path.write_text(text.replace('hmac_secret = "secret"', f'hmac_secret = "{stack.secret}"'))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "unittest", "-v", "tests.test_client"),  # the others bring a server of their own
            cwd=suite,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, in_time = await _output(process)
    failed = set(re.findall(r"^(?:FAIL|ERROR): (\w+)", said, re.MULTILINE))
    ran = re.search(r"^Ran (\d+) tests", said, re.MULTILINE)
    assert in_time, f"it hangs (its tests wait for events without a time limit):\n{said[-6000:]}"
    assert ran is not None, said[-3000:]
    print(f"{ran[1]} tests")
    assert int(ran[1]) >= 50
    assert not failed, said[-6000:]


async def _output(process: asyncio.subprocess.Process) -> tuple[str, bool]:
    """What the process printed, and whether it ended in time; one that did not is killed."""
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
