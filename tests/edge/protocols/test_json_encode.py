"""What the JSON codec sends.

Names begin with a section of the wire protocol or a row of reliability.
"""

from __future__ import annotations

import pytest

from services.edge.domain import replies as r
from services.edge.domain.connections import Pings
from services.edge.domain.model import ClientInfo, Publication, StreamPosition
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from services.shared.errors import ErrorCode
from tests.edge.protocols.replies import Reply, Sent, encoded

ALICE = ClientInfo("alice", "aaaa", b'{"name":"Alice"}')
BOB = ClientInfo("bob", "bbbb", b'{"name":"Bob"}', b"[1]")
NOBODY = ClientInfo("", "cccc")
WHOLE = Publication(
    data=b'{"n":1}',
    info=BOB,
    tags={"a": "1", "b": ""},
    id=b"0123456789abcdef",
    exclude_client="dddd",
    time_ms=1_800_000_000_000,
    offset=1,
)
BARE = Publication(data=b"0")


def line(reply: Sent) -> str:
    return encoded(CentrifugalJson(bytes), reply).decode()


# The lines of the wire protocol's transcript (19) and the shapes of 2, 3, 5 and 6, character for character.
RESULTS: dict[str, tuple[r.Result, str]] = {
    "5.1-connect": (
        r.ConnectResult(client="aaaa", version="1.0.0"),
        '"connect":{"client":"aaaa","version":"1.0.0","ping":25,"pong":true}',
    ),
    "5.1-connect-with-everything": (
        r.ConnectResult(
            client="aaaa",
            version="1.0.0",
            expires=True,
            ttl=60,
            data=b'{"a":1}',
            subs={
                "#alice": r.SubscribeResult(recoverable=True, epoch="khFzNyMu", positioned=True),
                "plain": r.SubscribeResult(),
            },
        ),
        '"connect":{"client":"aaaa","version":"1.0.0","expires":true,"ttl":60,"data":{"a":1},"subs":{"#alice":'
        '{"recoverable":true,"epoch":"khFzNyMu","positioned":true},"plain":{}},"ping":25,"pong":true}',
    ),
    "5.2-subscribe-plain": (r.SubscribeResult(), '"subscribe":{}'),
    "5.2-subscribe-on-an-empty-stream": (
        r.SubscribeResult(recoverable=True, epoch="NtFMHbCA", positioned=True),
        '"subscribe":{"recoverable":true,"epoch":"NtFMHbCA","positioned":true}',
    ),
    "11.4-recovered": (
        r.SubscribeResult(
            recoverable=True,
            epoch="NtFMHbCA",
            publications=[
                Publication(data=b'{"n":1}', info=ALICE, offset=1),
                Publication(data=b'{"n":2}', offset=2),
            ],
            recovered=True,
            positioned=True,
            was_recovering=True,
        ),
        '"subscribe":{"recoverable":true,"epoch":"NtFMHbCA","publications":[{"data":{"n":1},"info":{"user":"alice",'
        '"client":"aaaa","conn_info":{"name":"Alice"}},"offset":1},{"data":{"n":2},"offset":2}],"recovered":true,'
        '"positioned":true,"was_recovering":true}',
    ),
    "11.4-not-recovered": (
        r.SubscribeResult(recoverable=True, epoch="NtFMHbCA", offset=3, positioned=True, was_recovering=True),
        '"subscribe":{"recoverable":true,"epoch":"NtFMHbCA","offset":3,"positioned":true,"was_recovering":true}',
    ),
    "5.2-subscribe-that-expires-with-data": (
        r.SubscribeResult(expires=True, ttl=5, data=b'"x"'),
        '"subscribe":{"expires":true,"ttl":5,"data":"x"}',
    ),
    "2-unsubscribe-empty-result-is-present": (r.UnsubscribeResult(), '"unsubscribe":{}'),
    "2-publish-empty-result-is-present": (r.PublishResult(), '"publish":{}'),
    "publish-with-position": (r.PublishResult(7, "khFzNyMu"), '"publish":{"offset":7,"epoch":"khFzNyMu"}'),
    "2-presence-of-nobody": (r.PresenceResult([]), '"presence":{"presence":{}}'),
    "5.5-presence-is-a-map": (
        r.PresenceResult([BOB, NOBODY]),
        '"presence":{"presence":{"bbbb":{"user":"bob","client":"bbbb","conn_info":{"name":"Bob"},"chan_info":[1]},'
        '"cccc":{"user":"","client":"cccc"}}}',
    ),
    "2-presence-stats-zeros-are-present": (
        r.PresenceStatsResult(0, 0),
        '"presence_stats":{"num_clients":0,"num_users":0}',
    ),
    "5.5-presence-stats": (r.PresenceStatsResult(2, 1), '"presence_stats":{"num_clients":2,"num_users":1}'),
    "2-history-zeros-are-present": (
        r.HistoryResult([], StreamPosition(0, "")),
        '"history":{"publications":[],"epoch":"","offset":0}',
    ),
    "5.6-history": (
        r.HistoryResult([Publication(data=b'{"n":2}', info=ALICE, offset=2)], StreamPosition(2, "NtFMHbCA")),
        '"history":{"publications":[{"data":{"n":2},"info":{"user":"alice","client":"aaaa","conn_info":'
        '{"name":"Alice"}},"offset":2}],"epoch":"NtFMHbCA","offset":2}',
    ),
    "2-rpc-empty-result-is-present": (r.RpcResult(), '"rpc":{}'),
    "2-rpc-null-is-left-out": (r.RpcResult(b"null"), '"rpc":{}'),
    "5.7-rpc": (r.RpcResult(b"0"), '"rpc":{"data":0}'),
    "2-refresh-empty-result-is-present": (r.RefreshResult(), '"refresh":{}'),
    "5.8-refresh": (r.RefreshResult(expires=True, ttl=60), '"refresh":{"expires":true,"ttl":60}'),
    "2-sub-refresh-empty-result-is-present": (r.SubRefreshResult(), '"sub_refresh":{}'),
    "5.9-sub-refresh": (r.SubRefreshResult(expires=True, ttl=60), '"sub_refresh":{"expires":true,"ttl":60}'),
    "3-error": (r.ErrorResult(108, "not available"), '"error":{"code":108,"message":"not available"}'),
    "3-error-temporary": (
        r.ErrorResult(ErrorCode.INTERNAL, "internal server error", temporary=True),
        '"error":{"code":100,"message":"internal server error","temporary":true}',
    ),
    "error-with-a-hint": (
        r.ErrorResult(ErrorCode.TOO_MANY_REQUESTS, "too many requests", temporary=True, retry_after_ms=20),
        '"error":{"code":111,"message":"too many requests","temporary":true,"retry_after_ms":20}',
    ),
    "2-error-message-is-never-empty": (r.ErrorResult(1_000, ""), '"error":{"code":1000,"message":"error"}'),
}
PUSHES: dict[str, tuple[r.Push, str]] = {
    "6-publication": (
        r.PublicationPush("room", Publication(data=b'{"n":2}', info=ALICE, offset=2)),
        '{"channel":"room","pub":{"data":{"n":2},"info":{"user":"alice","client":"aaaa","conn_info":{"name":"Alice"}},'
        '"offset":2}}',
    ),
    "6-publication-with-everything": (
        r.PublicationPush("room", WHOLE, "NtFMHbCA"),
        '{"channel":"room","pub":{"data":{"n":1},"info":{"user":"bob","client":"bbbb","conn_info":{"name":"Bob"},'
        '"chan_info":[1]},"offset":1,"tags":{"a":"1","b":""},"time":1800000000000,'
        '"epoch":"NtFMHbCA"}}',
    ),
    "6-publication-without-log": (r.PublicationPush("room", BARE), '{"channel":"room","pub":{"data":0}}'),
    "6-epoch-only-with-offset-1": (
        r.PublicationPush("room", Publication(data=b"0", offset=2), "NtFMHbCA"),
        '{"channel":"room","pub":{"data":0,"offset":2}}',
    ),
    "5.4-data-null-is-data": (
        r.PublicationPush("room", Publication(data=b"null")),
        '{"channel":"room","pub":{"data":null}}',
    ),
    "6-join": (
        r.JoinPush("room", ALICE),
        '{"channel":"room","join":{"info":{"user":"alice","client":"aaaa","conn_info":{"name":"Alice"}}}}',
    ),
    "2-join-of-anonymous-has-user": (
        r.JoinPush("room", NOBODY),
        '{"channel":"room","join":{"info":{"user":"","client":"cccc"}}}',
    ),
    "6-leave": (
        r.LeavePush("room", BOB),
        '{"channel":"room","leave":{"info":{"user":"bob","client":"bbbb","conn_info":{"name":"Bob"},"chan_info":[1]}}}',
    ),
    "6-unsubscribe": (
        r.UnsubscribePush("room", 2500, "insufficient state"),
        '{"channel":"room","unsubscribe":{"code":2500,"reason":"insufficient state"}}',
    ),
    "2-unsubscribe-always-has-both": (
        r.UnsubscribePush("room", 0, ""),
        '{"channel":"room","unsubscribe":{"code":0,"reason":""}}',
    ),
    "6-subscribe-plain": (r.SubscribePush("room"), '{"channel":"room","subscribe":{}}'),
    "6-subscribe": (
        r.SubscribePush("room", recoverable=True, epoch="e", offset=3, positioned=True, data=b"1"),
        '{"channel":"room","subscribe":{"recoverable":true,"epoch":"e","offset":3,"positioned":true,"data":1}}',
    ),
    "6-refresh": (r.RefreshPush(expires=True, ttl=9), '{"refresh":{"expires":true,"ttl":9}}'),
    "2-refresh-empty-is-present": (r.RefreshPush(), '{"refresh":{}}'),
}


@pytest.mark.parametrize(("result", "expected"), RESULTS.values(), ids=RESULTS)
def test_answers_read_exactly_so(result: r.Result, expected: str) -> None:
    assert line(Reply(4_294_967_295, result, Pings(25.5, 8))) == '{"id":4294967295,' + expected + "}"


@pytest.mark.parametrize(
    ("pings", "members"),
    [
        (Pings(0, 0), ""),
        (Pings(0, 8), ""),
        (Pings(25, 0), ',"ping":25'),
        (Pings(0.5, 0.2), ""),  # less than a second can't be told
    ],
)
def test_4_the_reply_to_connect_announces_the_pings(pings: Pings, members: str) -> None:
    reply = Reply(1, r.ConnectResult(client="aaaa", version="1"), pings)
    assert line(reply) == '{"id":1,"connect":{"client":"aaaa","version":"1"' + members + "}}"


@pytest.mark.parametrize(("push", "expected"), PUSHES.values(), ids=PUSHES)
def test_pushes_read_exactly_so(push: r.Push, expected: str) -> None:
    assert line(push) == '{"push":' + expected + "}"


def test_4_a_ping_is_the_empty_reply() -> None:
    assert CentrifugalJson(bytes).ping_frame == b"{}"


def test_frames_are_made_by_what_the_codec_was_given() -> None:
    codec = CentrifugalJson(lambda payload: b"<" + payload + b">")
    assert codec.ping_frame == b"<{}>"
    assert codec.reply(1, r.UnsubscribeResult()) == b'<{"id":1,"unsubscribe":{}}>'
    assert codec.encode(r.PublicationPush("a", BARE)) == b'<{"push":{"channel":"a","pub":{"data":0}}}>'


def test_2_integers_of_64_bits_are_numbers() -> None:
    top = 2**64 - 1
    assert f'"offset":{top}}}' in line(Reply(1, r.HistoryResult([], StreamPosition(top, "e"))))
    assert f'"offset":{top}}}' in line(r.PublicationPush("a", Publication(data=b"0", offset=top)))
    assert f'"offset":{top}}}' in line(Reply(1, r.SubscribeResult(offset=top)))


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (b'{\n "a": [\n1,\n\n2] }\n', '{ "a": [1,2] }'),
        (b'\n\n"a\\nb"', '"a\\nb"'),
        (b'{\r\n"a"\t:\r1}', '{\r"a"\t:\r1}'),
        (b'[1.0,1e999,0.10,-0,18446744073709551617,{"b":1,"a":2,"b":3}]', None),
        (b"9" * 5_000, None),
        ('"\u2028 <b> ж 😀 \x7f"'.encode(), None),
    ],
)
def test_2_payloads_are_kept_but_for_raw_newlines(given: bytes, sent: str | None) -> None:
    expected = given.decode() if sent is None else sent
    info = ClientInfo("u", "c", given, given)
    lines = [
        line(r.PublicationPush("a", Publication(data=given, info=info))),
        line(Reply(1, r.HistoryResult([Publication(data=given, info=info)], StreamPosition(1, "e")))),
        line(Reply(1, r.PresenceResult([info]))),
        line(Reply(1, r.RpcResult(given))),
        line(Reply(1, r.ConnectResult("c", "v", data=given))),
        line(Reply(1, r.SubscribeResult(data=given, publications=[Publication(data=given)]))),
        line(r.JoinPush("a", info)),
        line(r.SubscribePush("a", data=given)),
    ]
    for one in lines:
        assert "\n" not in one
        assert expected in one


def test_joins_come_in_one_frame_a_line_each() -> None:
    joins = [r.JoinPush("room", ALICE), r.JoinPush("room", NOBODY)]
    assert CentrifugalJson(bytes).encode_joins(joins).decode().split("\n") == [line(join) for join in joins]


def test_B32_names_may_hold_anything_and_stay_within_their_line() -> None:
    name = 'a"b\\c\n\r\t\0\x1f<b>\u2028ж😀'
    escaped = '"a\\"b\\\\c\\n\\r\\t\\u0000\\u001f<b>\u2028ж😀"'
    info = ClientInfo(name, name)
    assert line(r.JoinPush(name, info)) == (
        f'{{"push":{{"channel":{escaped},"join":{{"info":{{"user":{escaped},"client":{escaped}}}}}}}}}'
    )
    for reply in (
        Reply(1, r.PresenceResult([info])),
        Reply(1, r.ErrorResult(100, name)),
        Reply(1, r.ConnectResult(name, name, subs={name: r.SubscribeResult(epoch=name)})),
        Reply(1, r.PublishResult(1, name)),
        r.PublicationPush(name, Publication(data=b"0", info=info, tags={name: name}, offset=1), name),
        r.UnsubscribePush(name, 1, name),
        r.SubscribePush(name, epoch=name),
    ):
        assert escaped in line(reply)
        assert "\n" not in line(reply)


def test_a_publication_that_lost_its_data_does_not_break_the_frame() -> None:
    assert line(r.PublicationPush("a", Publication(data=b""))) == '{"push":{"channel":"a","pub":{"data":null}}}'
