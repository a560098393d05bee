"""Texts with a line end at the end, and times that are too far, are refused."""

from __future__ import annotations

import random
import re
from typing import Any

import msgspec
import pytest

from services.auth.domain.profile_rules import ProfileChange, changed
from services.auth.domain.refusals import Invalid
from services.auth.domain.user_ports import Profile
from services.edge.api import accounts, chat_rest, invites, me, requests, tickets, user_requests
from services.edge.api.app import CALLS
from services.edge.api.bodies import BodyRefused, decode
from services.edge.api.texts import in_words
from services.shared.text_rules import AVATAR_URL, USERNAME

SEED = 20_265


@pytest.mark.parametrize("end", ["\n", "\r", " ", "\n\n"])
@pytest.mark.parametrize(
    ("kind", "body", "name"),
    [
        (requests.GrantsGive, {"user": "a", "channels": ["x"], "operations": ["publish"]}, "operations"),
        (requests.GrantsTake, {"user": "a", "operations": ["publish"]}, "operations"),
        (accounts.Registration, {"username": "alice", "password": "x" * 12}, "username"),
        (user_requests.UsersUpdate, {"user": "a", "avatar_url": "https://example.com/a"}, "avatar_url"),
    ],
)
def test_a_line_end_is_not_overlooked(kind: type[Any], body: dict[str, Any], name: str, end: str) -> None:
    msgspec.convert(body, kind)
    value = body[name]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body | {name: [value[0] + end] if isinstance(value, list) else value + end}, kind)


URL_PARTS = ["https://", "http://", "img.example", "", "-x", "a@", ":", ":0", ":80", ":65535", ":65536", ":080"]
URL_ENDS = ["", "/", "/a?b=c#d", "?", "#", *(f"/{character}" for character in "\"'<>\\` é%\n[/"), "\n"]
GOOD_URLS = ["", "https://img.example:65535/a?b=c#d", "https://img.example/%20[1]", "https://img.example:80"]
BAD_URLS = ["https://img.example:65536", "https://img.example/<", "https://img.example:080", "http://img.example"]


def edge_allows(url: str) -> bool:
    try:
        msgspec.convert({"avatar_url": url}, user_requests.Me)
    except msgspec.ValidationError:
        return False
    return True


def auth_allows(url: str) -> bool:
    try:
        return changed(Profile(), ProfileChange(avatar_url=url)).avatar_url == url
    except Invalid:
        return False


def test_an_edge_and_auth_allow_the_same_pictures() -> None:
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    for _ in range(4_000):
        url = "".join(rng.choice(URL_PARTS) for _ in range(rng.randint(1, 3))) + rng.choice(URL_ENDS)
        url += "a" * rng.choice((0, 0, 0, 2_000, 2_020, 2_048))
        assert edge_allows(url) == auth_allows(url), url
    assert all(edge_allows(url) and auth_allows(url) for url in GOOD_URLS)
    assert not any(edge_allows(url) or auth_allows(url) for url in BAD_URLS)


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        (accounts.Registration, {"username": "al", "password": "x" * 12}, f"{USERNAME.words} - at `$.username`"),
        (user_requests.Me, {"avatar_url": "http://a"}, f"{AVATAR_URL.words} - at `$.avatar_url`"),
        (user_requests.Me, {"status": "a\nb"}, "one line without control characters - at `$.status`"),
        (invites.InvitesCreate, {"note": "a\nb"}, "one line without control characters - at `$.note`"),
    ],
)
def test_an_error_has_words_and_no_regular_expression(kind: type[Any], body: dict[str, Any], words: str) -> None:
    with pytest.raises(BodyRefused) as refused:
        decode(msgspec.json.encode(body), kind)
    assert str(refused.value) == f"bad request: Expected `str` that is {words}"


def test_every_pattern_of_the_api_has_words() -> None:
    kinds = [
        *(kind for kind, _ in CALLS.values()),
        *accounts.SCHEMAS,
        *me.SCHEMAS,
        *tickets.SCHEMAS,
        *chat_rest.SCHEMAS,
    ]
    _, components = msgspec.json.schema_components(kinds)
    patterns = set(re.findall(r'"pattern":"((?:[^"\\]|\\.)*)"', msgspec.json.encode(components).decode()))
    assert len(patterns) >= 3
    for pattern in patterns:
        text = msgspec.json.decode(f'"{pattern}"')
        assert (
            in_words(f"Expected `str` matching regex {text!r}")
            != "Expected `str` that is of the form that OpenAPI says"
        )


def test_an_id_of_a_user_is_counted_in_bytes_before_it_joins_those_of_others() -> None:
    msgspec.convert({"users": ["ann", "x" * 8_192, "é" * 4_096]}, user_requests.Profiles)
    for user in ("x" * 8_193, "é" * 4_097):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"users": ["ann", user]}, user_requests.Profiles)


@pytest.mark.parametrize("end", ["\n", "\r", "\u2028"])
@pytest.mark.parametrize("name", ["display_name", "status"])
def test_a_line_end_is_not_overlooked_in_a_profile(name: str, end: str) -> None:
    msgspec.convert({"user": "a", name: "Al Ice"}, user_requests.UsersUpdate)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"user": "a", name: "Al" + end}, user_requests.UsersUpdate)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"note": "Al" + end}, invites.InvitesCreate)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (requests.GrantsGive, {"user": "a", "channels": ["x"], "operations": ["publish"]}),
        (requests.Subscribe, {"user": "a", "channel": "x"}),
        (requests.Refresh, {"user": "a"}),
    ],
)
def test_an_expiry_ends_with_the_year_9999(kind: type[Any], body: dict[str, Any]) -> None:
    for text in (b"0", b"253402300799", b"1.5"):
        msgspec.json.decode(msgspec.json.encode(body)[:-1] + b',"expire_at":' + text + b"}", type=kind)
    for text in (b"253402300800", b"1e308", b"9" * 300):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(msgspec.json.encode(body)[:-1] + b',"expire_at":' + text + b"}", type=kind)
