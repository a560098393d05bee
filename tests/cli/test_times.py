"""Times that commands take and print."""

from __future__ import annotations

import time

import click
import pytest

from cli.options import Duration
from cli.output import when


@pytest.mark.parametrize(
    ("text", "seconds"), [("90d", 7_776_000), ("12h", 43_200), ("030m", 1_800), ("2000000d", 172_800_000_000)]
)
def test_a_time_has_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "d",
        "0d",
        "00d",
        "1",
        "1y",
        "-1d",
        "1.5d",
        "1 d",
        "1d\n",
        "\u0661d",
        "4000000d",
        "9" * 12 + "m",
        "9" * 5_000 + "d",
    ],
)
def test_what_is_no_time_or_ends_after_the_year_9999_is_wrong_usage(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


def test_any_stored_time_is_printed() -> None:
    assert when(0) == "1970-01-01T00:00:00+00:00"
    assert when(253_402_300_799) == "9999-12-31T23:59:59+00:00"
    for unix_s in (253_402_300_800, int(time.time()) + 4_000_000 * 86_400, 2**63 - 1, -(2**63)):
        assert when(unix_s) == f"{unix_s} s"
