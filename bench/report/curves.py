"""Curves as tables and plots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.measure.statistics import Spread
from bench.report.endurance import machine_lines
from bench.report.lines import draw_lines
from bench.report.results import Origin
from bench.scenarios.curves import CURVES, Curve, Curves

_SHOWN = (
    ("cpu_us_per_publish", "CPU of a publication with its deliveries, µs", 0),
    ("cpu_us_per_delivery", "of a delivery, with its share of the publication", 2),
    ("edges_us_per_publish", "a publication's, edges", 0),
    ("redis_us_per_publish", "a publication's, Redis", 0),
)
_LOG_FROM = 20.0  # an x that grows by more is drawn by its order of magnitude


class CurveResults(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a run."""

    origin: Origin
    curves: Curves


def tables(results: CurveResults, plots: str) -> Iterator[str]:
    """All curves that were measured; `plots`: the folder of the plots, from there."""
    yield f"Written by `{results.origin.command}` on {results.origin.date}."
    yield ""
    yield from machine_lines(results.origin)
    for curve in CURVES:
        columns = {figure: results.curves.spreads(curve.name, figure) for figure, _, _ in _SHOWN}
        if not columns["cpu_us_per_publish"]:
            continue
        yield f"### By {curve.text}"
        yield ""
        yield f"| {curve.x} | " + " | ".join(text for _, text, _ in _SHOWN) + " |"
        yield "|---" * (len(_SHOWN) + 1) + "|"
        for x in columns["cpu_us_per_publish"]:
            cells = (_text(columns[figure][x], digits) for figure, _, digits in _SHOWN)
            yield f"| {x:,.0f} | {' | '.join(cells)} |"
        yield ""
        yield f"![{curve.text}]({plots}/{_file(curve)})"
        yield ""


def _text(found: Spread, digits: int) -> str:
    median = f"{found.median:,.{digits}f}"
    return median if found.rounds == 1 else f"{median} ({found.low:,.{digits}f}–{found.high:,.{digits}f})"


def draw(curves: Curves, folder: Path) -> None:
    """A plot of each curve."""
    for curve in CURVES:
        figure = "cpu_us_per_delivery" if curve.per_delivery else "cpu_us_per_publish"
        found = curves.spreads(curve.name, figure)
        if not found:
            continue
        series = {"": [(x, each.median) for x, each in found.items()]}
        y = "CPU µs per delivery" if curve.per_delivery else "CPU µs per publication"
        log_x = max(found) > min(found) * _LOG_FROM
        draw_lines(folder / _file(curve), f"By {curve.text}", series, x=curve.x, y=y, log_x=log_x)


def _file(curve: Curve) -> str:
    return f"cost-by-{curve.name.replace(', ', '-')}.png"
