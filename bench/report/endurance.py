"""Verdicts and processes over time as Markdown, for whatever runs long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bench.measure.leaks import Finding
from bench.measure.vitals import Vitals
from bench.report.results import Origin


def head(title: str, origin: Origin) -> Iterator[str]:
    """The beginning of a page."""
    yield f"# {title}"
    yield ""
    yield f"Written by `{origin.command}` on {origin.date}; [README.md](README.md) says what is measured and how."
    yield ""
    yield from machine_lines(origin)


def machine_lines(origin: Origin) -> Iterator[str]:
    """On what."""
    yield "| machine | |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in origin.machine.items())
    yield ""
    yield "Versions: " + ", ".join(f"{name} {value}" for name, value in origin.versions.items()) + "."
    yield ""


def verdict(findings: Sequence[Finding]) -> Iterator[str]:
    """Everything that was to hold."""
    failed = sum(not finding.good for finding in findings)
    yield f"**Failed: {failed} of {len(findings)}.**" if failed else f"All {len(findings)} hold."
    yield ""
    yield "| what | found | bound | |"
    yield "|---|---|---|---|"
    for finding in findings:
        yield f"| {finding.what} | {finding.found} | {finding.bound} | {'holds' if finding.good else '**fails**'} |"
    yield ""


def processes(moments: Mapping[str, Mapping[str, Vitals]]) -> Iterator[str]:
    """RSS in MiB, open files, threads and tasks of every process at some moments."""
    yield "| | " + " | ".join(moments) + " |"
    yield "|---" * (len(moments) + 1) + "|"
    for name in next(iter(moments.values())):
        cells = (_cell(each[name]) for each in moments.values())
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


def _cell(seen: Vitals) -> str:
    tasks = "" if seen.tasks is None else f", {seen.tasks} tasks"
    return f"{seen.rss_kib / 1024:.1f} MiB, {seen.fds} fds, {seen.threads} threads{tasks}"
