"""Heads are read strictly, within bounds; no bytes make the reader fail."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.edge.transport.http.head import MAX_HEADERS, MAX_LINE_BYTES, Head, HeadReader
from services.edge.transport.http.refusal import Refused
from tests.edge.transport.support import head


def read(data: bytes, *, step: int = 0) -> Head | None:
    reader = HeadReader()
    step = step or max(1, len(data))
    for start in range(0, len(data), step):
        if (found := reader.feed(data[start : start + step])) is not None:
            return found
    return None


def status(data: bytes) -> int:
    with pytest.raises(Refused) as refused:
        read(data)
    return refused.value.status


def test_a_head_is_the_same_however_it_arrives() -> None:
    data = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nAccept:\t*/* \r\nEmpty:\r\n\r\n"
    whole = read(data)
    assert whole == Head("GET", "/a?b=c", (1, 1), {"host": ["x"], "accept": ["*/*"], "empty": [""]})
    assert [read(data, step=step) for step in range(1, 9)] == [whole] * 8
    assert (whole.path, whole.query) == ("/a", "b=c")


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        ("/a/b?c=d?e", "/a/b", "c=d?e", "x:1"),
        ("/%61%2fb?%63", "/a/b", "%63", "x:1"),
        ("/%zz%", "/%zz%", "", "x:1"),
        ("http://Y.example:80/a?b", "/a", "b", "Y.example:80"),
        ("WSS://y", "/", "", "y"),
        ("ws://[::1]:8001?b=c", "/", "b=c", "[::1]:8001"),
        ("//y/a", "//y/a", "", "x:1"),
    ],
)
def test_all_forms_of_a_target_say_what_is_meant(target: str, path: str, query: str, host: str) -> None:
    found = read(f"GET {target} HTTP/1.1\r\nHost: x:1\r\n\r\n".encode())
    assert found is not None
    assert (found.path, found.query, found.host) == (path, query, host)


def test_blank_lines_before_a_request_are_overlooked() -> None:
    plain = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    for step in (1, 3, 100):
        assert read(b"\r\n\r\n" + plain, step=step) == read(plain)


def test_what_follows_the_head_is_kept_for_the_next_reader() -> None:
    reader = HeadReader()
    data = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbo\r\n"
    assert reader.feed(data) is not None
    assert reader.rest() == b"bo\r\n"


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("Folded: a\r\n b", id="B05-folded"),
        pytest.param("Nul: a\0b", id="B05-nul"),
        pytest.param("Bare-LF: a\nb: c", id="B05-bare-lf"),
        pytest.param("Bare-CR: a\rb", id="B05-bare-cr"),
        pytest.param("Space : a", id="B05-space-before-colon"),
        pytest.param(" Leading: a", id="B05-space-before-name"),
        pytest.param("No colon", id="B05-no-colon"),
        pytest.param(": nameless", id="B05-no-name"),
        pytest.param("Delete: a\x7f", id="B05-control"),
        pytest.param("Host: other", id="B03-second-host"),
        pytest.param("Content-Length: 1\r\nContent-Length: 1", id="two-lengths"),
        pytest.param("Content-Length: +1", id="signed-length"),
        pytest.param("Content-Length: 1, 2", id="list-of-lengths"),
        pytest.param("Content-Length: ²", id="superscript-length"),
        pytest.param("Content-Length: 1\r\nTransfer-Encoding: chunked", id="length-and-coding"),
        pytest.param("Transfer-Encoding: gzip, chunked", id="coding-of-two"),
        pytest.param("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", id="two-codings"),
    ],
)
def test_what_parsers_could_read_differently_is_refused(line: str) -> None:
    assert status(head(line)) == 400


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01", 400, id="B02-tls"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="B02-http2-preface"),
        pytest.param(b"\r\n" * 9 + b"GET / HTTP/1.1\r\n", 400, id="many-blank-lines-first"),
        pytest.param(b"\nGET / HTTP/1.1\r\n", 400, id="bare-lf-first"),
        pytest.param(b"GET a HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="relative-target"),
        pytest.param(b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="asterisk"),
        pytest.param(b"GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="absolute-without-host"),
        pytest.param(b"GET http://u@x/a HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="absolute-with-user"),
        pytest.param(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="connect"),
        pytest.param(b"GET  / HTTP/1.1\r\n", 400, id="two-spaces"),
        pytest.param(b"GET / HTTP/1.1 \r\n", 400, id="space-at-the-end"),
        pytest.param(b"GET /\xff HTTP/1.1\r\n", 400, id="not-ascii"),
        pytest.param(b"GET /#a HTTP/1.1\r\n", 400, id="fragment"),
        pytest.param(b"GET /\r\n", 400, id="http-0.9"),
        pytest.param(b"GET / HTTP/2.0\r\n", 505, id="http-2.0"),
        pytest.param(b"GET / HTTP/1.2\r\n", 505, id="http-1.2"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="B03-no-host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, id="blank-in-host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400, id="user-in-host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, id="path-in-host"),
        pytest.param(b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, id="coding-in-http-1.0"),
    ],
)
def test_malformed_beginnings_are_refused(data: bytes, expected: int) -> None:
    assert status(data) == expected


def test_the_longest_lines_are_read() -> None:
    target = "/" + "a" * (MAX_LINE_BYTES - len("GET / HTTP/1.1"))
    value = "b" * (MAX_LINE_BYTES - len("Long: "))
    found = read(f"GET {target} HTTP/1.1\r\nHost: x\r\nLong: {value}\r\n\r\n".encode())
    assert found is not None
    assert found.target == target


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "open"])
def test_b06_a_longer_request_line_is_414(ended: bool) -> None:
    data = b"GET /" + b"a" * MAX_LINE_BYTES
    assert status(data + (b" HTTP/1.1\r\n" if ended else b"")) == 414


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "open"])
def test_b06_a_longer_header_is_431(ended: bool) -> None:
    data = b"GET / HTTP/1.1\r\nA: " + b"a" * MAX_LINE_BYTES
    assert status(data + (b"\r\n" if ended else b"")) == 431


def test_b06_more_headers_than_128_are_431() -> None:
    lines = b"".join(b"A%d: b\r\n" % index for index in range(MAX_HEADERS - 1))
    assert read(b"GET / HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n") is not None
    assert status(b"GET / HTTP/1.1\r\nHost: x\r\n" + lines + b"B: c\r\n\r\n") == 431


def test_many_long_headers_are_431_in_sum() -> None:
    line = b"A: " + b"a" * 8_000 + b"\r\n"
    assert status(b"GET / HTTP/1.1\r\nHost: x\r\n" + line * 9) == 431


def outcome(data: bytes, step: int) -> Head | Refused | None:
    try:
        return read(data, step=step)
    except Refused as refused:
        return refused


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes_are_a_head_or_refused_or_too_few(data: bytes, step: int) -> None:
    found = outcome(data, step)
    if isinstance(found, Refused):
        assert found.status in (400, 414, 431, 505)
        assert found.response().startswith(b"HTTP/1.1 ")


_LINES = st.lists(
    st.one_of(
        st.sampled_from(["Host: x", "Content-Length: 0", "Upgrade: websocket", "Connection: Upgrade", "", " folded"]),
        st.text(st.characters(max_codepoint=255), max_size=30),
    ),
    max_size=8,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_LINES, st.sampled_from(["\r\n", "\n", "\r"]), st.integers(1, 50))
def test_a_head_that_is_let_through_has_no_control_characters(lines: list[str], end: str, step: int) -> None:
    found = outcome(end.join(["GET / HTTP/1.1", *lines, "", ""]).encode("latin-1"), step)
    if isinstance(found, Head):
        text = "".join(name + "".join(values) for name, values in found.headers.items())
        assert not any(ord(one) < 32 and one != "\t" for one in text)
        assert len(found.all("host")) == 1


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    _LINES, st.sampled_from(["GET / HTTP/1.1", "GET / HTTP/1.0", "PRI * HTTP/1.1", "POST /a?b HTTP/2.0"]), st.booleans()
)
def test_a_head_that_comes_at_once_is_read_as_one_that_trickles_in(lines: list[str], line: str, host: bool) -> None:
    data = "\r\n".join([line, *["Host: x"] * host, *lines, "", ""]).encode("latin-1")
    at_once, in_bytes = outcome(data, len(data)), outcome(data, 1)
    if isinstance(at_once, Refused) and isinstance(in_bytes, Refused):
        assert (at_once.status, at_once.reason, at_once.detail) == (in_bytes.status, in_bytes.reason, in_bytes.detail)
    else:
        assert at_once == in_bytes
