"""Ids that auth makes: none begins with a hyphen."""

from __future__ import annotations

import secrets

import pytest

from services.auth.domain.minted import new_id
from services.auth.domain.signing import new_signing_key


@pytest.fixture
def unlucky(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Random texts of which the first two begin with a hyphen; what is left of them."""
    texts = ["-wlh", "--x", "aBc-", "unused"]
    monkeypatch.setattr(secrets, "token_urlsafe", lambda _: texts.pop(0))
    return texts


def test_an_id_that_would_begin_with_a_hyphen_is_made_anew(unlucky: list[str]) -> None:
    assert new_id(9) == "aBc-"
    assert unlucky == ["unused"]


def test_a_signing_key_has_such_an_id(unlucky: list[str]) -> None:
    assert new_signing_key("EdDSA", 0.0).kid == "aBc-"


def test_an_id_has_the_asked_for_randomness() -> None:
    made = {new_id(9) for _ in range(1_000)}
    assert len(made) == 1_000
    assert {len(one) for one in made} == {len(secrets.token_urlsafe(9))}
    assert not [one for one in made if one.startswith("-")]
