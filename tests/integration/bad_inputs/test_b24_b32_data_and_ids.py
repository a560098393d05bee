"""B23, B24, B32: what is carried byte for byte, duplicate members, ids."""

from __future__ import annotations

import pytest

from tests.edge.protocols.corpus import SOUND
from tests.integration.bad_inputs.site import (
    Site,
    carries,
    command,
    is_closed,
    publish_of,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

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
    "far-in-an-object": b'{"far":1e308,"near":-1e-999}',
    "5000-digits-of-an-exponent": b"1e-" + b"9" * 5_000,
    "5000-decimals": b"0." + b"1" * 5_000,
}
CARRIED = {
    **{f"B23-{name}": text for name, text in (SOUND | FAR).items()},
    **{f"B32-{name}": text for name, text in HOSTILE.items()},
}


@pytest.mark.parametrize("data", CARRIED.values(), ids=CARRIED)
async def test_data_is_carried_byte_for_byte(site: Site, channel: str, data: bytes) -> None:
    """Through publish to the other edge, both histories, recovery, and the API."""
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
            response = await api.raw("history", f'{{"channel":"{channel}","limit":1}}')
            assert b'{"data":' + data + b',"' in response.content
        async with site.client(1, "late") as late:
            assert (await late.subscribe(channel, recover=True, offset=0, epoch=epoch))["recovered"]
            assert carries(late.frames, data)
        response = await site.apis[1].raw("publish", b'{"channel":"%b","data":%b}' % (channel.encode(), data))
        assert response.json()["result"] == {"offset": 2, "epoch": epoch}
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
    response = await site.apis[0].raw("publish", f'{{"channel":"chat:bad","channel":"{channel}","data":1,"data":2}}')
    assert response.json()["result"]["offset"] == 2
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
        assert (await ann.reply(78))["error"]["code"] == 104
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
            assert (await client.reply(number))["error"]["code"] == 104


@pytest.mark.parametrize("number", ["", '"id":0,', '"id":5,'], ids=["B24-none", "B24-0", "B24-5"])
async def test_send_needs_no_id_and_is_not_available(site: Site, number: str) -> None:
    async with site.client() as client:
        seen = len(client.lines)
        await client.send(f'{{{number}"send":{{"data":1}}}}')
        assert await client.expect_close() == (3508, "not available")
        assert client.lines[seen:] == []
