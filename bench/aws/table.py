"""The table of what a million messages cost."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.aws.measure import Measured, Resting

_MILLION = 1_000_000
_GB = 10**9
_MONTH_S = 730 * 3_600
NAMES = {1: "one by one", 10: "10 at once in a channel", 100: "100 at once in a channel"}


class Prices(msgspec.Struct, forbid_unknown_fields=True):
    """Prices in US dollars; see `prices.toml`."""

    region: str
    as_of: str
    write_units_per_million: float
    read_units_per_million: float
    kept_gb_month: float
    recovery_gb_month: float
    queue_requests_per_million: float

    @classmethod
    def read(cls, path: Path) -> Prices:
        """Read a file.

        Raises:
            msgspec.ValidationError: a price is missing or is no number.
        """
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), cls)


def table(quiet: Measured, busy: Sequence[Measured], resting: Resting, prices: Prices, size: int) -> list[str]:
    """Return the lines of the table, for messages of `size` bytes."""
    lines = [
        f"A million messages of {size} bytes, and their keys, with prices of {prices.region} as of {prices.as_of}:",
        "",
        "| messages come | write units | read units | $ to store them | GB kept | $ a month to keep them |",
        "|---|---|---|---|---|---|",
        line("each more than a minute after the one before, in its channel", quiet, prices),
    ]
    lines += [line(NAMES[one.at_once], one, prices) for one in busy]
    pages = ", ".join(f"{one.page:g} ({NAMES[one.at_once]})" for one in busy)
    dearest = max(one.page for one in busy) * prices.read_units_per_million
    idle = _paid(resting.writes * _MONTH_S, resting.reads * _MONTH_S, prices)
    second = f"{resting.writes:g} write and {resting.reads:g} read units a second"
    return [
        *lines,
        "",
        f"* A page of 100 messages out of the middle of the store takes read units: {pages}. A million pages cost"
        f" ${dearest:,.2f} at most. Readers who are up to date read from Redis, which costs nothing here.",
        f"* A replica of persistence that does nothing takes {second}: ${idle:,.2f} a month.",
        f"* Point-in-time recovery costs ${prices.recovery_gb_month:g} for each GB and month more.",
    ]


def line(name: str, one: Measured, prices: Prices) -> str:
    """Return the row of one way in which messages come."""
    kept = one.kept_bytes * _MILLION / _GB
    paid = _paid(one.writes * _MILLION, one.reads * _MILLION, prices)
    units = f"{one.writes * _MILLION:,.0f} | {one.reads * _MILLION:,.0f}"
    return f"| {name} | {units} | {paid:,.2f} | {kept:,.2f} | {kept * prices.kept_gb_month:,.2f} |"


def _paid(writes: float, reads: float, prices: Prices) -> float:
    return (writes * prices.write_units_per_million + reads * prices.read_units_per_million) / _MILLION
