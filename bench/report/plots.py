"""Draws the first figure of each scenario: a bar with its spread for every target.

Needs matplotlib.
"""

from __future__ import annotations

from pathlib import Path

from bench.report.results import Results
from bench.scenarios.catalogue import OURS, SCENARIOS

_OURS_COLOUR, _THEIRS_COLOUR = "#2f6fde", "#b8bec9"
_INCHES = (7.0, 0.5)
_DPI = 110


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write PNG files into the folder, which is made if missing.

    Returns: scenario → its file, relative to the parent of the folder.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    for scenario in SCENARIOS:
        shown = scenario.shown[0]
        spreads = {name: results.spread(scenario.name, name, shown.figure) for name in results.targets()}
        bars = {name: found for name, found in spreads.items() if found is not None}
        if len(bars) < 2:  # nothing to compare
            continue
        names = list(reversed(bars))
        medians = [bars[name].median for name in names]
        below = [bars[name].median - bars[name].low for name in names]
        above = [bars[name].high - bars[name].median for name in names]
        colours = [_OURS_COLOUR if name == OURS else _THEIRS_COLOUR for name in names]
        figure, axes = pyplot.subplots(figsize=(_INCHES[0], 1.2 + _INCHES[1] * len(names)))
        container = axes.barh(names, medians, xerr=[below, above], color=colours, capsize=3)
        axes.bar_label(container, labels=[f"{value:,.{shown.digits}f}" for value in medians], padding=4)
        axes.set_title(f"{scenario.name}: {shown.text}", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.15)
        file = folder / f"{scenario.name.replace(' ', '-')}.png"
        figure.savefig(file, dpi=_DPI, bbox_inches="tight")
        pyplot.close(figure)
        written[scenario.name] = f"{folder.name}/{file.name}"
    return written
