"""The client's side of WebSocket and of tokens, judged by other libraries."""

from __future__ import annotations

import jwt
import pytest
from websockets.frames import Opcode
from websockets.server import ServerProtocol

from bench.load.clock import FIRST, clock_from
from bench.load.frames import close_frame, pong_frame, sign_token, text_frame, upgrade_request


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_frames_are_read_by_a_real_server(size: int) -> None:
    server = ServerProtocol(max_size=None)
    server.receive_data(upgrade_request("127.0.0.1:1", "/connection/websocket"))
    (request,) = server.events_received()
    server.send_response(server.accept(request))  # type: ignore[arg-type]
    server.receive_data(text_frame(b"x" * size) + pong_frame(b"abcd") + close_frame())
    text, pong, close = server.events_received()
    assert (text.opcode, text.data) == (Opcode.TEXT, b"x" * size)  # type: ignore[union-attr]
    assert (pong.opcode, pong.data) == (Opcode.PONG, b"abcd")  # type: ignore[union-attr]
    assert close.opcode is Opcode.CLOSE  # type: ignore[union-attr]


def test_lengths_take_no_more_bytes_than_they_must() -> None:
    assert [len(text_frame(bytes(size))) - size for size in (125, 126, 65_535, 65_536)] == [6, 8, 8, 14]


def test_tokens_are_valid_for_their_user() -> None:
    secret = "s" * 32
    assert jwt.decode(sign_token(secret, "user-7"), secret, algorithms=["HS256"])["sub"] == "user-7"


def test_clocks_of_all_processes_agree_and_show_ten_digits() -> None:
    one, other = clock_from(0), clock_from(0)
    assert one() <= other() <= one()
    assert FIRST == 1_000_000_000
