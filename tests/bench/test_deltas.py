"""The measurement of deltas.

Its payloads, its client, and all of it on a small scale.
"""

from __future__ import annotations

import json
import random
from itertools import islice, pairwise

from bench.deltas import KINDS, measure, states
from bench.load.counting import CountingClient
from services.edge.transport.websocket.frames import binary_frame, text_frame


def test_payloads_have_about_the_size_and_resemble_one_another() -> None:
    for size in (200, 1_000, 16_000):
        texts = [json.dumps(each, separators=(",", ":")) for each in islice(states(size, random.Random(1)), 20)]
        assert all(0.7 * size < len(text) < 1.3 * size for text in texts)
        rows = [json.loads(text)["rows"] for text in texts]
        for one, other in pairwise(rows):
            assert sum(a != b for a, b in zip(one, other, strict=True)) <= max(1, len(one) // 20)


def test_messages_and_bytes_are_counted_however_they_are_cut() -> None:
    frames = [text_frame(b"x"), binary_frame(b"y" * 126), text_frame(b"z" * 70_000), text_frame(b"")]
    said = b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + b"".join(frames)
    for step in (1, 7, 1_000, len(said)):
        client = CountingClient()
        for start in range(0, len(said), step):
            client.data_received(said[start : start + step])
        assert client.messages == 1 + len(frames)
        assert client.bytes == sum(map(len, frames))


async def test_all_of_it_on_a_small_scale() -> None:
    table = await measure([2_000], subscribers=3, publications=5, rounds=2)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[1] for row in rows] == [name + (" with deltas" if delta else "") for name, delta in KINDS]
    sizes = [int(row[2].replace(",", "")) for row in rows]
    assert sizes[1] < sizes[0] / 2
    assert sizes[3] < sizes[2] / 2
