"""Bad inputs by row against real processes: the answer of each row, over WebSocket and over the server API.

Two bystanders, one on each edge, sit in the channels that are attacked. After every test they publish and must have
heard nothing but each other, without a hole. At the end nobody may have logged a fault, nor anything but whole lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio
import redis.asyncio

from tests.edge.dialects.corpus import BROKEN, SOUND
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICES = ("auth", "presence", "persistence", "edge-1", "edge-2")
ATTACKED = {"stored": "chat:bad", "hot": "bad"}
NEW = {"stored": "chat:", "hot": ""}  # what a new channel's name begins with
PAGE = 300  # publications of a history page
MAX_DATA = 32_768
LOT = 30_000
MARKER = f"BAD{secrets.token_hex(4)}"  # in names that must not come to exist
BAD_REQUEST = (3501, "bad request")


class Api:
    """The server API of one edge."""

    def __init__(self, url: str, key: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, headers={"X-API-Key": key}, timeout=10)

    async def raw(self, method: str, body: str | bytes) -> httpx.Response:
        return await self.http.post(f"/api/{method}", content=body)

    async def call(self, method: str, **body: Any) -> Any:
        answer = await self.http.post(f"/api/{method}", json=body)
        assert answer.status_code == 200, answer.text
        assert set(answer.json()) == {"result"}, answer.text
        return answer.json()["result"]

    async def error(self, method: str, **body: Any) -> int:
        answer = await self.http.post(f"/api/{method}", json=body)
        assert answer.status_code == 200, answer.text
        code: int = answer.json()["error"]["code"]
        return code

    async def history(self, channel: str, limit: int = PAGE) -> list[Any]:
        page = await self.call("history", channel=channel, limit=limit)
        return [entry["data"] for entry in page["publications"]]


class Site:
    """The stack, an API client per edge, and the bystanders."""

    def __init__(self, stack: Stack, apis: list[Api], bystanders: list[WireClient]) -> None:
        self.stack = stack
        self.apis = apis
        self.bystanders = bystanders
        self.redis = redis.asyncio.Redis.from_url(stack.redis_url)
        self._tops = dict.fromkeys(ATTACKED.values(), 0)
        self._checks = 0

    async def check(self) -> None:
        """The bystanders are served, and have heard nothing since the last time."""
        self._checks += 1
        for channel in ATTACKED.values():
            speaker = self.bystanders[self._checks % 2]
            expected = self._tops[channel] + 1
            result = await speaker.publish(channel, {"unharmed": self._checks})
            assert result["offset"] == expected, f"{channel} holds something new"
            for bystander in self.bystanders:
                publication = (await bystander.push(channel))["pub"]
                assert (publication["data"], publication["offset"]) == ({"unharmed": self._checks}, expected)
            self._tops[channel] = expected

    @contextlib.asynccontextmanager
    async def client(self, edge: int = 0, user: str = "mallory", *channels: str, **claims: Any) -> AsyncIterator[Any]:
        async with WireClient(self.stack.ws_urls[edge]) as client:
            await client.connect(self.stack.token(user, **claims))
            for channel in channels:
                await client.subscribe(channel)
            yield client


def check_logs(stack: Stack) -> None:
    """Only whole JSON lines, no fault among them, nothing that is secret, and nobody died."""
    for name in SERVICES:
        records = []
        for text in stack.lines(name):
            if text.startswith("---"):
                assert text.startswith("--- INFO "), text
                continue
            record = json.loads(text)
            assert isinstance(record, dict), text
            records.append(record)
            assert {"ts", "level", "service", "logger", "msg"} <= set(record), text
            assert record["service"] == name.partition("-")[0], text
            assert record["level"] in ("DEBUG", "INFO", "WARNING"), text
            assert "exc" not in record, text
            assert "Traceback" not in text, text
            assert "exc_info" not in text, text
            assert "never retrieved" not in text, text
        assert records, f"{name} logged nothing: this test sees nothing"
        everything = "\n".join(stack.lines(name))
        assert stack.secret not in everything
        assert "thk_" not in everything
        assert "eyJ" not in everything  # how every token begins
    for text in stack.lines("redis"):
        assert not any(sign in text.lower() for sign in ("crash", "assert", "bug report", "script")), text


@pytest.fixture(scope="module")
def wide() -> Iterator[Stack]:
    """Two edges with the limits of production; everything is logged."""
    with Stack(environment={"LOG_LEVEL": "DEBUG"}) as running:
        yield running
    check_logs(running)  # with what they said when they ended


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(wide: Stack) -> AsyncIterator[Site]:
    key = wide.api_key
    apis = [Api(url, key) for url in wide.http_urls]
    async with WireClient(wide.ws_urls[0]) as one, WireClient(wide.ws_urls[1]) as two:
        made = Site(wide, apis, [one, two])
        for bystander in made.bystanders:
            await bystander.connect(wide.token("bystander"))
            for channel in ATTACKED.values():
                await bystander.subscribe(channel)
        yield made
        await made.redis.aclose()
        for api in apis:
            await api.http.aclose()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def unharmed(site: Site) -> AsyncIterator[None]:
    """After every test."""
    yield
    await site.check()


@pytest.fixture(params=list(NEW))
def durability(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def channel(durability: str) -> str:
    """One that nobody has used yet."""
    return f"{NEW[durability]}new-{secrets.token_hex(4)}"


def command(name: str, body: str, number: str = "1000") -> str:
    return f'{{"id":{number},"{name}":{body}}}'


async def is_closed(site: Site, frame: str | bytes, *, text: bool = False, connect: bool = True, edge: int = 0) -> None:
    """A frame that is answered by 3501 and by nothing else; from a member of the attacked channels."""
    async with WireClient(site.stack.ws_urls[edge]) as client:
        if connect:
            await client.connect(site.stack.token("mallory"))
            for name in ATTACKED.values():
                await client.subscribe(name)
        seen = len(client.lines)
        if text:
            await client.socket.send(frame, text=True)
        else:
            await client.send_frame(frame)
        assert await client.expect_close() == BAD_REQUEST, frame[:200]
        assert client.lines[seen:] == []


def is_refused(answer: httpx.Response) -> None:
    """The server API's word for what a WebSocket is closed for."""
    assert answer.status_code in (200, 400), answer.text
    assert answer.json()["error"]["code"] == 107, answer.text


# B23: types and ranges. Everything else in each request would be served.

STRING = ["1", "true", "[]", "{}"]
BOOLEAN = ["1", "0", '"true"', "[]"]
OBJECT = ["1", '"x"', "true", "[]"]
INTEGER = ['"1"', "true", "1.5", "1.0", "1e2", "[]", "{}", "1e999", "9" * 5_000]
U64 = [*INTEGER, "-1", str(2**64)]
I32 = [*INTEGER, str(2**31), str(-(2**31) - 1)]
I64 = [*INTEGER, str(2**63), str(-(2**63) - 1)]
BODIES: dict[str, dict[str, str]] = {
    "subscribe": {"channel": '"chat:elsewhere"'},
    "unsubscribe": {"channel": '"chat:bad"'},
    "publish": {"channel": '"chat:bad"', "data": '"heard"'},
    "presence": {"channel": '"chat:bad"'},
    "presence_stats": {"channel": '"chat:bad"'},
    "history": {"channel": '"chat:bad"', "limit": "1"},
    "rpc": {"method": '"x"'},
    "sub_refresh": {"channel": '"chat:bad"', "token": '"x"'},
    "refresh": {"token": '"TOKEN"'},
    "connect": {"token": '"TOKEN"'},
}
MEMBERS: dict[str, tuple[str, str, list[str]]] = {
    **{f"{name}-channel": (name, "channel", STRING) for name, body in BODIES.items() if "channel" in body},
    **{f"{name}-token": (name, "token", STRING) for name in ("connect", "subscribe", "refresh", "sub_refresh")},
    **{f"subscribe-{member}": ("subscribe", member, STRING) for member in ("epoch", "delta", "cursor")},
    **{
        f"subscribe-{member}": ("subscribe", member, BOOLEAN)
        for member in ("recover", "positioned", "recoverable", "join_leave", "asc")
    },
    "subscribe-offset": ("subscribe", "offset", U64),
    "subscribe-flag": ("subscribe", "flag", I64),
    "subscribe-type": ("subscribe", "type", I32),
    "subscribe-tf": ("subscribe", "tf", OBJECT),
    "publish-idempotency-key": ("publish", "idempotency_key", STRING),
    "publish-exclude-self": ("publish", "exclude_self", BOOLEAN),
    "publish-type": ("publish", "type", I32),
    "history-limit": ("history", "limit", I32),
    "history-reverse": ("history", "reverse", BOOLEAN),
    "history-since": ("history", "since", OBJECT),
    "history-since-offset": ("history", "since", [f'{{"offset":{value}}}' for value in U64]),
    "history-since-epoch": ("history", "since", [f'{{"epoch":{value}}}' for value in STRING]),
    "rpc-method": ("rpc", "method", STRING),
    **{f"connect-{member}": ("connect", member, STRING) for member in ("name", "version")},
    "connect-subs": ("connect", "subs", OBJECT),
    "connect-subs-position": ("connect", "subs", [f'{{"chat:bad":{{"offset":{value}}}}}' for value in U64]),
    "connect-headers": ("connect", "headers", [*OBJECT, '{"a":1}']),
    "connect-flag": ("connect", "flag", I64),
}


@pytest.mark.parametrize(("name", "member", "values"), MEMBERS.values(), ids=[f"B23-{name}" for name in MEMBERS])
async def test_a_member_of_a_wrong_type_or_out_of_range_closes_3501(
    site: Site, name: str, member: str, values: list[str]
) -> None:
    for number, value in enumerate(values):
        body = ",".join(f'"{key}":{text}' for key, text in (BODIES[name] | {member: value}).items())
        frame = command(name, "{" + body.replace("TOKEN", site.stack.token("mallory")) + "}")
        await is_closed(site, frame, connect=name != "connect", edge=number % 2)


@pytest.mark.parametrize("name", [*BODIES, "send"], ids=lambda name: f"B23-{name}")
async def test_a_request_that_is_no_object_closes_3501(site: Site, name: str) -> None:
    for number, value in enumerate(OBJECT):
        await is_closed(site, command(name, value), connect=name != "connect", edge=number % 2)


async def test_B23_values_at_the_end_of_their_range_are_taken(site: Site) -> None:
    async with site.client(0, "mallory", "chat:bad") as client:
        for body in (
            {"offset": 2**64 - 1, "flag": 2**63 - 1, "recover": True, "epoch": "another"},
            {"offset": 0, "flag": -(2**63), "recover": True, "epoch": "another"},
        ):
            reply = await client.reply(await client.post(subscribe={"channel": "chat:ends", **body}))
            assert reply.get("error", {"code": 112})["code"] == 112
        for limit in (2**31 - 1, -(2**31)):
            assert (await client.call(history={"channel": "chat:bad", "limit": limit}))["publications"]
        assert (await client.error(publish={"channel": "chat:bad", "data": 1, "type": 2**31 - 1}))["code"] == 108


NULLABLE = {"tags": ["1", "[]", '{"a":1}', '{"a":null}'], "idempotency_key": STRING}
HTTP_MEMBERS: dict[str, tuple[str, dict[str, str], dict[str, list[str]]]] = {
    "publish": ("publish", {"channel": '"chat:bad"', "data": "1"}, {"channel": STRING, **NULLABLE}),
    "broadcast": (
        "broadcast",
        {"channels": '["chat:bad"]', "data": "1"},
        {"channels": ["1", '"x"', "[1]"], **NULLABLE},
    ),
    "subscribe": (
        "subscribe",
        {"user": '"bystander"', "channel": '"chat:elsewhere"'},
        {
            "user": STRING,
            "channel": STRING,
            "client": STRING,
            "expire_at": ['"1"', "true", "[]", "1e999", "-1e999", "9" * 5_000],
            "recover_since": [*OBJECT, *(f'{{"offset":{value}}}' for value in U64), '{"epoch":1}'],
            "override": [*OBJECT, '{"presence":true}', '{"presence":{"value":1}}', '{"nope":{"value":true}}'],
        },
    ),
    "unsubscribe": (
        "unsubscribe",
        {"user": '"bystander"', "channel": '"chat:bad"'},
        {"user": STRING, "client": STRING},
    ),
    "disconnect": (
        "disconnect",
        {"user": '"bystander"'},
        {
            "user": STRING,
            "whitelist": ["1", '"x"', "[1]"],
            "disconnect": [*OBJECT, *(f'{{"code":{value}}}' for value in (*INTEGER, "-1", str(2**64)))],
        },
    ),
    "refresh": (
        "refresh",
        {"user": '"bystander"'},
        {"expired": BOOLEAN, "expire_at": ['"1"', "true", "[]", "1e999", "-1e999", "9" * 5_000]},
    ),
    "history": (
        "history",
        {"channel": '"chat:bad"', "limit": "1"},
        {"limit": INTEGER, "reverse": BOOLEAN, "since": [*OBJECT, *(f'{{"offset":{value}}}' for value in U64)]},
    ),
    "presence": ("presence", {"channel": '"chat:bad"'}, {"channel": STRING}),
    "presence-stats": ("presence_stats", {"channel": '"chat:bad"'}, {"channel": STRING}),
    "history-remove": ("history_remove", {"channel": '"chat:bad"'}, {"channel": STRING}),
    "channels": ("channels", {}, {"pattern": STRING}),
    "batch": ("batch", {"commands": "[]"}, {"commands": ["1", '"x"', "{}", "[1]"], "parallel": BOOLEAN}),
}


@pytest.mark.parametrize(
    ("method", "sound", "wrong"), HTTP_MEMBERS.values(), ids=[f"B23-http-{name}" for name in HTTP_MEMBERS]
)
async def test_a_member_of_a_wrong_type_or_out_of_range_is_refused(
    site: Site, method: str, sound: dict[str, str], wrong: Mapping[str, list[str]]
) -> None:
    for member, values in wrong.items():
        for number, value in enumerate(values):
            body = "{" + ",".join(f'"{key}":{text}' for key, text in (sound | {member: value}).items()) + "}"
            is_refused(await site.apis[number % 2].raw(method, body))


# B23: what is no JSON, or no text.


def publish_of(name: str, data: bytes) -> bytes:
    return b'{"id":1000,"publish":{"channel":"%b","data":%b}}' % (name.encode(), data)


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
        for method, body, answers in (
            ("broadcast", b'{"channels":["%b","chat:elsewhere"],"data":%b}', "responses"),
            ("batch", b'{"commands":[{"publish":{"channel":"%b","data":%b}}]}', "replies"),
        ):
            answer = await site.apis[edge].raw(method, body % (attacked.encode(), data))
            if answer.status_code == 200:  # each is answered for itself
                assert {one["error"]["code"] for one in answer.json()["result"][answers]} == {107}
            else:
                is_refused(answer)


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
    "user-that-is-a-number": b'{"sub":1}',
    "info-that-is-nan": b'{"sub":"m","info":NaN}',
    "info-with-a-lone-surrogate": b'{"sub":"m","info":{"a":"\\udfff"}}',
    "info-of-bad-utf-8": b'{"sub":"m","info":"\xff"}',
    "info-nested": b'{"sub":"m","info":' + b"[" * 2_900 + b"]" * 2_900 + b"}",
    "exp-beyond-numbers": b'{"sub":"m","exp":1e999}',
    "exp-of-many-digits": b'{"sub":"m","exp":' + b"9" * 5_000 + b"}",
    "exp-that-is-text": b'{"sub":"m","exp":"9999999999"}',
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


# B23 and B32: what is carried byte for byte.

HOSTILE: dict[str, bytes] = {
    "html": b'"<script>alert(document.cookie)</script><img src=x onerror=alert(1)>&amp;\\u003cb\\u003e"',
    "sql": b"\"'; DROP TABLE log; -- ' OR '1'='1\"",
    "lua": b"\"redis.call('FLUSHALL') ]] .. os.exit() --[[\"",
    "redis": b'"\\r\\nFLUSHALL\\r\\n*1\\r\\n$8\\r\\nFLUSHALL\\r\\n"',
    "format": b'"%s %n %d %(message)s {0} {0.__class__} {{}} ${jndi:ldap://x/a} $(id) `id` %0a"',
    "newlines": b'"a\\nb\\r\\nc\\u2028d\\u2029e\\u0085f\\u000bg"',
    "line-of-a-log": b'"x\\n{\\"level\\":\\"ERROR\\",\\"msg\\":\\"forged\\"}"',
    "frame-within": b'"\\n{\\"id\\":1,\\"error\\":{\\"code\\":100}}\\n{}"',
    "nul": b'"a\\u0000b"',
    "prototype": b'{"__proto__":{"x":1},"constructor":{"prototype":1},"$where":"1","toString":null}',
    "names": b'{"<b>":1,"\'; --":2,"%s":3,"\\n":4,"":5}',
    "bidi": '"\u202egnp.exe\u202c \u200b\u200d\ufeff"'.encode(),
}
FAR: dict[str, bytes] = {
    "1e999-in-an-object": b'{"far":1e999,"near":-1e-999}',
    "5000-digits-negative": b"[-" + b"9" * 5_000 + b"]",
    "5000-digits-of-an-exponent": b"1e" + b"9" * 5_000,
    "5000-decimals": b"0." + b"1" * 5_000,
}
CARRIED = {
    **{f"B23-{name}": text for name, text in (SOUND | FAR).items()},
    **{f"B32-{name}": text for name, text in HOSTILE.items()},
}


def carries(frames: list[str | bytes], data: bytes) -> bool:
    return any(b'{"data":' + data + b',"' in frame.encode() for frame in frames if isinstance(frame, str))


@pytest.mark.parametrize("data", CARRIED.values(), ids=CARRIED)
async def test_data_is_carried_byte_for_byte(site: Site, channel: str, data: bytes) -> None:
    """Through publish to the other edge, history on both, recovery, and the same by the API."""
    async with site.client(0, "ann", channel) as ann, site.client(1, "bob", channel) as bob:
        epoch = (await ann.call(history={"channel": channel}))["epoch"]
        await ann.socket.send(publish_of(channel, data), text=True)
        assert (await ann.reply(1000))["publish"]["offset"] == 1
        await bob.publication(channel)
        assert carries(bob.frames, data)
        for client in (ann, bob):
            seen = len(client.frames)
            await client.call(history={"channel": channel, "limit": 1})
            assert carries(client.frames[seen:], data)
        for api in site.apis:
            answer = await api.raw("history", f'{{"channel":"{channel}","limit":1}}')
            assert b'{"data":' + data + b',"' in answer.content
        async with site.client(1, "late") as late:
            assert (await late.subscribe(channel, recover=True, offset=0, epoch=epoch))["recovered"]
            assert carries(late.frames, data)
        answer = await site.apis[1].raw("publish", b'{"channel":"%b","data":%b}' % (channel.encode(), data))
        assert answer.json()["result"] == {"offset": 2, "epoch": epoch}
        for client in (ann, bob):
            while (await client.publication(channel))["offset"] != 2:
                pass
            assert carries([frame for frame in client.frames if '"offset":2' in str(frame)], data)


async def test_B23_of_duplicate_members_the_last_wins(site: Site, channel: str) -> None:
    async with site.client(0, "ann", channel) as ann, site.client(1, "bob", channel) as bob:
        await ann.send(
            f'{{"id":70,"id":71,"publish":{{"channel":"chat:bad","data":0}},'
            f'"publish":{{"channel":"chat:bad","channel":"{channel}","data":1,"data":2,"\\u0064ata":"very last"}}}}'
        )
        assert "publish" in await ann.reply(71)
        assert (await bob.publication(channel))["data"] == "very last"
        await ann.send(f'{{"id":72,"history":{{"channel":"{channel}","limit":0,"limit":5,"limit":1}}}}')
        assert [entry["data"] for entry in (await ann.reply(72))["history"]["publications"]] == ["very last"]
        assert [line["id"] for line in ann.lines if line.get("id", 0) >= 70] == [71, 72]
    answer = await site.apis[0].raw("publish", f'{{"channel":"chat:bad","channel":"{channel}","data":1,"data":2}}')
    assert answer.json()["result"]["offset"] == 2
    assert await site.apis[1].history(channel) == ["very last", 2]
    await is_closed(site, '{"id":1000,"rpc":{},"id":0}')
    await is_closed(site, '{"id":1000,"publish":{"channel":"chat:bad","data":1,"channel":5}}')
    await is_closed(site, '{"id":1000,"publish":{"channel":5,"channel":"chat:bad","data":1}}')


NOT_ALLOWED: dict[str, tuple[str, int]] = {
    "since-0-with-reverse": (command("history", '{"channel":"chat:bad","limit":1,"since":{},"reverse":true}'), 107),
    "no-data": (command("publish", '{"channel":"chat:bad"}'), 107),
    "key-too-long": (
        command("publish", '{"channel":"chat:bad","data":1,"idempotency_key":"' + "k" * 129 + '"}'),
        107,
    ),
    "key-too-long-in-bytes": (
        command("publish", '{"channel":"chat:bad","data":1,"idempotency_key":"' + "é" * 65 + '"}'),
        107,
    ),
    "filter": (command("subscribe", '{"channel":"chat:elsewhere","tf":{"key":"a","cmp":"ex"}}'), 107),
    "type-of-a-map": (command("subscribe", '{"channel":"chat:elsewhere","type":1}'), 103),
    "type-of-a-poll": (command("subscribe", '{"channel":"chat:elsewhere","type":4}'), 108),
    "type-unheard-of": (command("publish", '{"channel":"chat:bad","data":1,"type":1}'), 108),
}


@pytest.mark.parametrize(("frame", "code"), NOT_ALLOWED.values(), ids=[f"B23-{name}" for name in NOT_ALLOWED])
async def test_the_right_type_that_is_not_allowed_is_an_error_and_nothing_else(
    site: Site, frame: str, code: int
) -> None:
    async with site.client(0, "mallory", "chat:bad") as client:
        await client.send(frame)
        assert (await client.reply(1000))["error"]["code"] == code
        await client.call(presence_stats={"channel": "chat:bad"})


# B24: ids.


async def test_B24_an_id_that_is_reused_while_pending_is_answered_each_time(site: Site, channel: str) -> None:
    async with site.client(0, "ann", channel) as ann, site.client(1, "bob", channel) as bob:
        frame = [command("publish", f'{{"channel":"{channel}","data":{number}}}', "77") for number in range(20)]
        await ann.send(*frame[:10])
        for one in frame[10:]:
            await ann.send(one)  # each in a frame of its own, and nobody waits
        replies = [await ann.reply(77) for _ in range(20)]
        assert [reply["publish"]["offset"] for reply in replies] == list(range(1, 21))
        assert [publication["data"] for publication in await bob.publications(channel, 20)] == list(range(20))
        await ann.send(command("rpc", "{}", "78"), command("presence_stats", '{"channel":"chat:bad"}', "78"))
        assert (await ann.reply(78))["error"]["code"] == 108
        assert (await ann.reply(78))["error"]["code"] == 103
        await ann.call(unsubscribe={"channel": channel})
        assert len([line for line in ann.lines if line.get("id") == 77]) == 20


WRONG_IDS = [
    *("0", "-1", "-0", "null", "4294967296", "-4294967295", "18446744073709551616", "18446744073709551617"),
    *("1.0", "1e2", "1.5", "1e999", '"1"', '""', "true", "[1]", "{}", "9" * 5_000),
]


@pytest.mark.parametrize("wrong", WRONG_IDS, ids=[f"B24-id-{wrong[:24]}" for wrong in WRONG_IDS])
async def test_an_id_out_of_range_closes_3501(site: Site, wrong: str) -> None:
    for edge, (name, body) in enumerate(
        (("publish", '{"channel":"chat:bad","data":1}'), ("history", '{"channel":"bad","limit":1}'))
    ):
        await is_closed(site, command(name, body, wrong), edge=edge)
    connect = command("connect", f'{{"token":"{site.stack.token("mallory")}"}}', wrong)
    await is_closed(site, connect, connect=False)


async def test_B24_no_id_closes_3501_and_the_highest_one_is_answered(site: Site) -> None:
    await is_closed(site, '{"publish":{"channel":"chat:bad","data":1}}')
    async with site.client() as client:
        for number in (1, 2**31, 2**32 - 1):
            await client.send(command("rpc", "{}", str(number)))
            assert (await client.reply(number))["error"]["code"] == 108


@pytest.mark.parametrize("number", ["", '"id":0,', '"id":5,'], ids=["B24-none", "B24-0", "B24-5"])
async def test_send_needs_no_id_and_is_not_available(site: Site, number: str) -> None:
    async with site.client() as client:
        seen = len(client.lines)
        await client.send(f'{{{number}"send":{{"data":1}}}}')
        assert await client.expect_close() == (3508, "not available")
        assert client.lines[seen:] == []


# B25: channel names.

WITH_CHANNEL = ("subscribe", "publish", "presence", "presence_stats", "history")
HTTP_WITH_CHANNEL = ("publish", "subscribe", "history", "history_remove", "presence", "presence_stats")
NAMES: dict[str, str] = {
    "over-255-bytes": MARKER + "x" * (251 - len(MARKER)),  # with `chat:` before it 256
    "64-KiB-nearly": MARKER + "x" * 60_000,
    "control": f"{MARKER}\u0001",
    "nul": f"{MARKER}\0",
    "newline": f"{MARKER}\n{{}}",
    "delete": f"{MARKER}\x7f",
    "blank": f"{MARKER} b",
    "blank-at-the-end": f"{MARKER} ",
    "non-ascii": f"{MARKER}é",
    "non-ascii-that-looks-ascii": f"{MARKER}ａ",
    "emoji": f"{MARKER}🐛",
    "bidi": f"{MARKER}\u202e",
    "tag": f"{{{MARKER}}}",
    "tag-closed-early": f"{MARKER}}}:log",
    "tag-opened": f"{MARKER}{{",
    "star": f"{MARKER}*",
    "ampersand": f"{MARKER}&b",
    "slash": f"../{MARKER}",
}


async def nothing_of(site: Site, marker: str) -> None:
    """No key, no member of one, no pub/sub channel."""
    assert [key async for key in site.redis.scan_iter(match=f"*{marker}*", count=1_000)] == []
    assert await site.redis.pubsub_channels(f"*{marker}*") == []
    for api in site.apis:
        assert await api.call("channels", pattern=f"*{marker}*") == {"channels": {}}


@pytest.mark.parametrize("name", NAMES, ids=[f"B25-{name}" for name in NAMES])
async def test_a_channel_name_that_is_not_allowed_is_107_and_leaves_nothing(site: Site, name: str) -> None:
    for edge, prefix in enumerate(("chat:", "live:")):
        bad = prefix + NAMES[name]
        assert len(bad.encode()) != 255
        async with site.client(edge, "mallory", "chat:bad") as client:
            for what in WITH_CHANNEL:
                assert (await client.error(**{what: {"channel": bad, "data": 1, "limit": 1}}))["code"] == 107, what
            assert await client.call(unsubscribe={"channel": bad}) == {}  # wire, 5.3: what is not subscribed
            await client.call(presence_stats={"channel": "chat:bad"})
    bad = "chat:" + NAMES[name]
    for method in HTTP_WITH_CHANNEL:
        assert await site.apis[0].error(method, channel=bad, data=1, limit=1, user="bystander") == 107, method
    result = await site.apis[1].call("broadcast", channels=[bad, bad], data=1)
    assert [response["error"]["code"] for response in result["responses"]] == [107, 107]
    await nothing_of(site, MARKER)


@pytest.mark.parametrize("name", [*WITH_CHANNEL, "unsubscribe"], ids=lambda name: f"B25-{name}")
async def test_a_channel_that_is_absent_or_empty_closes_3501(site: Site, name: str) -> None:
    for edge, body in enumerate(('{"data":1,"limit":1}', '{"channel":"","data":1,"limit":1}', '{"channel":null}')):
        await is_closed(site, command(name, body), edge=edge % 2)


@pytest.mark.parametrize("method", HTTP_WITH_CHANNEL, ids=lambda name: f"B25-http-{name}")
async def test_a_channel_that_is_absent_or_empty_is_refused(site: Site, method: str) -> None:
    answer = await site.apis[0].raw(method, '{"data":1,"limit":1,"user":"bystander"}')
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, 107)
    assert "channel" in answer.json()["error"]["message"]
    assert await site.apis[1].error(method, channel="", data=1, limit=1, user="bystander") == 107


@pytest.mark.parametrize(
    "name", ["nope:x", ":x", "chat", "CHAT:x", "é:x", "$nope:x", "chat%3Ax:y"], ids=lambda name: f"B25-{name}"
)
async def test_no_name_leaves_the_namespaces_there_are(site: Site, name: str) -> None:
    expected = {"chat": 103}.get(name, 102)  # `chat` is a channel of [default], which nobody has joined
    async with site.client() as client:
        for what in ("publish", "history", "presence"):
            assert (await client.error(**{what: {"channel": name, "data": 1}}))["code"] == expected
        if expected == 102:
            assert (await client.error(subscribe={"channel": name}))["code"] == 102
            assert await site.apis[0].error("publish", channel=name, data=1) == 102


async def test_B25_a_name_of_255_bytes_is_served_and_one_more_is_not(site: Site, durability: str) -> None:
    longest = NEW[durability] + secrets.token_hex(4)
    longest += "x" * (255 - len(longest))
    async with site.client(0, "ann", longest) as ann, site.client(1, "bob", longest) as bob:
        await ann.publish(longest, 1)
        assert (await bob.publication(longest))["data"] == 1
        assert (await bob.error(subscribe={"channel": longest + "x"}))["code"] == 107
    assert await site.apis[0].history(longest) == [1]


async def test_B25_bad_names_in_the_positions_of_a_connect_make_nothing(site: Site) -> None:
    subs = {prefix + name: {"recover": True, "offset": 1} for name in NAMES.values() for prefix in ("chat:", "")}
    subs.pop("chat:" + NAMES["64-KiB-nearly"])
    subs.pop(NAMES["64-KiB-nearly"])
    async with WireClient(site.stack.ws_urls[0]) as client:
        assert "subs" not in await client.connect(site.stack.token("mallory"), subs=subs | {"nope:x": {}, "": {}})
        assert (await client.error(rpc={}))["code"] == 108
    await nothing_of(site, MARKER)


# B28: size of data, and idempotency keys.


async def test_B28_data_over_the_limit_is_106_and_nothing_is_stored(site: Site, durability: str) -> None:
    attacked = ATTACKED[durability]
    for edge, data in enumerate(
        ('"' + "x" * (MAX_DATA - 1) + '"', '"' + "é" * (MAX_DATA // 2) + '"', "1" * (MAX_DATA + 1))
    ):
        assert len(data.encode()) > MAX_DATA
        async with site.client(edge % 2, "mallory", attacked) as client:
            await client.send(command("publish", f'{{"channel":"{attacked}","data":{data}}}'))
            assert (await client.reply(1000))["error"]["code"] == 106
            await client.call(history={"channel": attacked, "limit": 1})
        answer = await site.apis[edge % 2].raw("publish", f'{{"channel":"{attacked}","data":{data}}}')
        assert (answer.status_code, answer.json()["error"]["code"]) == (200, 106)
        answer = await site.apis[edge % 2].raw("broadcast", f'{{"channels":["{attacked}","{attacked}"],"data":{data}}}')
        assert [one["error"]["code"] for one in answer.json()["result"]["responses"]] == [106, 106]


async def test_B28_data_of_exactly_the_limit_is_carried(site: Site, channel: str) -> None:
    for number, data in enumerate(('"' + "x" * (MAX_DATA - 2) + '"', '"' + "é" * (MAX_DATA // 2 - 1) + '"')):
        async with site.client(0, "ann", channel) as ann, site.client(1, "bob", channel) as bob:
            await ann.send(command("publish", f'{{"channel":"{channel}","data":{data}}}'))
            assert (await ann.reply(1000))["publish"]["offset"] == number + 1
            await bob.publication(channel)
            assert carries(bob.frames, data.encode())


async def test_B28_data_over_a_limit_with_a_key_does_not_use_up_the_key(site: Site, channel: str) -> None:
    async with site.client(0, "ann", channel) as ann, site.client(1, "ann", channel) as again:
        error = await ann.error(publish={"channel": channel, "data": "x" * MAX_DATA, "idempotency_key": "k"})
        assert error["code"] == 106
        assert (await again.publish(channel, "small", idempotency_key="k"))["offset"] == 1
    assert await site.apis[0].history(channel) == ["small"]


async def test_B28_a_repeated_key_returns_the_first_position_whatever_the_data(site: Site, channel: str) -> None:
    async with site.client(0, "ann", channel) as one, site.client(1, "ann", channel) as two:
        first = await one.publish(channel, "first", idempotency_key="k")
        assert first["offset"] == 1
        for client in (two, one):
            assert await client.publish(channel, {"other": [1]}, idempotency_key="k") == first
        assert (await two.publish(channel, "next", idempotency_key="K"))["offset"] == 2
        assert await one.publish(channel, "late", idempotency_key="k") == first
        for client in (one, two):
            assert [entry["data"] for entry in await client.publications(channel, 2)] == ["first", "next"]
    assert await site.apis[1].history(channel) == ["first", "next"]


async def test_B28_repeated_keys_at_the_same_moment_are_stored_once(site: Site, channel: str) -> None:
    async with site.client(0, "ann", channel) as one, site.client(1, "ann", channel) as two:
        body = [{"channel": channel, "data": number, "idempotency_key": "k"} for number in range(20)]
        calls = [client.call(publish=each) for each, client in zip(body, (one, two) * 10, strict=True)]
        results = await asyncio.gather(*calls)
        assert {result["offset"] for result in results} == {1}
    assert len(await site.apis[0].history(channel)) == 1


async def test_B28_another_users_key_is_independent(site: Site, channel: str) -> None:
    async with site.client(0, "ann", channel) as ann, site.client(1, "bob", channel) as bob:
        assert (await ann.publish(channel, "of ann", idempotency_key="k"))["offset"] == 1
        assert (await bob.publish(channel, "of bob", idempotency_key="k"))["offset"] == 2
        assert (await site.apis[0].call("publish", channel=channel, data="of api", idempotency_key="k"))["offset"] == 3
        assert (await site.apis[1].call("publish", channel=channel, data="again", idempotency_key="k"))["offset"] == 3
        assert (await bob.publish(channel, "again", idempotency_key="k"))["offset"] == 2
        async with site.client(0, "api", channel) as api:
            assert (await api.publish(channel, "of a user named api", idempotency_key="k"))["offset"] == 4
    assert await site.apis[0].history(channel) == ["of ann", "of bob", "of api", "of a user named api"]


SEPARATORS = [":", "\0", "|", "/", ",", ".", " ", "\n", "\x1f", "}:", "\\0", "%00"]
FORGED = {
    **{f"{separator!r}": (f"p{separator}q", "r", "p", f"q{separator}r") for separator in SEPARATORS},
    "user-u": ("u:p", "k", "p", "k"),
    "user-api": ("api", "k", "u:api", "k"),
    "length": ("p", "1:q", "p1", ":q"),
}


@pytest.mark.parametrize(("user", "key", "other", "other_key"), FORGED.values(), ids=[f"B28-{one}" for one in FORGED])
async def test_no_key_can_be_written_so_that_it_is_another_users(
    site: Site, channel: str, user: str, key: str, other: str, other_key: str
) -> None:
    async with site.client(0, user, channel) as one, site.client(1, other, channel) as two:
        assert (await one.publish(channel, "one", idempotency_key=key))["offset"] == 1
        assert (await two.publish(channel, "two", idempotency_key=other_key))["offset"] == 2
        assert (await one.publish(channel, "again", idempotency_key=key))["offset"] == 1
        assert (await two.publish(channel, "again", idempotency_key=other_key))["offset"] == 2


@pytest.mark.parametrize(
    ("user", "key", "other", "other_key"),
    [
        pytest.param("p:q", "r", "p", "q:r", id="B28-colon"),
        pytest.param("p", "q\0r", "o", "q\0r", id="B28-nul-in-the-key"),
        pytest.param("p\0q", "r", "p", "q\0r", id="B28-nul-in-the-user"),
    ],
)
async def test_keys_that_the_store_brings_back_are_those_of_their_users(
    site: Site, user: str, key: str, other: str, other_key: str
) -> None:
    """A Redis that lost the channel learns the keys from the store."""
    name = f"chat:lost-{secrets.token_hex(4)}"
    async with site.client(0, user, name) as one, site.client(1, other, name) as two:
        assert (await one.publish(name, "one", idempotency_key=key))["offset"] == 1
        lost = [each async for each in site.redis.scan_iter(match=f"t:{{{name}}}:*", count=1_000)]
        assert len(lost) == 3  # log, meta and the key
        await site.redis.delete(*lost)
        assert (await two.publish(name, "two", idempotency_key=other_key))["offset"] == 2
        assert (await one.publish(name, "again", idempotency_key=key))["offset"] == 1
    assert await site.apis[0].history(name) == ["one", "two"]


# B29: positions.

TOP = 5
OTHER_EPOCHS = [
    *("another", "0", "x" * 10_000, "é", "\0", "a\nb", "1.", "999999.zzzzzzzz", "%s", "*"),
    *("redis.call('FLUSHALL')", "'; --", "<b>"),
]


async def filled(site: Site, channel: str, count: int = TOP) -> str:
    """A channel with so many publications 0, 1, 2 …; returns its epoch."""
    commands = [{"publish": {"channel": channel, "data": number}} for number in range(count)]
    replies = (await site.apis[0].call("batch", commands=commands))["replies"]
    assert replies[-1]["publish"]["offset"] == count
    epoch: str = replies[-1]["publish"]["epoch"]
    return epoch


async def recover(site: Site, edge: int, channel: str, **position: Any) -> dict[str, Any]:
    async with site.client(edge, "late") as client:
        reply: dict[str, Any] = await client.reply(
            await client.post(subscribe={"channel": channel, "recover": True, **position})
        )
        stats = await client.reply(await client.post(presence_stats={"channel": channel}))
        assert ("error" in stats) == ("error" in reply)  # subscribed, or not at all
        return reply


async def test_B29_recovery_from_an_unknown_epoch_is_not_recovered(site: Site, channel: str) -> None:
    epoch = await filled(site, channel)
    for number, other in enumerate([*OTHER_EPOCHS, epoch[:-1], epoch + "x", epoch.swapcase() + "_"]):
        for offset in (0, TOP - 1, TOP):
            result = (await recover(site, number % 2, channel, offset=offset, epoch=other))["subscribe"]
            assert result == {
                "recoverable": True,
                "positioned": True,
                "was_recovering": True,
                "epoch": epoch,
                "offset": TOP,
            }
        reply = await recover(site, number % 2, channel, offset=TOP - 1, epoch=other, flag=2)
        assert reply["error"]["code"] == 112
    result = (await recover(site, 1, channel, offset=TOP - 1, epoch=epoch, flag=2))["subscribe"]
    assert (result["recovered"], [one["data"] for one in result["publications"]]) == (True, [TOP - 1])


async def test_B29_recovery_beyond_the_top_is_not_recovered(site: Site, channel: str) -> None:
    epoch = await filled(site, channel)
    cases = [
        (edge, offset, given, flag)
        for edge, given in ((0, epoch), (1, ""))
        for offset in (TOP + 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)
        for flag in (0, 2)
    ]
    replies = await asyncio.gather(
        *(recover(site, edge, channel, offset=offset, epoch=given, flag=flag) for edge, offset, given, flag in cases)
    )
    for (_, offset, _, flag), reply in zip(cases, replies, strict=True):
        if flag:
            assert reply["error"]["code"] == 112, offset
        else:
            assert "recovered" not in reply["subscribe"]
            assert "publications" not in reply["subscribe"]
            assert (reply["subscribe"]["offset"], reply["subscribe"]["epoch"]) == (TOP, epoch)


async def test_B29_history_since_another_epoch_is_112(site: Site, channel: str) -> None:
    epoch = await filled(site, channel)
    for edge in (0, 1):
        async with site.client(edge, "ann", channel) as client:
            for other in OTHER_EPOCHS:
                for body in (
                    {"limit": 1, "since": {"offset": 1, "epoch": other}},
                    {"limit": 1, "since": {"offset": 2, "epoch": other}, "reverse": True},
                    {"limit": 0, "since": {"epoch": other}},
                ):
                    assert (await client.error(history={"channel": channel, **body}))["code"] == 112
                    assert await site.apis[edge].error("history", channel=channel, **body) == 112
            for right in (epoch, ""):
                body = {"channel": channel, "limit": 1, "since": {"offset": 1, "epoch": right}}
                assert (await client.call(history=body))["publications"][0]["offset"] == 2
                assert (await site.apis[edge].call("history", **body))["publications"][0]["offset"] == 2


async def test_B29_limits_that_are_zero_negative_or_large_are_none_and_cut(site: Site, channel: str) -> None:
    epoch = await filled(site, channel, PAGE + 5)
    top = {"epoch": epoch, "offset": PAGE + 5}
    first, last = list(range(PAGE)), list(range(PAGE + 4, 4, -1))
    for edge in (0, 1):
        async with site.client(edge, "ann", channel) as client:
            for body in ({}, {"limit": 0}, {"limit": None}, {"limit": 0, "reverse": True}):
                result = await client.call(history={"channel": channel, **body})
                assert result == {"publications": [], **top}
            for limit in (-1, -(2**31), PAGE + 1, 2**31 - 1):
                for reverse, expected in ((False, first), (True, last)):
                    result = await client.call(history={"channel": channel, "limit": limit, "reverse": reverse})
                    assert [one["data"] for one in result["publications"]] == expected
                    assert {name: result[name] for name in top} == top
        api = site.apis[edge]
        assert await api.call("history", channel=channel) == {"publications": [], **top}
        assert await api.history(channel, 0) == []
        for limit in (-1, -(2**31), PAGE + 1, 2**31, 2**64, -(2**64), 10**100):
            answer = await api.raw("history", f'{{"channel":"{channel}","limit":{limit}}}')
            assert [one["data"] for one in answer.json()["result"]["publications"]] == first, limit


async def test_B29_positions_at_both_ends_of_history(site: Site, channel: str) -> None:
    epoch = await filled(site, channel)
    for edge in (0, 1):
        async with site.client(edge, "ann", channel) as client:
            for since in ({"offset": 0}, {}, {"offset": 0, "epoch": epoch}, {"epoch": "another"}, {"offset": None}):
                for limit in (0, 1, -1):
                    body = {"channel": channel, "limit": limit, "since": since, "reverse": True}
                    assert (await client.error(history=body))["code"] == 107
                    if since != {"offset": None}:
                        assert await site.apis[edge].error("history", **body) == 107
            for offset in (TOP, TOP + 1, 2**53 + 1, 2**63, 2**64 - 1):
                body = {"channel": channel, "limit": 9, "since": {"offset": offset, "epoch": epoch}}
                empty = {"publications": [], "epoch": epoch, "offset": TOP}
                assert await client.call(history=body) == empty
                assert await site.apis[edge].call("history", **body) == empty
                newest_first = await client.call(history={**body, "reverse": True})
                kept = list(range(TOP))[::-1] if offset > TOP else list(range(TOP - 1))[::-1]
                assert [one["data"] for one in newest_first["publications"]] == kept, offset


# B30: floods, with the limits of production: 50 commands/s, burst 300, 3 s.

RATE, BURST, KEPT_UP_S = 50, 300, 3.0


async def test_B30_over_the_burst_is_111_and_not_done_and_ends_by_itself(site: Site) -> None:
    name = f"flood-{secrets.token_hex(4)}"
    async with site.client(0, "mallory", name) as client:
        started = time.monotonic()
        ids = [str(2_000 + number) for number in range(2 * BURST)]
        await client.send(*(command("publish", f'{{"channel":"{name}","data":{number}}}', number) for number in ids))
        replies = [await client.reply(int(number)) for number in ids]
        refilled = (time.monotonic() - started) * RATE + 1
        refused = [reply["error"] for reply in replies if "error" in reply]
        done = len(replies) - len(refused)
        assert BURST - 1 <= done <= BURST + refilled
        for error in refused:
            assert (error["code"], error["temporary"], error["message"]) == (111, True, "too many requests")
            assert 0 < error["retry_after_ms"] <= 1_000 / RATE
        assert [line["id"] for line in client.lines if "id" in line][-len(ids) :] == [int(number) for number in ids]
        deadline = time.monotonic() + 2
        while "error" in (reply := await client.reply(await client.post(presence_stats={"channel": name}))):
            assert reply["error"]["code"] == 111
            assert time.monotonic() < deadline
            await asyncio.sleep(reply["error"]["retry_after_ms"] / 1_000)
    assert (await site.apis[1].call("history", channel=name))["offset"] == done


async def test_B30_connect_and_unsubscribe_are_not_counted(site: Site) -> None:
    async with site.client() as client:
        replies = await client.batch(*[{"unsubscribe": {"channel": "chat:bad"}}] * (2 * BURST))
        for number in replies:
            assert await client.reply(number) == {"id": number, "unsubscribe": {}}
        replies = await client.batch(*[{"rpc": {}}] * BURST)
        assert {(await client.reply(number))["error"]["code"] for number in replies} == {108}


async def test_B30_a_flood_that_is_kept_up_closes_3013(site: Site) -> None:
    async with site.client(0, "mallory", "chat:bad") as client:
        refused_at = slowest_s = 0.0
        deadline = time.monotonic() + 15
        closing = asyncio.create_task(client.expect_close(20))
        number = 5_000
        while not closing.done():
            assert time.monotonic() < deadline
            with contextlib.suppress(Exception):  # it may be closed before or while we send
                await client.send(*(command("rpc", "{}", str(number + one)) for one in range(100)))
            number += 100
            started = time.monotonic()
            await site.check()  # the others go on
            slowest_s = max(slowest_s, time.monotonic() - started)
            if not refused_at and any(line.get("error", {}).get("code") == 111 for line in client.lines):
                refused_at = time.monotonic()
            await asyncio.wait([closing], timeout=0.1)
        lasted_s = time.monotonic() - refused_at
        assert await closing == (3013, "too many requests")
        assert refused_at
        assert KEPT_UP_S - 0.5 < lasted_s < KEPT_UP_S + 2
        assert slowest_s < 1
        assert {line["error"]["code"] for line in client.lines if "error" in line} == {108, 111}
    async with site.client(0, "mallory", "chat:elsewhere") as again:
        await again.call(presence_stats={"channel": "chat:elsewhere"})


# B32: names.

HOSTILE_NAMES: dict[str, str] = {
    "html": "<b onclick=alert(1)>x</b>",
    "sql": "'; DROP TABLE log; --",
    "lua": "]] redis.call('FLUSHALL') --",
    "format": "%s%n%(msg)s{0}{0.__class__}${x}",
    "newlines": 'a\nb\r\n{"level":"ERROR","msg":"forged"}',
    "separators-of-lines": "a\u2028b\u2029c\u0085d\x0be",
    "nul": "a\0b",
    "blank": " ",
    "glob": "*",
    "set": "[a-z]?",
    "path": "../../etc/passwd",
    "comma": "a,b",
    "utf-8": "жук 🐛 \U0010ffff",
    "bidi": "\u202eresu\u202c",
    "long": "x" * 1_500,
    "number": "0",
    "json": '{"a":1}',
    "brace": "}:users",
}


@pytest.mark.parametrize("user", HOSTILE_NAMES.values(), ids=[f"B32-{name}" for name in HOSTILE_NAMES])
async def test_names_of_users_are_carried_unchanged_and_mean_nothing(site: Site, channel: str, user: str) -> None:
    """Through publications, history, presence, join and leave, and operations of the other edge."""
    info = {"name": user, user: 1}
    async with site.client(1, "watcher") as watcher:
        await watcher.subscribe(channel, join_leave=True)
        async with site.client(0, user, info=info) as client:
            await client.subscribe(channel)
            join = (await watcher.push(channel, "join"))["join"]["info"]
            while join["client"] != client.client_id:
                join = (await watcher.push(channel, "join"))["join"]["info"]
            assert join == {"user": user, "client": client.client_id, "conn_info": info}
            await client.publish(channel, {user: user}, idempotency_key=user[:20])
            publication = await watcher.publication(channel)
            assert (publication["data"], publication["info"]) == ({user: user}, join)
            entry = (await watcher.call(history={"channel": channel, "limit": 1}))["publications"][0]
            assert (entry["data"], entry["info"]) == ({user: user}, join)
            there = (await watcher.call(presence={"channel": channel}))["presence"]
            assert there[client.client_id] == join
            assert (await site.apis[1].call("presence", channel=channel))["presence"][client.client_id] == join
            assert await site.apis[0].call("presence_stats", channel=channel) == {"num_clients": 2, "num_users": 2}
            await client.call(unsubscribe={"channel": channel})
            assert (await watcher.push(channel, "leave"))["leave"]["info"] == join
            await site.apis[1].call("disconnect", user=user, disconnect={"code": 4501, "reason": "moved out"})
            assert await client.expect_close() == (4501, "moved out")
        await watcher.call(presence_stats={"channel": channel})


CHANNELS: dict[str, str] = {
    "html": "<script>alert(1)<\\script>",
    "sql": "';DROP(TABLE)log;--",
    "lua": "redis.call('flushall')",
    "format": "%s%n%d%(msg)s$x",
    "percent": "%0d%0a%00",
    "glob": "[a-z]?",
    "quotes": "\"'`",
    "backslash": "\\",
    "colons": ":::",
    "keys": "x:log",
    "dots": "..",
    "caret": "^|~!@=+",
}
TWINS = {"[a-z]?": "ax", "x:log": "x", "..": ".", "\\": "\\\\", ":::": "::", "%0d%0a%00": "%0D%0A%00"}


@pytest.mark.parametrize("rest", CHANNELS.values(), ids=[f"B32-{name}" for name in CHANNELS])
async def test_names_of_channels_are_carried_unchanged_and_mean_nothing(site: Site, durability: str, rest: str) -> None:
    prefix = "chat:" if durability == "stored" else "live:"
    unique = secrets.token_hex(4)
    name, twin = f"{prefix}{unique}{rest}", f"{prefix}{unique}{TWINS.get(rest, rest.swapcase() + '_')}"
    async with site.client(0, "ann", name) as ann, site.client(1, "bob", name, twin) as bob:
        await ann.publish(name, "of the name")
        assert (await bob.publication(name))["data"] == "of the name"
        await site.apis[0].call("publish", channel=twin, data="of the twin")
        assert (await bob.publication(twin))["data"] == "of the twin"
        for api in site.apis:
            assert await api.history(name) == ["of the name"]
            assert await api.history(twin) == ["of the twin"]
            assert (await api.call("channels"))["channels"][name] == {"num_clients": 2}
        assert bob.pushes(name) + bob.pushes(twin) == [line["push"] for line in bob.lines if "push" in line]
        await ann.call(unsubscribe={"channel": name})
        assert (await ann.error(publish={"channel": name, "data": 1}))["code"] == 103


@pytest.mark.parametrize("text", HOSTILE_NAMES.values(), ids=[f"B32-{name}" for name in HOSTILE_NAMES])
async def test_other_names_are_taken_as_they_are(site: Site, channel: str, text: str) -> None:
    """Tags, idempotency keys, epochs, methods, names of clients, reasons, patterns."""
    async with WireClient(site.stack.ws_urls[0], headers={"User-Agent": "x\t%s{0}<b>'; --"}) as client:
        await client.connect(site.stack.token("ann"), name=text, version=text, headers={text: text}, profile=text)
        await client.subscribe(channel, recover=True, epoch=text)
        assert (await client.error(rpc={"method": text, "data": text}))["code"] == 108
        tags = {text: text, "plain": "1"}
        await site.apis[1].call("publish", channel=channel, data=1, tags=tags, idempotency_key=text[:20])
        assert (await client.publication(channel))["tags"] == tags
        page = await site.apis[0].call("history", channel=channel, limit=1)
        assert page["publications"][0]["tags"] == tags
        since = {"offset": 1, "epoch": text}
        assert (await client.error(history={"channel": channel, "limit": 1, "since": since}))["code"] == 112
        if text != "*":
            assert channel not in (await site.apis[1].call("channels", pattern=text))["channels"]
        assert await site.apis[0].call("disconnect", user=text) == {}  # nobody of that name is here
        assert await site.apis[0].call("unsubscribe", user=text, channel=text) == {}
        assert (await client.call(presence_stats={"channel": channel}))["num_clients"] == 1


@pytest.mark.parametrize("text", HOSTILE_NAMES.values(), ids=[f"B32-http-{name}" for name in HOSTILE_NAMES])
async def test_hostile_texts_for_accounts_and_in_addresses_are_only_texts(site: Site, text: str) -> None:
    for edge, url in enumerate(site.stack.http_urls):
        async with httpx.AsyncClient(base_url=url, timeout=10) as http:
            answer = await http.post("/auth/register", json={"username": text, "password": "a good password"})
            assert answer.status_code == 400, answer.text
            answer = await http.post("/auth/login", json={"username": text, "password": "a good password"})
            assert answer.status_code in (400, 401, 429), answer.text
            answer = await http.get("/nope", params={"q": text}, headers={"User-Agent": "%s\t{0}"})
            assert answer.status_code == 404
            answer = await http.post("/auth/refresh", json={"refresh_token": text})
            assert answer.status_code in (400, 401), answer.text
        assert await site.apis[edge].error("disconnect", user="x", disconnect={"code": 4000, "reason": "1"}) == 107


# What holds for every row.


async def figure(site: Site, line: str) -> float:
    """A counter of edge 1."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{site.stack.internal_urls['edge-1']}/metrics")
    values = [text.rsplit(" ", 1)[1] for text in answer.text.splitlines() if text.startswith(f"{line} ")]
    return float(values[0]) if values else 0.0


COUNTED = {
    "B23": (command("publish", '{"channel":"bad","data":NaN}'), 'thalamus_edge_closes_total{code="3501"}'),
    "B24": (command("rpc", "{}", "-1"), 'thalamus_edge_closes_total{code="3501"}'),
    "B25": (command("subscribe", '{"channel":"é"}'), 'thalamus_edge_errors_total{code="bad_request"}'),
    "B28": (
        command("publish", '{"channel":"bad","data":"' + "x" * MAX_DATA + '"}'),
        'thalamus_edge_errors_total{code="limit_exceeded"}',
    ),
    "B29": (
        command("history", '{"channel":"bad","since":{"epoch":"x"}}'),
        'thalamus_edge_errors_total{code="unrecoverable_position"}',
    ),
    "B30": ("\n".join([command("rpc", "{}")] * 400), 'thalamus_edge_errors_total{code="too_many_requests"}'),
}


@pytest.mark.parametrize(("frame", "counter"), COUNTED.values(), ids=COUNTED)
async def test_each_kind_raises_its_counter(site: Site, frame: str, counter: str) -> None:
    before = await figure(site, counter)
    async with site.client(0, "mallory", "bad") as client:
        seen = len(client.lines)
        await client.send(frame)
        await client.wait_for(lambda: client.lines[seen:] or client.socket.close_code, "answer")
        deadline = time.monotonic() + 5
        while await figure(site, counter) <= before:
            assert time.monotonic() < deadline


async def test_B32_after_all_that_nobody_logged_a_fault_and_every_line_is_one_object(site: Site) -> None:
    check_logs(site.stack)
    for bystander in site.bystanders:
        assert bystander.socket.close_code is None
        there = (await bystander.call(presence={"channel": "bad"}))["presence"]
        assert {one.client_id for one in site.bystanders} <= set(there)
        assert not [line for line in bystander.lines if "error" in line]
