"""Which tokens are believed, and what they say. Wire protocol, 9; rows B11 to B15."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from services.edge.domain.access import token_log
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.access.tokens import TokenExpired, TokenInvalid, TokenVerifier
from tests.support.api_keys import api_key_id, known_key

SECRET = b"a secret of at least thirty-two bytes"
NOW = 1_800_000_000.0
ED, RSA = Ed25519PrivateKey.generate(), generate_private_key(65_537, 2_048)


def ring() -> KeyRing:
    made = KeyRing()
    made.set_secrets(SECRET)
    keys = [
        {**json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(ED.public_key())), "kid": "ed", "alg": "EdDSA"},
        {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key())), "kid": "rsa", "alg": "RS256"},
    ]
    made.set_jwks(json.dumps({"keys": keys}).encode())
    return made


RING = ring()
VERIFIER = TokenVerifier(RING)


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: object, body: object, secret: bytes = SECRET) -> str:
    """An HS256 signature over any header and body; bytes go in as they are."""
    parts = [b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (header, body)]
    text = ".".join(parts)
    return f"{text}.{b64(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def token(algorithm: str = "HS256", **claims: Any) -> str:
    keys: dict[str, Any] = {"HS256": SECRET, "EdDSA": ED, "RS256": RSA}
    kid = {"EdDSA": "ed", "RS256": "rsa"}.get(algorithm)
    body = {"sub": "ann", "exp": NOW + 60, **claims}
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, keys[algorithm], algorithm=algorithm, headers={"kid": kid} if kid else None)


@pytest.mark.parametrize("algorithm", ["HS256", "EdDSA", "RS256"])
def test_a_token_of_each_algorithm_is_believed(algorithm: str) -> None:
    claims = VERIFIER.connection(token(algorithm, info={"n": 1}), NOW)
    assert (claims.user, claims.expires_at) == ("ann", NOW + 60)
    assert json.loads(claims.info) == {"n": 1}
    of_channel = VERIFIER.subscription(token(algorithm, channel="a"), NOW)
    assert (of_channel.user, of_channel.channel) == ("ann", "a")


PUBLIC_PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
BODY = {"sub": "ann", "exp": NOW + 60}
_NONE = b64(b'{"alg":"none"}')
REFUSED = {
    **{f"B11-alg-{alg}": signed({"alg": alg}, BODY) for alg in ("none", "None", "NONE", "nOnE", "", "HS384", "hs256")},
    "B11-unsigned": f"{_NONE}.{b64(json.dumps(BODY).encode())}.",
    "B11-hmac-with-the-public-key": signed({"alg": "HS256", "kid": "rsa"}, BODY, PUBLIC_PEM),
    "B11-alg-of-another-key": token("EdDSA").replace(token("EdDSA").split(".")[0], b64(b'{"alg":"RS256","kid":"ed"}')),
    "B11-crit": signed({"alg": "HS256", "crit": ["exp"]}, BODY),
    "B11-alg-missing": signed({"typ": "JWT"}, BODY),
    "B11-alg-number": signed({"alg": 5}, BODY),
    **{
        f"B12-kid-{kid!r}": jwt.encode(BODY, ED, algorithm="EdDSA", headers={"kid": kid})
        for kid in ("unknown", "../../etc/passwd", "http://127.0.0.1/key", "' OR 1=1 --", "")
    },
    "B12-kid-missing": jwt.encode(BODY, ED, algorithm="EdDSA"),
    **{
        f"B12-{name}": signed({"alg": "HS256", name: value}, BODY)
        for name, value in (
            ("jku", "http://127.0.0.1/"),
            ("x5u", "http://127.0.0.1/"),
            ("jwk", {"kty": "oct", "k": ""}),
        )
    },
    "B13-sub-fraction": signed({"alg": "HS256"}, b'{"sub":5.0}'),
    "B13-sub-true": signed({"alg": "HS256"}, {"sub": True}),
    "B13-sub-endless": signed({"alg": "HS256"}, b'{"sub":' + b"9" * 5_000 + b"}"),
    "B13-sub-array": signed({"alg": "HS256"}, {"sub": ["ann"]}),
    "B13-other-kind": token(channel="a"),
    "B13-exp-text": signed({"alg": "HS256"}, {"exp": "tomorrow"}),
    **{f"B13-exp-{text!r}": token(exp=text) for text in ("", "-1", "1e10", "0x7fffffff", " 1800000060", "NaN", "٣٠")},
    "B13-nbf-text": token(nbf="soon"),
    "B13-expire-at-text": token(expire_at="never"),
    "B13-exp-nan": signed({"alg": "HS256"}, b'{"exp":NaN}'),
    "B13-exp-infinite": signed({"alg": "HS256"}, b'{"exp":1e999}'),
    "B13-channels-text": signed({"alg": "HS256"}, {"channels": "a"}),
    "B13-override-not-a-flag": signed({"alg": "HS256"}, {"subs": {"a": {"override": {"presence": True}}}}),
    "B13-body-no-object": signed({"alg": "HS256"}, []),
    "B13-body-no-json": signed({"alg": "HS256"}, b"{"),
    "B13-info-bad-utf-8": signed({"alg": "HS256"}, b'{"info":"\xff"}'),
    "B13-b64info-no-json": signed({"alg": "HS256"}, {"b64info": base64.b64encode(b"{").decode()}),
    "B15-over-8-KiB": token(info="x" * 8_192),
    "B15-empty": "",
    "B15-one-part": "a",
    "B15-two-parts": "a.b",
    "B15-four-parts": token() + ".x",
    "B15-no-base64": "!!!.!!!.!!!",
    "B15-padded": signed({"alg": "HS256"}, BODY) + "=",
    "B15-not-ascii": token() + "é",
    "B15-wrong-signature": token()[:-6] + "AAAAAA",
    "B15-other-secret": signed({"alg": "HS256"}, BODY, b"another secret of thirty-two bytes!!"),
    "B15-deeply-nested": signed({"alg": "HS256"}, b'{"info":' + b"[" * 2_000 + b"]" * 2_000 + b"}"),
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_with_a_token_is_never_said(text: str) -> None:
    with pytest.raises(TokenInvalid) as caught:
        VERIFIER.connection(text, NOW)
    assert str(caught.value) == ""


@pytest.mark.parametrize("claims", [{"exp": NOW}, {"exp": NOW - 1}, {"nbf": NOW + 1}], ids=["now", "past", "nbf"])
def test_B14_a_token_out_of_its_time_is_expired(claims: dict[str, Any]) -> None:
    with pytest.raises(TokenExpired):
        VERIFIER.connection(token(**claims), NOW)
    with pytest.raises(TokenExpired):
        VERIFIER.subscription(token(channel="a", **claims), NOW)
    assert TokenVerifier(RING, leeway_s=30).connection(token(**claims), NOW).user == "ann"


@pytest.mark.parametrize(("sub", "user"), [(5, "5"), (0, "0"), (-7, "-7"), (2**63, str(2**63)), ("05", "05")], ids=repr)
def test_a_number_as_sub_is_the_text_of_its_digits(sub: Any, user: str) -> None:
    assert VERIFIER.connection(signed({"alg": "HS256"}, {"sub": sub}), NOW).user == user
    assert VERIFIER.subscription(signed({"alg": "HS256"}, {"sub": sub, "channel": "a"}), NOW).user == user


def test_times_may_be_texts_of_decimal_digits() -> None:
    claims = VERIFIER.connection(token(exp=str(int(NOW) + 60), nbf=f"{NOW - 1}", iat=NOW + 9), NOW)
    assert claims.expires_at == NOW + 60
    assert VERIFIER.connection(token(expire_at="0"), NOW).expires_at is None
    for late in ({"exp": str(int(NOW))}, {"nbf": str(int(NOW) + 1)}):
        with pytest.raises(TokenExpired):
            VERIFIER.connection(token(**late), NOW)


def test_a_token_of_a_clock_that_is_ahead_is_believed_within_the_leeway() -> None:
    lenient = TokenVerifier(RING, not_before_leeway_s=10)
    assert lenient.connection(token(nbf=NOW + 10, iat=NOW + 10), NOW).user == "ann"
    wrong: list[dict[str, Any]] = [{"nbf": NOW + 11}, {"exp": NOW}]
    for refused in wrong:  # that leeway is for `nbf` alone
        with pytest.raises(TokenExpired):
            lenient.connection(token(**refused), NOW)


def test_what_is_let_in_by_the_leeway_is_not_over_at_once() -> None:
    lenient = TokenVerifier(RING, leeway_s=30)
    assert lenient.connection(token(exp=NOW - 1), NOW).expires_at == NOW + 29
    assert lenient.connection(token(exp=NOW + 1), NOW).expires_at == NOW + 1


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    token_log._logs.clear()  # noqa: SLF001  # each reason is logged once in ten seconds, by other tests too
    caplog.set_level("DEBUG", token_log.logger.name)
    return caplog


def test_the_log_has_the_reason_and_nothing_of_the_token(lines: pytest.LogCaptureFixture) -> None:
    aimed = TokenVerifier(RING, audience="us", issuer="them")
    planted = "planted-in-the-token"
    for text in (
        *REFUSED.values(),
        token(exp=NOW - 1),
        token(nbf=NOW + 1),
        signed({"alg": planted}, BODY),
        signed({"alg": "HS256"}, {"sub": [planted], "channel": planted}),
        signed({"alg": "HS256"}, {"subs": {planted: {"info": 1, "override": [planted]}}}),
        signed({"alg": "HS256"}, {planted: 1, "exp": planted}),
    ):
        with pytest.raises((TokenInvalid, TokenExpired)):
            VERIFIER.connection(text, NOW)
    for claims in ({"aud": planted}, {"aud": "us", "iss": planted}):
        with pytest.raises(TokenInvalid):
            aimed.connection(token(**claims), NOW)
    reasons = {record.__dict__["reason"] for record in lines.records}
    for part in (
        "signature",
        "`aud`",
        "`iss`",
        "`exp` is past",
        "`nbf` is ahead",
        "`$.sub`",
        "three parts",
        "`channel`",
    ):
        assert any(part in reason for reason in reasons), (part, reasons)
    said = " ".join(str(record.__dict__) for record in lines.records)
    assert planted not in said
    assert not any(segment in said for text in REFUSED.values() for segment in text.split(".") if len(segment) > 9)


def test_a_thousand_refused_tokens_are_one_line_of_each_reason(lines: pytest.LogCaptureFixture) -> None:
    for number in range(1_000):
        with pytest.raises(TokenInvalid):
            VERIFIER.connection(token(sub=f"u{number}")[:-6] + "AAAAAA", NOW)
        with pytest.raises(TokenExpired):
            VERIFIER.subscription(token(channel="a", exp=NOW - number), NOW)
    assert [record.levelname for record in lines.records] == ["INFO", "INFO"]


def test_a_wrong_signature_comes_before_the_time() -> None:
    with pytest.raises(TokenInvalid):
        VERIFIER.connection(token(exp=NOW - 1)[:-6] + "AAAAAA", NOW)


def test_B13_audience_and_issuer_are_asked_for_where_configured() -> None:
    strict = TokenVerifier(RING, audience="us", issuer="them")
    assert strict.connection(token(aud="us", iss="them"), NOW)
    assert strict.connection(token(aud=["x", "us"], iss="them"), NOW)
    for claims in ({"aud": "x", "iss": "them"}, {"aud": "us", "iss": "x"}, {"iss": "them"}, {"aud": "us"}):
        with pytest.raises(TokenInvalid):
            strict.connection(token(**claims), NOW)


def test_expire_at_is_the_expiry_zero_is_never_and_exp_may_be_absent() -> None:
    assert VERIFIER.connection(token(expire_at=NOW + 5), NOW).expires_at == NOW + 5
    assert VERIFIER.connection(token(expire_at=0), NOW).expires_at is None
    assert VERIFIER.connection(token(exp=None), NOW).expires_at is None
    assert VERIFIER.connection(token(iat=NOW + 999, jti="x"), NOW).user == "ann"
    assert VERIFIER.connection(token(sub=None), NOW).user == ""


def test_the_text_of_info_is_kept_and_base64_wins() -> None:
    body = b'{"info":{"b":12345678901234567890123,"a":1.0}}'
    assert VERIFIER.connection(signed({"alg": "HS256"}, body), NOW).info == b'{"b":12345678901234567890123,"a":1.0}'
    both: dict[str, Any] = {"info": 1, "b64info": base64.b64encode(b'{"n":2}').decode()}
    assert VERIFIER.connection(token(**both), NOW).info == b'{"n":2}'


def test_subs_win_over_channels_and_carry_their_options() -> None:
    subs = {"a": {"info": 1, "data": 2, "override": {"presence": {"value": False}, "force_recovery": {"value": True}}}}
    claims = VERIFIER.connection(token(subs=subs, channels=["b"]), NOW)
    assert set(claims.channels) == {"a"}
    sub = claims.channels["a"]
    assert (sub.info, sub.data, sub.override.presence, sub.override.force_recovery) == (b"1", b"2", False, True)
    assert sub.override.join_leave is None
    assert set(VERIFIER.connection(token(subs={}, channels=["b"]), NOW).channels) == {"b"}


def test_an_earlier_secret_may_be_accepted_too_and_no_secret_accepts_none() -> None:
    keys = KeyRing()
    keys.set_secrets(b"new secret of at least thirty-two bytes", SECRET)
    assert TokenVerifier(keys).connection(token(), NOW)
    keys.set_secrets(None)
    with pytest.raises(TokenInvalid):
        TokenVerifier(keys).connection(token(), NOW)


def test_an_api_key_is_known_by_its_digest_alone() -> None:
    keys = KeyRing()
    keys.api_keys.replace([known_key("thk_secret", key_id="id1")])
    assert api_key_id(keys, "thk_secret") == "id1"
    assert api_key_id(keys, "thk_other") is None
    assert api_key_id(keys, "") is None


@given(st.one_of(st.text(), st.binary().map(b64), st.tuples(st.binary(), st.binary()).map(lambda p: signed(*p))))
def test_any_text_is_a_token_or_is_refused_as_one(text: str) -> None:
    for read in (VERIFIER.connection, VERIFIER.subscription):
        try:
            read(text, NOW)
        except (TokenInvalid, TokenExpired):
            continue


@given(st.integers(0, 400), st.integers(0, 127))
def test_a_token_with_another_character_is_refused(index: int, letter: int) -> None:
    good = token(info={"name": "Ann"})
    index %= len(good)
    bad = good[:index] + chr(letter) + good[index + 1 :]
    if bad == good:
        return
    with pytest.raises(TokenInvalid):
        VERIFIER.connection(bad, NOW)


def test_reasons_beyond_those_that_are_limited_one_by_one_share_a_limit(
    lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_log, "_MOST", 3)
    for number in range(50):
        for kind in ("connection", "subscription"):
            token_log.refused(kind, f"reason {number}")
    assert len(lines.records) == 3 + 2, "three reasons, and one line of each kind for all others"
