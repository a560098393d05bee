"""Every number among the settings of every service.

What lies outside its range ends the start, by name.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.config import AuthConfig
from services.edge.config import EdgeConfig
from services.persistence.config import PersistenceConfig
from services.presence.config import PresenceConfig
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.process.config import ConfigError, Setting, settings_of
from services.shared.process.variables import read_checked_env

SERVICES: dict[str, type[Any]] = {
    "EDGE_": EdgeConfig,
    "AUTH_": AuthConfig,
    "PRESENCE_": PresenceConfig,
    "PERSISTENCE_": PersistenceConfig,
    "DYNAMODB_": DynamoDbSettings,
}
NUMBERS: dict[str, tuple[str, Setting]] = {
    setting.variable: (prefix, setting)
    for prefix, config in SERVICES.items()
    for setting in settings_of(config, prefix)
    if setting.kind in (int, float)
}
NEGATIVE = st.one_of(
    st.integers(max_value=-1).map(str),
    st.floats(max_value=-1e-300, allow_infinity=False).map(repr),
)
NO_NUMBER = ["", " ", "nan", "inf", "-inf", "1e999", "x", "5s", "1,5", "0x10", "None", "true", "9" * 400, "9" * 5_000]

# Ends of ranges that the default of another setting forbids.
OF_ANOTHER_SETTING: dict[str, set[float]] = {"EDGE_PONG_TIMEOUT_S": {1_000_000_000}}


def read(variable: str, text: str) -> Any:
    """Return the setting as read from this text, also from a group of settings."""
    prefix, setting = NUMBERS[variable]
    config = read_checked_env(SERVICES[prefix], {variable: text}, prefix)
    places = [config, *(getattr(config, group, None) for group in ("transport", "domain", "feed"))]
    (place,) = (one for one in places if hasattr(one, setting.field.name))
    return getattr(place, setting.field.name)


def refused(variable: str, text: str) -> None:
    with pytest.raises(ConfigError) as complaint:
        read(variable, text)
    assert str(complaint.value).startswith(f"{variable} must be ")
    assert len(str(complaint.value)) < 200


@pytest.mark.parametrize("text", NO_NUMBER, ids=lambda text: text[:8] or "empty")
@pytest.mark.parametrize("variable", NUMBERS)
def test_what_is_no_finite_number_is_refused_by_name(variable: str, text: str) -> None:
    refused(variable, text)


@given(variable=st.sampled_from(sorted(NUMBERS)), text=NEGATIVE)
def test_negative_numbers_are_refused_by_name(variable: str, text: str) -> None:
    refused(variable, text)


@pytest.mark.parametrize("variable", NUMBERS)
def test_minus_one_is_refused_by_name(variable: str) -> None:
    refused(variable, "-1")


@pytest.mark.parametrize("variable", NUMBERS)
def test_the_default_is_within_the_range_and_so_are_its_ends(variable: str) -> None:
    _, setting = NUMBERS[variable]
    low, high = setting.field.metadata["range"]
    assert 0 <= low <= setting.field.default <= high
    for end in {low, high} - OF_ANOTHER_SETTING.get(variable, set()):
        assert read(variable, str(end)) == end
    refused(variable, str(high + 1))
    if low > 0:
        refused(variable, "0")
