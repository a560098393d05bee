"""The wheel is enough to run the whole platform from an empty folder.

It is installed outside of any checkout.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.shared.version import VERSION
from tests.deploy.tools import ROOT
from tests.support.stack import clean_environment

pytestmark = pytest.mark.slow
_READY_WITHIN_S = 90.0


def run(*command: str | Path, cwd: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(kind: str, source: Path, folder: Path) -> Path:
    """Build a distribution of the project in `source`."""
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder, cwd=source)
    (made,) = folder.iterdir()
    return made


class Installed:
    """The wheel in a virtual environment of its own.

    Its dependencies are those of the tests.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.empty = folder / "empty"
        self.empty.mkdir()
        self.venv = folder / "venv"
        venv.create(self.venv, symlinks=True)
        self.python = self.venv / "bin" / "python"
        pip = (sys.executable, "-m", "pip", "--python", self.python)
        run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
        # .pth files are not read there, so the checkout, which is installed in it by one, is not found.
        self.environment = clean_environment() | {"PYTHONPATH": sysconfig.get_path("purelib")}

    def thalamus(self, *arguments: str) -> str:
        return run(self.venv / "bin" / "thalamus", *arguments, cwd=self.empty, environment=self.environment)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as whoever has only that builds it."""
    source = built("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(source) as archive:
        archive.extractall(unpacked, filter="data")
    return built("wheel", unpacked / source.name.removesuffix(".tar.gz"), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


@pytest.fixture
def dev(installed: Installed) -> Iterator[str]:
    """URL of a platform that `thalamus dev` of the wheel runs."""
    said = installed.empty / "said"
    with said.open("w") as output:
        process = subprocess.Popen(
            [installed.venv / "bin" / "thalamus", "dev", "--ports", "auto"],
            cwd=installed.empty,
            env=installed.environment,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + _READY_WITHIN_S
        while "END\n" not in (text := said.read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
        yield text.split("Console")[1].split()[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, said.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_wheel_is_named_as_the_project_and_has_its_version(wheel: Path, installed: Installed) -> None:
    assert wheel.name == f"thalamus_realtime-{VERSION}-py3-none-any.whl"
    assert installed.thalamus("--version") == f"thalamus {VERSION}\n"


def test_all_code_is_that_of_the_wheel(installed: Installed) -> None:
    code = "import cli, services, verify, thalamus; print(*(m.__path__[0] for m in (cli, services, verify, thalamus)))"
    paths = run(installed.python, "-c", code, cwd=installed.empty, environment=installed.environment).split()
    assert len(paths) == 4
    assert all(Path(path).is_relative_to(installed.venv) for path in paths), paths


def test_the_platform_runs_from_an_empty_folder(installed: Installed, dev: str) -> None:
    with urllib.request.urlopen(dev, timeout=10) as response:
        assert b"<title>" in response.read()
    with urllib.request.urlopen(f"{dev}static/app.js", timeout=10) as response:
        assert response.status == 200
    assert installed.thalamus("publish", "chat:lobby", '{"text":"hello"}').startswith("published to chat:lobby at 1:")
    assert '{"text":"hello"}' in installed.thalamus("history", "chat:lobby")


def test_it_has_the_templates_for_aws(installed: Installed) -> None:
    names = sorted(path.name for path in (ROOT / "deploy" / "aws").iterdir())
    code = "from cli.bundled import bundled; print(*sorted(path.name for path in bundled('deploy/aws').iterdir()))"
    assert run(installed.python, "-c", code, cwd=installed.empty, environment=installed.environment).split() == names


def test_secrets_are_made_from_an_empty_folder(installed: Installed) -> None:
    installed.thalamus("secrets", "init", "--folder", "secrets")
    assert "redis_acl" in os.listdir(installed.empty / "secrets")


def test_a_service_without_its_files_ends_with_a_line_that_names_the_setting(installed: Installed) -> None:
    done = subprocess.run(
        [installed.python, "-m", "services.edge"],
        cwd=installed.empty,
        env=installed.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    expected = "thalamus edge: CHANNELS_FILE: can't read config/channels.toml: No such file or directory\n"
    assert (done.returncode, done.stderr) == (2, expected)
