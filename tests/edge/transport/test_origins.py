"""B01: which origins may connect."""

from __future__ import annotations

import pytest

from services.edge.transport.origins import OriginRules
from services.shared.process.config import ConfigError

HOST = "edge.example.com"
LIST = ("https://app.example.org", "https://*.example.net", "http://dev.example.org:3000", "app://local")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://edge.example.com", HOST),
        ("http://edge.example.com", HOST),
        ("https://EDGE.example.com", "edge.EXAMPLE.com"),
        ("https://edge.example.com", "edge.example.com:443"),
        ("https://edge.example.com:443", HOST),
        ("http://edge.example.com:8001", "edge.example.com:8001"),
        ("http://[::1]:8001", "[::1]:8001"),
        ("http://[::1]", "[::1]"),
        ("https://app.example.org", HOST),
        ("https://app.example.org:443", HOST),
        ("https://a.example.net", HOST),
        ("https://a.b.example.net", HOST),
        ("http://dev.example.org:3000", HOST),
        ("app://local", HOST),
    ],
)
def test_the_own_host_and_listed_origins_may(origin: str, host: str) -> None:
    assert OriginRules(LIST).allows(origin, host)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://edge.example.com.evil.example",
        "https://evil-edge.example.com",
        "https://edge.example.com:8443",
        "http://edge.example.com:443",
        "app://edge.example.com",
        "https://xapp.example.org",
        "https://app.example.orgx",
        "https://app.example.org.evil.example",
        "http://app.example.org",
        "https://example.net",
        "https://.example.net",
        "https://evilexample.net",
        "https://a.example.net.evil.example",
        "https://a.example.net:8443",
        "https://a.exampleXnet",
        "https://evil.example/.example.net",
        "https://evil.example#.example.net",
        "https://user@a.example.net",
        "https://a.example.net/",
        "https://a.example.net https://evil.example",
        "http://dev.example.org",
        "null",
        "",
        "https://",
        "://edge.example.com",
        "edge.example.com",
    ],
)
def test_others_may_not(origin: str) -> None:
    assert not OriginRules(LIST).allows(origin, HOST)


def test_no_origin_is_let_in_by_setting() -> None:
    assert OriginRules().allows(None, HOST)
    assert not OriginRules(allow_no_origin=False).allows(None, HOST)


def test_null_and_any_origin_are_let_in_only_where_listed() -> None:
    assert OriginRules(["null"]).allows("null", HOST)
    assert not OriginRules(["null"]).allows("https://evil.example", HOST)
    assert OriginRules(["*"]).allows("https://any.example:1234", HOST)
    assert not OriginRules(["*"]).allows("null", HOST)


@pytest.mark.parametrize("pattern", ["example.com", "https://*", "https://a*.example.com", "https://a/b", "", "**"])
def test_an_entry_that_is_no_origin_stops_the_start(pattern: str) -> None:
    with pytest.raises(ConfigError, match="EDGE_ALLOWED_ORIGINS"):
        OriginRules([pattern])


@pytest.mark.parametrize(
    ("entry", "sent", "others"),
    [
        ("null", ["null"], ["file://", "https://null"]),
        ("file://", ["file://", "file:///"], ["null", "file://host", "file:///etc/passwd"]),
        ("capacitor://localhost", ["capacitor://localhost"], ["http://localhost", "capacitor://localhost:80"]),
        ("ionic://localhost/", ["ionic://localhost"], ["capacitor://localhost"]),
        ("chrome-extension://abcdefghij", ["chrome-extension://abcdefghij"], ["chrome-extension://abcdefghijk"]),
        (
            "https://Bücher.example",
            ["https://xn--bcher-kva.example"],
            ["https://bucher.example", "https://bücher.example"],
        ),
        ("https://straße.example", ["https://xn--strae-oqa.example"], ["https://strasse.example"]),
        ("https://*.例え.jp:8443", ["https://a.xn--r8jz45g.jp:8443"], ["https://xn--r8jz45g.jp:8443"]),
        (
            "http://localhost:*",
            ["http://localhost", "http://localhost:5173"],
            ["https://localhost", "http://localhost.a"],
        ),
        ("http://[::1]:*", ["http://[::1]:3000"], ["http://[::2]:3000"]),
        ("https://*.example.net:*", ["https://a.example.net:1", "https://a.example.net"], ["https://example.net:1"]),
    ],
)
def test_origins_of_every_kind_can_be_listed(entry: str, sent: list[str], others: list[str]) -> None:
    rules = OriginRules([entry])
    assert [origin for origin in sent if not rules.allows(origin, HOST)] == []
    assert [origin for origin in others if rules.allows(origin, HOST)] == []
    assert not OriginRules(["*"]).allows("file://", HOST)


@pytest.mark.parametrize(
    "entry", ["https://😀.example", "https://a b.ü", "https://" + "ü" * 64, "ü", "https://ü.example/a"]
)
def test_a_name_that_browsers_send_otherwise_is_refused_by_name(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"EDGE_ALLOWED_ORIGINS: "):
        OriginRules([entry])


@pytest.mark.parametrize(
    ("origin", "host", "named"),
    [
        ("https://edge.example.com", HOST, True),
        ("http://edge.example.com", HOST, False),
        ("http://192.0.2.1:8001", "192.0.2.1:8001", False),
        ("http://localhost:8001", "localhost:8001", True),
        ("http://app.localhost:8001", "app.localhost:8001", True),
        ("http://127.0.0.1:8001", "127.0.0.1:8001", True),
        ("http://[::1]:8001", "[::1]:8001", True),
        ("http://localhost.example.com", "localhost.example.com", False),
        ("http://dev.example.org:3000", HOST, True),  # listed
    ],
)
def test_B01_a_page_of_the_own_host_may_use_the_cookie_only_over_tls_or_on_this_machine(
    origin: str, host: str, named: bool
) -> None:
    rules = OriginRules([*LIST, "*"])
    assert rules.allows(origin, host)
    assert rules.names(origin, host) == named
