"""Frames as the server writes them."""

from __future__ import annotations

import pytest

from services.edge.transport.websocket.frames import binary_frame, close_frame, text_frame


@pytest.mark.parametrize(
    ("size", "start"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_length_takes_the_shortest_form(size: int, start: bytes) -> None:
    payload = b"a" * size
    assert text_frame(payload) == start + payload
    assert binary_frame(payload) == b"\x82" + start[1:] + payload


def test_a_close_frame_holds_code_and_reason() -> None:
    assert close_frame(3008, "slow") == b"\x88\x06\x0b\xc0slow"


def test_a_long_reason_is_cut_between_characters() -> None:
    frame = close_frame(3000, "é" * 100)
    assert frame[1] == 2 + 122
    assert frame[4:].decode() == "é" * 61


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_a_code_that_may_not_be_sent_is_refused(code: int) -> None:
    with pytest.raises(ValueError, match=str(code)):
        close_frame(code, "")
