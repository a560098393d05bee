"""Channels of conversations."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.persistence.chat.domain.names import direct_channel, group_channel, open_channel, type_of
from services.persistence.chat.domain.state import Type
from services.shared.checks import is_channel_name

_USERS = st.text(min_size=1, max_size=20)


@given(_USERS, _USERS)
def test_two_users_have_one_channel_whoever_begins(one: str, other: str) -> None:
    channel = direct_channel("conv", [one, other])
    assert channel == direct_channel("conv", [other, one])
    assert re.fullmatch(r"conv:d\.[a-z2-7]{26}", channel)
    assert is_channel_name(channel)
    assert type_of(channel) is Type.DIRECT


@given(st.lists(st.tuples(_USERS, _USERS), max_size=20))
def test_other_users_have_other_channels(pairs: list[tuple[str, str]]) -> None:
    assert len({direct_channel("conv", pair) for pair in pairs}) == len({frozenset(pair) for pair in pairs})


@pytest.mark.parametrize("users", [[], [""], ["a", ""], ["a", "b", "c"]])
def test_none_and_three_and_nobody_have_no_direct_conversation(users: list[str]) -> None:
    with pytest.raises(ValueError, match="one or two users"):
        direct_channel("conv", users)


def test_a_group_has_a_name_that_all_its_random_bits_are_in() -> None:
    names = {
        group_channel("conv", bytes(at == bit // 8 and 1 << (7 - bit % 8) for at in range(17))) for bit in range(130)
    }
    assert len(names) == 130
    assert all(type_of(name) is Type.GROUP for name in names)
    with pytest.raises(ValueError, match="17 bytes"):
        group_channel("conv", bytes(16))


def test_an_open_conversation_has_a_readable_name_or_a_random_one() -> None:
    assert open_channel("conv", "city.graz-2") == "conv:o.city.graz-2"
    assert type_of(open_channel("conv", None, bytes(17))) is Type.OPEN
    for name in ("", "Graz", "-a", "a b", "a" * 65, "a:b", "ä", "a\n"):
        with pytest.raises(ValueError, match="1 to 64"):
            open_channel("conv", name)


@pytest.mark.parametrize(
    "channel",
    ["conv", "conv:", "conv:x", "conv:d.", "conv:d.abc", "conv:g." + "1" * 26, "conv:x.abc", "conv:o.A", "d.a"],
)
def test_other_channels_are_no_conversations(channel: str) -> None:
    assert type_of(channel) is None
