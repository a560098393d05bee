"""Patches are read by the official SDK's decoder, at a bounded cost.

They are text if the payloads are.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from centrifuge.fossil import apply_delta
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.edge.domain.model import Publication
from services.edge.domain.replies import PublicationPush
from services.edge.protocols.centrifugal import fossil
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from services.edge.protocols.centrifugal.protobuf_codec import CentrifugalProtobuf
from tests.support.deltas import payloads

_BASE = b'{"n": 0, "pad": "' + b"y" * 80 + b'"}'


def test_the_example_of_the_protocol() -> None:
    assert fossil.create(_BASE, _BASE.replace(b"0", b"1")) == b'1Z\n7:{"n": 11S@7,3P9pH3;'


# The example of the page on Fossil's delta format: lengths and offsets with their values.
_NUMBERS = {"1Xb": 6246, "4E": 270, "FN": 983, "4C": 268, "Jd": 1256, "5x": 380, "Kt": 1336, "79": 457, "Qt": 1720}
_NUMBERS |= {"F": 15, "~E": 4046, "Y0": 2176, "0": 0, "~": 63, "10": 64}


@pytest.mark.parametrize(("text", "value"), _NUMBERS.items())
def test_numbers_are_those_of_the_published_example(text: str, value: int) -> None:
    assert fossil.create(b"", bytes(value)).split(b"\n")[0] == text.encode()


def test_a_change_in_a_long_text_is_a_short_patch() -> None:
    rows = [b'{"id":%d,"price":100}' % number for number in range(200)]
    changed = [row.replace(b"100", b"99") if number % 50 == 25 else row for number, row in enumerate(rows)]
    base, result = b",".join(rows), b",".join(changed)
    patch = fossil.create(base, result)
    assert apply_delta(base, patch) == result
    assert len(patch) < len(result) / 30


def test_what_moved_is_copied() -> None:
    one, other = bytes(range(32, 120)) * 3, b"another text that is a little longer than a piece of the algorithm" * 2
    patch = fossil.create(one + other, other + one)
    assert apply_delta(one + other, patch) == other + one
    assert len(patch) < (len(one) + len(other)) / 2


def test_nothing_is_inserted_of_what_stays_in_a_text_of_long_characters() -> None:
    base, result = "漢字😀" * 300 + "é", "漢字😀" * 300 + "è"  # é and è begin with the same byte, 字 and 孖 too
    patch = fossil.create(base.encode(), result.encode())
    assert len(patch) < 30
    assert "è" in patch.decode()
    other = base.replace("字", "孖", 1)
    assert fossil.create(base.encode(), other.encode()).decode().count("孖") == 1


class _Counted(bytes):
    """Bytes that count how much of them is searched."""

    searched = 0
    searches = 0

    def find(self, piece: bytes, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        found = super().find(piece, start, len(self) if end is None else end)
        self.searches += 1
        self.searched += (min(len(self), len(self) if end is None else end) if found < 0 else found + 32) - start
        return found


def _hard_cases() -> Iterable[tuple[bytes, bytes]]:
    many, rng = 1 << 18, random.Random(5)
    yield b"a" * many, (b"a" * 16 + b"b" + b"a" * 15) * (many // 32)
    yield rng.randbytes(many), rng.randbytes(many)
    base = rng.randbytes(many)
    yield base, b"".join(base[at : at + 40] + b"!" * 24 for at in range(0, many, 64))
    yield base, b"".join(base[at : at + 32] for at in range(many - 32, 0, -64))
    yield bytes([0x80]) * many, bytes([0x80]) * 100 + b"x" + bytes([0x80]) * many


@pytest.mark.parametrize("index", range(5))
def test_the_work_is_bounded_whatever_the_payloads_are(index: int) -> None:
    base, result = list(_hard_cases())[index]
    counted = _Counted(base)
    assert apply_delta(base, fossil.create(counted, result)) == result
    assert counted.searches <= 2 * 512
    assert counted.searched <= 3 * 131_072


def test_random_edits_are_read_by_the_decoder_of_the_python_sdk() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    for base, result in payloads(seed, 2_000):
        assert apply_delta(base, fossil.create(base, result)) == result


_text = st.lists(st.sampled_from(["a", "é", "漢", "😀", "k" * 40, '"n":1,', "x" * 15]), max_size=40).map("".join)


@settings(max_examples=500, deadline=None)
@given(_text, _text, _text, _text)
@example("", "", "", "")
def test_patches_of_texts_are_texts_and_give_the_result(head: str, old: str, new: str, tail: str) -> None:
    base, result = (head + old + tail).encode(), (head + new + tail).encode()
    patch = fossil.create(base, result)
    patch.decode()
    assert apply_delta(base, patch) == result


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=400), st.integers(0, 400), st.integers(0, 400))
def test_patches_of_any_bytes_give_the_result(one: bytes, other: bytes, start: int, end: int) -> None:
    base, result = one + other, other[:start] + one[start:end] + other
    assert apply_delta(base, fossil.create(base, result)) == result


@pytest.mark.parametrize("codec", [CentrifugalJson(bytes), CentrifugalProtobuf(bytes)], ids=["json", "protobuf"])
def test_what_is_sent_as_a_patch_is_never_longer_than_the_whole(codec: CentrifugalJson | CentrifugalProtobuf) -> None:
    """Beside the patch, the publication has to say that it is one."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    patches = 0
    for _ in range(4_000):
        base, data = [
            b'{"id":%d,"text":"%b"}' % (chance.randrange(1_000), b"x\\n" * size)
            for size in (chance.randrange(20), chance.randrange(20))
        ]
        full = codec.delta.full.encode(PublicationPush("a", Publication(data), previous=base))
        sent = codec.delta.patch.encode(PublicationPush("a", Publication(data), previous=base))
        assert full is not None
        assert sent is not None
        assert sent == full or len(sent) < len(full), (base, data)
        patches += sent != full
    assert patches > 400
