"""The fold of conversations in JavaScript: a node process that folds logs."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pytest

from services.persistence.chat.domain.fold import Entry

_PROGRAM = Path(__file__).parents[1] / "chat" / "fold_in_node.mjs"


class Folded(NamedTuple):
    """What came out of a log.

    `voids`: why each entry is void; None: it applies. `view`: the state, as `state.view` gives it.
    """

    voids: list[str | None]
    view: dict[str, Any]


class JavaScriptFold:
    """Folds logs by `clients/js/fold.mjs`; a context manager."""

    def __init__(self) -> None:
        node = shutil.which("node")
        if node is None:
            if os.environ.get("REQUIRE_ALL") == "1":
                pytest.fail("node is not installed, and REQUIRE_ALL=1")
            pytest.skip("node is not installed")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([str(node), str(_PROGRAM)], stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)  # it ends with its input

    def fold(self, log: Iterable[Entry], *, parsed: bool = False) -> Folded:
        """Return what comes out of a log.

        `parsed`: hand out data as SDKs for JSON do, already parsed. All of it must be JSON objects then.
        """
        lines = [
            (
                entry.offset,
                entry.author,
                entry.time_ms,
                json.loads(entry.data) if parsed else base64.b64encode(entry.data).decode(),
            )
            for entry in log
        ]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(lines) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the fold in JavaScript failed; its error is above"
        return Folded(**json.loads(answer))
