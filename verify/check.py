"""From a recorded history to what is said of it."""

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
    """Of one run."""

    verdict: Verdict
    figures: Figures
    summary: Summary
    where: str

    @property
    def page(self) -> str:
        """Markdown, for people."""
        return report(self.verdict, self.figures, self.summary, where=self.where)

    def as_object(self) -> dict[str, Any]:
        """The same for programs: JSON types only."""
        return as_object(self.verdict, self.figures, self.summary, where=self.where)


def conclude(
    path: Path,
    *,
    where: str,
    gap_allowed: Callable[[str], bool] = lambda channel: False,
    gaps_allowed_to: Iterable[str] = (),
    harmed_edge: str = "",
) -> Outcome:
    """Judge and measure a history. `gap_allowed`: whether a told gap of this channel is no finding.

    Raises:
        msgspec.MsgspecError: the file holds something else.
    """
    channels = {event.channel for event in read_history(path) if isinstance(event, Publishing)}
    verdict = judge(read_history(path), gaps_allowed=filter(gap_allowed, channels), gaps_allowed_to=gaps_allowed_to)
    figures = measure(read_history(path), harmed_edge=harmed_edge)
    return Outcome(verdict, figures, summarize(read_history(path)), where)
