"""Curves as PNG. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

_INCHES = (7.0, 3.4)
_DPI = 110


def draw_lines(
    file: Path, title: str, series: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, log_x: bool = False
) -> None:
    """Write a plot, from y = 0 on; its folder is made where it is missing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    file.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=_INCHES)
    for name, points in series.items():
        axes.plot([each[0] for each in points], [each[1] for each in points], marker=".", label=name)
    if log_x:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(file, dpi=_DPI, bbox_inches="tight")
    pyplot.close(figure)
