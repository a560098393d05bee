"""Finds the files that the command line needs beside its code.

They are the console page, the namespaces, the template of Redis users and the templates for AWS.

In a checkout they are where the repository has them. A wheel has copies of them in `cli/files`; the list is in
`pyproject.toml`, `tool.hatch.build.targets.wheel.force-include`.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # directory that `services` and `cli` are imported from
_IN_A_WHEEL = Path(__file__).resolve().parent / "files"


def bundled(path: str) -> Path:
    """Return the place of a file or folder of the repository: `config/channels.toml`."""
    return (_IN_A_WHEEL if _IN_A_WHEEL.is_dir() else ROOT) / path


def present_or_bundled(path: str) -> Path:
    """Return the file in the current directory, or the bundled one if there is none."""
    here = Path(path)
    return here if here.is_file() else bundled(path)
