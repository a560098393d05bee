"""Shows the progress of a run on stderr: live on a terminal, else as plain lines."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from verify.events import Recorder

EVERY_S = 5.0  # pause between two plain lines, seconds
_LIVE_EVERY_S = 0.25  # pause between two changes of the live line, seconds


def stderr() -> Console:
    """Return a console on stderr.

    What colors are forced does not make a terminal of a pipe.
    """
    return Console(stderr=True, force_terminal=sys.stderr.isatty(), highlight=False)


class RunProgress:
    """The stage of one run and what happened so far; without a console it is silent."""

    def __init__(self, console: Console | None, recorder: Recorder) -> None:
        self._console = console
        self._recorder = recorder
        self._stage = ""

    def stage(self, text: str) -> None:
        """Begin a new stage with this name."""
        self._stage = text
        if self._console is not None and not self._console.is_interactive:
            self._console.out(self._line())

    async def run(self) -> None:
        """Report until cancelled."""
        if self._console is None:
            return
        if self._console.is_interactive:
            with self._console.status(Text(self._line())) as status:
                while True:
                    await asyncio.sleep(_LIVE_EVERY_S)
                    status.update(Text(self._line()))
        while True:
            await asyncio.sleep(EVERY_S)
            self._console.out(self._line())

    def _line(self) -> str:
        counts = self._recorder.counts
        return (
            f"{self._stage}: {counts['Acked']} of {counts['Publishing']} publications acknowledged, "
            f"{counts['Delivered']} deliveries, {counts['Offline']} cuts, {counts['Told']} gap notifications"
        )


class Steps:
    """A bar for a known number of steps. Results are printed as lines above it."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._bar = progress.add_task("", total=total)

    def begin(self, text: str) -> None:
        """Show what is done now."""
        self._progress.update(self._bar, description=text)

    def end(self, result: str) -> None:
        """Print the result of a step as a line."""
        self._progress.console.out(result)
        self._progress.advance(self._bar)


@contextmanager
def steps(total: int, console: Console | None = None) -> Iterator[Steps]:
    """Show a bar for so many steps meanwhile, on a terminal.

    Elsewhere only the lines of results.
    """
    shown = console or stderr()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # stdout stays as it is: it may be a pipe to a program.
    with Progress(*columns, console=shown, disable=not shown.is_interactive, redirect_stdout=False) as progress:
        yield Steps(progress, total)
