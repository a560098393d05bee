"""What is read past the core is what the core would have read."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import BINARY, TEXT, Frame
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from services.edge.transport.frames import pong_frame
from services.edge.transport.plain_frames import FOR_CORE, read_plain
from tests.edge.transport.support import CLOSE, CONT, PING, PONG, close_payload, frame

_MAX_BYTES = 1_000
_SIZES = st.sampled_from([0, 1, 5, 124, 125, 126, 127, 130, 999, 1_000, 1_001, 66_000])
_FRAMES = st.one_of(
    st.builds(lambda opcode, size: frame(opcode, b"a" * size), st.sampled_from([TEXT, BINARY, PING, PONG]), _SIZES),
    st.builds(
        lambda opcode, fin, rsv, masked: frame(opcode, b"abc", fin=fin, rsv=rsv, masked=masked),
        st.integers(0, 15),
        st.booleans(),
        st.sampled_from([0, 0, 0, 1, 2, 4]),
        st.sampled_from([True, True, True, False]),
    ),
    st.sampled_from(
        [
            frame(TEXT, b"ab", fin=False) + frame(PING, b"between") + frame(CONT, b"c"),
            frame(CLOSE, close_payload(1000)),
            b"\x81\xff" + (3).to_bytes(8, "big") + b"\0\0\0\0abc",
            b"\x81\xfe\0\x03\0\0\0\0abc",
            b"\x89\xfe\0\x03\0\0\0\0abc",
        ]
    ),
)


def a_core() -> ServerProtocol:
    return ServerProtocol(state=OPEN, max_size=(_MAX_BYTES + 125, _MAX_BYTES))


def received(core: ServerProtocol, data: bytes) -> list[tuple[int, bytes, bool]]:
    core.receive_data(data)
    return [
        (event.opcode, bytes(event.data), event.fin) for event in core.events_received() if isinstance(event, Frame)
    ]


def by_core(chunks: list[bytes]) -> tuple[list[tuple[int, bytes, bool]], bytes]:
    core = a_core()
    events = [event for chunk in chunks for event in received(core, chunk)]
    return events, b"".join(core.data_to_send())


def past_core(chunks: list[bytes]) -> tuple[list[tuple[int, bytes, bool]], bytes]:
    core: ServerProtocol | None = None
    events, written, pending, least = [], b"", b"", 1
    for chunk in chunks:
        if core is not None:
            events += received(core, chunk)
            continue
        pending += chunk
        found, used, missing = read_plain(pending, _MAX_BYTES)
        assert not found or len(pending) >= least
        events += [(int(opcode), payload, True) for opcode, payload in found]
        written += b"".join(pong_frame(payload) for opcode, payload in found if opcode == PING)
        pending = pending[used:]
        least = len(pending) + missing
        if missing == FOR_CORE:
            core = a_core()
            events += received(core, pending)
        else:
            assert (missing == 0) == (not pending)
    return events, written + (b"" if core is None else b"".join(core.data_to_send()))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(_FRAMES, min_size=1, max_size=5), st.integers(1, 2_000))
def test_frames_are_those_of_the_core_however_they_arrive(frames: list[bytes], step: int) -> None:
    data = b"".join(frames)
    chunks = [data[start : start + step] for start in range(0, len(data), step)]
    assert past_core(chunks) == by_core(chunks)


def test_messages_pings_and_pongs_need_no_core() -> None:
    data = frame(TEXT, b"a" * 300) + frame(BINARY, b"b") + frame(PING, b"c") + frame(PONG)
    found, used, missing = read_plain(data + frame(TEXT, b"next")[:4], _MAX_BYTES)
    assert [(int(opcode), payload) for opcode, payload in found] == [
        (TEXT, b"a" * 300),
        (BINARY, b"b"),
        (PING, b"c"),
        (PONG, b""),
    ]
    assert (used, missing) == (len(data), 6)
