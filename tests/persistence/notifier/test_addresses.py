"""Which addresses are called where a user says the name, and what that costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.persistence.notifier.ports import Plan
from services.persistence.notifier.upstream import answer_of
from services.persistence.notifier.ways import webpush
from services.persistence.notifier.ways.webpush import WebPushWay
from services.persistence.webhooks.http import is_public
from services.shared.errors import Unavailable
from tests.support.push_keys import ec_key
from thalamus.chat.v1 import chat_pb2 as pb

PUBLIC = ["1.1.1.1", "142.250.1.1", "2606:4700::1111", "::ffff:1.1.1.1"]
PRIVATE = [
    *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.0.1"),
    *("224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fd00::1", "fec0::1", "ff0e::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "::7f00:1"),
    *("64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:7f00:1::1"),
]


@pytest.mark.parametrize(("addresses", "expected"), [(PUBLIC, True), (PRIVATE, False)])
def test_c63_addresses_that_lead_into_a_private_network_are_not_called(addresses: list[str], expected: bool) -> None:
    assert [one for one in addresses if is_public(one) is not expected] == []


def test_names_that_users_choose_fill_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webpush, "_ORIGINS", 3)
    ec_key(tmp_path / "key")
    way = WebPushWay(tmp_path / "key", "mailto:ops@example.com", ["push.example.com"])
    for number in range(10):
        way._authorization(f"https://h{number}.push.example.com/x")  # noqa: SLF001
        assert len(way._signed) <= 3  # noqa: SLF001


@pytest.mark.parametrize("result", [b"", b"[]", b'{"epoch":1}'])
def test_an_answer_that_can_not_be_read_ends_no_notifier(result: bytes) -> None:
    with pytest.raises(Unavailable):
        answer_of(pb.CallResponse(result=result), Plan)
