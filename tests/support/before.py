"""The code of the last commit that users have, beside this one.

Tests of updates start processes of both. A checkout takes settings that it does not know for absent: processes of
before refuse them, so an operator gives a new setting only to new processes, but the stacks of tests give one
environment to all.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from cli.bundled import ROOT

BEFORE = "0b514971"
_LENIENT = '''"""Changed by a test: settings of later versions are ignored."""
from services.shared.process import variables

variables.check_names = lambda environment, prefix, known: None
'''


def unpack(commit: str, folder: Path) -> None:
    """Write the tree of a commit to a folder.

    Its services ignore settings that they do not know.
    """
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    begin = folder / "services" / "__init__.py"
    assert not begin.read_text(), f"{commit} has something in {begin.name}"
    begin.write_text(_LENIENT)


def import_paths(checkout: Path) -> str:
    """Return PYTHONPATH of processes that run the code of a checkout."""
    return os.pathsep.join([str(checkout), str(checkout / "proto" / "gen")])


def environment_of(checkout: Path) -> dict[str, str]:
    """Return what a process needs to run the code of a checkout.

    With the channels of that code.
    """
    return {"PYTHONPATH": import_paths(checkout), "CHANNELS_FILE": str(checkout / "config" / "channels.toml")}


def checkout_of_before(folder: Path) -> Path:
    """Unpack the commit from before to a folder, and return that.

    Skips the test if the history lacks it, as in a shallow clone; fails under REQUIRE_ALL=1.
    """
    git = shutil.which("git")
    known = git and subprocess.run([git, "cat-file", "-e", BEFORE], cwd=ROOT, capture_output=True, check=False)
    if not known or known.returncode != 0:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(f"commit {BEFORE} is not there, and REQUIRE_ALL=1")
        pytest.skip(f"commit {BEFORE} is not there")
    unpack(BEFORE, folder)
    return folder
