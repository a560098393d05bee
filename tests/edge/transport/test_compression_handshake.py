"""Which offers of permessage-deflate are accepted. RFC 7692, 7.1."""

from __future__ import annotations

import pytest

from tests.edge.transport.support import Raw, Serve, head

BOTH = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
HEADER = b"Sec-WebSocket-Extensions: "


async def answers(serve: Serve, headers: list[str], *, compression: bool = True) -> list[str]:
    served = await serve(compression=compression)
    async with Raw(served.port) as client:
        client.write(head(*headers))
        response = await client.head()
    assert response.startswith(b"HTTP/1.1 101 ")
    return [line.removeprefix(HEADER).decode() for line in response.split(b"\r\n") if line.startswith(HEADER)]


@pytest.mark.parametrize(
    ("offers", "accepted"),
    [
        pytest.param(["permessage-deflate"], BOTH, id="plain"),
        pytest.param(["permessage-deflate; client_max_window_bits"], BOTH, id="as-browsers-do"),
        pytest.param(["permessage-deflate; server_no_context_takeover; client_no_context_takeover"], BOTH, id="both"),
        pytest.param(["permessage-deflate; server_max_window_bits=12"], f"{BOTH}; server_max_window_bits=12", id="12"),
        pytest.param(["permessage-deflate; server_max_window_bits=9"], f"{BOTH}; server_max_window_bits=9", id="9"),
        pytest.param(
            ['permessage-deflate; server_max_window_bits="10"'], f"{BOTH}; server_max_window_bits=10", id="quoted"
        ),
        pytest.param(
            ["permessage-deflate; client_max_window_bits=8"], f"{BOTH}; client_max_window_bits=8", id="client-8"
        ),
        pytest.param(["x-webkit-deflate-frame, permessage-deflate"], BOTH, id="another-extension-first"),
        pytest.param(["foo; bar=1", "permessage-deflate"], BOTH, id="in-the-second-line"),
        pytest.param(["", "permessage-deflate"], BOTH, id="an-empty-line-first"),
        pytest.param(["permessage-deflate; frob, permessage-deflate"], BOTH, id="second-offer-after-unknown-parameter"),
        pytest.param(
            ["permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=11"],
            f"{BOTH}; server_max_window_bits=11",
            id="second-offer-after-a-window-that-zlib-lacks",
        ),
        pytest.param(["permessage-deflate, permessage-deflate; server_max_window_bits=9"], BOTH, id="first-of-two"),
    ],
)
async def test_the_first_offer_that_can_be_met_is_accepted(serve: Serve, offers: list[str], accepted: str) -> None:
    assert await answers(serve, [f"Sec-WebSocket-Extensions: {offer}" for offer in offers]) == [accepted]


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=07",
        "permessage-deflate; server_max_window_bits=-9",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=x",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
        "permessage-deflate; memory=8",
        "permessage-deflate;",
        "permessage-deflate; =",
        "permessage-deflate; server_max_window_bits=",
        'permessage-deflate; server_max_window_bits="9',
        "permessage-bzip2",
        "deflate",
        "%%%",
        ",",
        "",
    ],
)
async def test_what_is_malformed_or_unknown_is_passed_over_and_fails_no_handshake(serve: Serve, offer: str) -> None:
    assert await answers(serve, [f"Sec-WebSocket-Extensions: {offer}"]) == []


async def test_without_an_offer_or_without_the_setting_nothing_is_negotiated(serve: Serve) -> None:
    assert await answers(serve, []) == []
    assert await answers(serve, ["Sec-WebSocket-Extensions: permessage-deflate"], compression=False) == []
