"""JSON texts that are carried byte for byte: what is let through, and what is not.

Reliability, B23.
"""

from __future__ import annotations

import base64
import hmac
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.edge.domain.access.claims import SubscriptionClaims
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.access.tokens import TokenInvalid, TokenVerifier
from services.shared.json_text import MAX_NESTING, InvalidJson, checked_json, nests_too_deep
from tests.edge.protocols.corpus import BROKEN, SOUND, strict

SECRET = b"a secret of at least thirty-two bytes"
TOKENS = [b"[", b"]", b"{", b"}", b",", b":", b'"', b'"a"', b'"\\', b"\\u", b"d83d", b"\\ude00", b"0", b"1", b"-", b"."]
TOKENS += [b"e", b"E+", b"null", b"true", b"NaN", b"Infinity", b" ", b"\t", b"\r", b"\n", b"\x00", b"\xff", b"\xed\xa0"]
TOKENS += [b"e30", b"E+", b"0" * 99]
TOKENS += ["ж".encode(), b"\\n", b"\\", b"/", b"9" * 30, b'"k":']


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND)
def test_B23_a_sound_text_comes_out_byte_for_byte(text: bytes) -> None:
    strict(text)
    assert checked_json(text) == text
    assert checked_json(b" \r\n\t" + text + b"\n ") == text


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_B23_a_broken_text_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidJson):
        checked_json(text)


@pytest.mark.parametrize("claim", ["info", "data", "b64info", "b64data"])
def test_payloads_of_tokens_are_checked_too(claim: str) -> None:
    keyring = KeyRing()
    keyring.set_secrets(SECRET)
    verifier = TokenVerifier(keyring)

    def verified(text: bytes) -> SubscriptionClaims:
        value = b'"' + base64.b64encode(text) + b'"' if claim.startswith("b64") else text
        return verifier.subscription(signed(b'{"channel":"a","%b":%b}' % (claim.encode(), value)), now=0.0)

    for name, text in SOUND.items():
        if len(text) < 1_000:
            claims = verified(text)
            assert (claims.info or claims.data) == (b"" if name == "null" else text)
    for text in BROKEN.values():
        if 0 < len(text) < 1_000:
            with pytest.raises(TokenInvalid):
                verified(text)


def signed(payload: bytes) -> str:
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (b'{"alg":"HS256"}', payload)]
    signature = hmac.digest(SECRET, b".".join(parts), "sha256")
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def test_the_limit_of_nesting_is_exact_and_looks_past_strings() -> None:
    for opening, closing in ((b"[", b"]"), (b'{"]":', b"}")):
        assert checked_json(opening * MAX_NESTING + b"1" + closing * MAX_NESTING)
        with pytest.raises(InvalidJson, match="deep"):
            checked_json(opening * (MAX_NESTING + 1) + b"1" + closing * (MAX_NESTING + 1))
    assert not nests_too_deep(b'["' + b"[" * 500 + b'\\"[["]')
    assert nests_too_deep(b"[[[]]]", limit=2)
    assert not nests_too_deep(b"[[],[],[[]]]", limit=3)


def agree(text: bytes) -> None:
    try:
        strict(text)
    except (ValueError, RecursionError):
        with pytest.raises(InvalidJson):
            checked_json(text)
    else:
        assert checked_json(text) == text.strip(b" \t\r\n")


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(TOKENS), max_size=12).map(b"".join))
@example(b'"\\ud83d\\ude00"')
@example(b'"\\ud83d\\ud83d\\ude00"')
def test_what_is_let_through_is_what_a_strict_parser_takes(text: bytes) -> None:
    agree(text)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(SOUND.values(), key=len)[:24]), st.data())
def test_one_changed_byte_is_judged_as_a_strict_parser_does(text: bytes, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 255))
    agree(text[:index] + bytes([byte]) + text[index + 1 :])


DIGITS = st.text("0123456789", min_size=1, max_size=30) | st.integers(290, 320).map(lambda count: "1" * count)
NUMBERS = st.builds(
    lambda sign, whole, fraction, exponent: f"{sign}{whole.lstrip('0') or '0'}{fraction}{exponent}",
    st.sampled_from(["", "-"]),
    DIGITS,
    st.just("") | DIGITS.map(".{}".format),
    st.just("")
    | st.builds("{}{}{}".format, st.sampled_from(["e", "E", "e+", "E-"]), st.sampled_from(["", "00"]), DIGITS)
    | st.integers(270, 320).map("e{}".format),
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(NUMBERS, min_size=1, max_size=3), st.booleans())
def test_numbers_that_clients_can_not_read_are_refused_and_no_others(numbers: list[str], hidden: bool) -> None:
    text = json.dumps(numbers) if hidden else f"[{','.join(numbers)}]"
    agree(text.encode())
