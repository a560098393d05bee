"""B23: data, strings and nesting that are broken; claims of signed tokens."""

from __future__ import annotations

import jwt
import pytest

from tests.edge.protocols.corpus import BROKEN
from tests.integration.bad_inputs.site import (
    ATTACKED,
    LOT,
    Site,
    is_closed,
    is_refused,
    publish_of,
)
from tests.support.wire_client import WireClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

# B23: what is no JSON, or no text.


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("name", BROKEN, ids=[f"B23-{name}" for name in BROKEN])
async def test_broken_data_closes_3501_and_is_refused_by_the_api(site: Site, name: str) -> None:
    data = BROKEN[name]
    for edge, attacked in enumerate(ATTACKED.values()):
        frame = publish_of(attacked, data)
        await is_closed(site, frame, edge=edge)  # binary: the JSON decoder sees all of it
        if is_text(data):
            await is_closed(site, frame, text=True, edge=edge)
        is_refused(await site.apis[edge].raw("publish", b'{"channel":"%b","data":%b}' % (attacked.encode(), data)))
        for method, body, responses in (
            ("broadcast", b'{"channels":["%b","chat:elsewhere"],"data":%b}', "responses"),
            ("batch", b'{"commands":[{"publish":{"channel":"%b","data":%b}}]}', "replies"),
        ):
            response = await site.apis[edge].raw(method, body % (attacked.encode(), data))
            if response.status_code == 200:  # each is answered for itself
                assert {one["error"]["code"] for one in response.json()["result"][responses]} == {107}
            else:
                is_refused(response)


async def test_B23_bad_utf_8_in_a_text_frame_closes_1007_as_B20_says(site: Site) -> None:
    for edge in (0, 1):
        async with site.client(edge, "mallory", "chat:bad") as client:
            await client.socket.send(publish_of("chat:bad", b'"\xff"'), text=True)
            assert (await client.expect_close())[0] == 1007


STRINGS = {
    "high-surrogate": b"\\ud800",
    "low-surrogate": b"\\udc00",
    "swapped-surrogates": b"\\ude00\\ud83d",
    "two-high-surrogates": b"\\ud800\\ud800",
    "surrogate-in-utf-8": b"\xed\xa0\x80",
    "bad-utf-8": b"\xff",
    "overlong-utf-8": b"\xc0\xaf",
    "raw-nul": b"\x00",
    "raw-tab": b"\t",
    "unknown-escape": b"\\x41",
    "cut-escape": b"\\u12",
}
PLACES = {
    "channel": b'{"id":1000,"subscribe":{"channel":"chat:%b"}}',
    "token": b'{"id":1000,"subscribe":{"channel":"chat:elsewhere","token":"%b"}}',
    "epoch": b'{"id":1000,"subscribe":{"channel":"chat:elsewhere","recover":true,"epoch":"%b"}}',
    "since-epoch": b'{"id":1000,"history":{"channel":"chat:bad","limit":1,"since":{"epoch":"%b"}}}',
    "key": b'{"id":1000,"publish":{"channel":"chat:bad","data":1,"idempotency_key":"%b"}}',
    "data": b'{"id":1000,"publish":{"channel":"chat:bad","data":{"a":["%b"]}}}',
    "key-in-data": b'{"id":1000,"publish":{"channel":"chat:bad","data":{"%b":1}}}',
    "method": b'{"id":1000,"rpc":{"method":"%b"}}',
    "unknown-member": b'{"id":1000,"rpc":{"method":"x","zz":"%b"}}',
    "name-of-a-member": b'{"id":1000,"rpc":{"method":"x","%b":1}}',
    "name-of-a-command": b'{"id":1000,"rpc":{"method":"x"},"%b":1}',
}
HTTP_PLACES = {
    "channel": ("publish", b'{"channel":"chat:%b","data":1}'),
    "channels": ("broadcast", b'{"channels":["chat:bad","chat:%b"],"data":1}'),
    "key": ("publish", b'{"channel":"chat:bad","data":1,"idempotency_key":"%b"}'),
    "tag": ("publish", b'{"channel":"chat:bad","data":1,"tags":{"a":"%b"}}'),
    "name-of-a-tag": ("publish", b'{"channel":"chat:bad","data":1,"tags":{"%b":"a"}}'),
    "user": ("disconnect", b'{"user":"%b"}'),
    "reason": ("disconnect", b'{"user":"bystander","disconnect":{"code":4000,"reason":"%b"}}'),
    "whitelist": ("disconnect", b'{"user":"bystander","whitelist":["%b"]}'),
    "epoch": ("history", b'{"channel":"chat:bad","limit":1,"since":{"epoch":"%b"}}'),
    "info": ("subscribe", b'{"user":"bystander","channel":"chat:bad","info":"%b"}'),
    "subscribe-data": ("subscribe", b'{"user":"bystander","channel":"chat:bad","data":{"a":"%b"}}'),
    "pattern": ("channels", b'{"pattern":"%b"}'),
}


@pytest.mark.parametrize("name", STRINGS, ids=[f"B23-{name}" for name in STRINGS])
async def test_broken_strings_close_3501_wherever_they_stand(site: Site, name: str) -> None:
    for number, place in enumerate(PLACES.values()):
        frame = place % STRINGS[name]
        await is_closed(site, frame, edge=number % 2)
        if is_text(frame):
            await is_closed(site, frame, text=True, edge=number % 2)
    token = site.stack.token("mallory").encode()
    for member in (b'"name":"%b"', b'"subs":{"%b":{}}', b'"headers":{"a":"%b"}', b'"data":"%b"'):
        body = b'{"id":1000,"connect":{"token":"%b",%b}}' % (token, member % STRINGS[name])
        await is_closed(site, body, connect=False)


@pytest.mark.parametrize("name", STRINGS, ids=[f"B23-http-{name}" for name in STRINGS])
async def test_broken_strings_are_refused_by_the_api_wherever_they_stand(site: Site, name: str) -> None:
    for number, (method, body) in enumerate(HTTP_PLACES.values()):
        is_refused(await site.apis[number % 2].raw(method, body % STRINGS[name]))


UNREADABLE = {"long": (b"9" * 310, "309 digits"), "far": (b"1e309", "beyond doubles")}
WITH_A_NUMBER = {
    "publish": b'{"id":1000,"publish":{"channel":"chat:bad","data":{"a":[%b]}}}',
    "send": b'{"id":1000,"send":{"data":%b}}',
    "rpc": b'{"id":1000,"rpc":{"method":"x","data":%b}}',
    "subscribe-data": b'{"id":1000,"subscribe":{"channel":"chat:elsewhere","data":%b}}',
    "unknown-member": b'{"id":1000,"rpc":{"method":"x","zz":-%b}}',
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("name", WITH_A_NUMBER)
async def test_numbers_that_no_client_can_read_close_3501(site: Site, name: str, kind: str) -> None:
    frame = WITH_A_NUMBER[name] % UNREADABLE[kind][0]
    await is_closed(site, frame)
    await is_closed(site, frame, text=True, edge=1)


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("method", ["publish", "broadcast", "subscribe-info", "subscribe-data"])
async def test_numbers_that_no_client_can_read_are_refused_by_the_api(site: Site, method: str, kind: str) -> None:
    number, reason = UNREADABLE[kind]
    name, _, member = method.partition("-")
    body = b'"channels":["chat:bad"]' if name == "broadcast" else b'"user":"bystander","channel":"chat:bad"'
    if name == "publish":
        body = b'"channel":"chat:bad"'
    response = await site.apis[0].raw(name, b'{%b,"%b":{"a":%b}}' % (body, (member or "data").encode(), number))
    refused = response.json()["result"]["responses"][0] if name == "broadcast" else response.json()
    assert refused["error"]["code"] == 107
    assert reason in refused["error"]["message"]


NESTED = b"[" * LOT + b"]" * LOT
NESTED_AROUND = {
    "whole-frame": NESTED,
    "command-within-arrays": b"[" * LOT + b'{"id":1000,"rpc":{}}' + b"]" * LOT,
    "command-within-objects": b'{"a":' * 6_000 + b'{"id":1000,"rpc":{}}' + b"}" * 6_000,
    "unknown-member": b'{"zz":%b,"id":1000,"rpc":{}}' % NESTED,
    "unknown-member-of-a-request": b'{"id":1000,"publish":{"channel":"chat:bad","data":1,"zz":%b}}' % NESTED,
    "member-of-a-wrong-type": b'{"id":1000,"publish":{"channel":%b,"data":1}}' % NESTED,
    "id": b'{"id":%b,"rpc":{}}' % NESTED,
    "filter": b'{"id":1000,"subscribe":{"channel":"chat:elsewhere","tf":{"nodes":%b}}}' % NESTED,
    "never-ended": b'{"id":1000,"rpc":' + b"[" * 2 * LOT,
    "objects-never-ended": b'{"a":' * 12_000,
}


@pytest.mark.parametrize("name", NESTED_AROUND, ids=[f"B23-nested-{name}" for name in NESTED_AROUND])
async def test_nesting_past_the_parser_closes_3501(site: Site, name: str) -> None:
    for edge in (0, 1):
        await is_closed(site, NESTED_AROUND[name], edge=edge)
        await is_closed(site, NESTED_AROUND[name], text=True, edge=edge)
        await is_closed(site, NESTED_AROUND[name], text=True, edge=edge, connect=False)


DEEP = b"[" * 500_000  # nearly all that a body may hold
HTTP_NESTED = {
    "data": b'{"channel":"chat:bad","data":' + b"[" * 400_000 + b"]" * 400_000 + b"}",
    "data-just-past": b'{"channel":"chat:bad","data":' + b"[" * 101 + b"]" * 101 + b"}",
    "objects": b'{"channel":"chat:bad","data":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "unknown-member": b'{"channel":"chat:bad","data":1,"zz":' + DEEP + b"]" * 500_000 + b"}",
    "channel": b'{"data":1,"channel":' + DEEP + b"]" * 500_000 + b"}",
    "never-ended": b'{"channel":"chat:bad","data":' + DEEP,
    "whole-body": DEEP + b"]" * 500_000,
}


@pytest.mark.parametrize("name", HTTP_NESTED, ids=[f"B23-http-nested-{name}" for name in HTTP_NESTED])
async def test_nesting_past_the_parser_is_refused(site: Site, name: str) -> None:
    for api in site.apis:
        is_refused(await api.raw("publish", HTTP_NESTED[name]))


TOKENS: dict[str, bytes] = {
    "user-of-a-lone-surrogate": b'{"sub":"\\ud800"}',
    "user-of-bad-utf-8": b'{"sub":"\xff"}',
    "info-that-is-nan": b'{"sub":"m","info":NaN}',
    "info-with-a-lone-surrogate": b'{"sub":"m","info":{"a":"\\udfff"}}',
    "info-of-bad-utf-8": b'{"sub":"m","info":"\xff"}',
    "info-beyond-doubles": b'{"sub":"m","info":{"far":1e999}}',
    "info-nested": b'{"sub":"m","info":' + b"[" * 2_900 + b"]" * 2_900 + b"}",
    "exp-beyond-numbers": b'{"sub":"m","exp":1e999}',
    "exp-of-many-digits": b'{"sub":"m","exp":' + b"9" * 5_000 + b"}",
    "exp-that-is-a-word": b'{"sub":"m","exp":"tomorrow"}',
    "exp-that-is-nan": b'{"sub":"m","exp":NaN}',
    "channels-with-a-lone-surrogate": b'{"sub":"m","channels":["chat:\\ud800"]}',
}


@pytest.mark.parametrize("name", TOKENS, ids=[f"B23-token-{name}" for name in TOKENS])
async def test_a_signed_token_of_broken_claims_closes_3500(site: Site, name: str) -> None:
    token = jwt.api_jws.encode(TOKENS[name], site.stack.secret, algorithm="HS256")
    assert len(token) <= 8_192
    for url in site.stack.ws_urls:
        async with WireClient(url) as client:
            await client.send({"id": 1, "connect": {"token": token}})
            assert (await client.expect_close())[0] == 3500
            assert client.lines == []
