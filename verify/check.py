"""Judges a recorded history and measures its times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.events import Publishing, read_history
from verify.judge import Verdict, judge
from verify.measure import Figures, measure
from verify.report import report
from verify.summary import Summary, as_object, summarize


@dataclass(frozen=True, slots=True)
class Outcome:
    """Verdict, times and counts of one run."""

    verdict: Verdict
    figures: Figures
    summary: Summary
    where: str

    @property
    def page(self) -> str:
        """The outcome as a Markdown page, for people."""
        return report(self.verdict, self.figures, self.summary, where=self.where)

    def as_object(self) -> dict[str, Any]:
        """Return the outcome for programs, with JSON types only."""
        return as_object(self.verdict, self.figures, self.summary, where=self.where)


def conclude(
    path: Path,
    *,
    where: str,
    gap_allowed: Callable[[str], bool] = lambda channel: False,
    gaps_allowed_to: Iterable[str] = (),
    harmed_edge: str = "",
) -> Outcome:
    """Judge and measure a recorded history.

    Args:
        path: The file of the history.
        where: What was tested, for the report.
        gap_allowed: Whether a gap notification in this channel is no finding.
        gaps_allowed_to: Clients for which a gap notification is no finding.
        harmed_edge: Address of the edge that a fault was for, if it was for one.

    Raises:
        msgspec.MsgspecError: the file is not a history.
    """
    channels = {event.channel for event in read_history(path) if isinstance(event, Publishing)}
    verdict = judge(read_history(path), gaps_allowed=filter(gap_allowed, channels), gaps_allowed_to=gaps_allowed_to)
    figures = measure(read_history(path), harmed_edge=harmed_edge)
    return Outcome(verdict, figures, summarize(read_history(path)), where)
