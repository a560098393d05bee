"""The official Python SDK reads the same values from what the JSON codec sends.

And its schema knows them.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
from centrifuge.codecs import _JsonCodec
from centrifuge.protocol import client_pb2
from google.protobuf.json_format import ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st

from services.edge.domain import replies as r
from services.edge.domain.connections import Pings
from services.edge.domain.model import ClientInfo, Publication, StreamPosition
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from tests.edge.protocols.corpus import SOUND, strict
from tests.edge.protocols.replies import Reply, Sent, encoded
from tests.support.full import sized

CODEC = CentrifugalJson(bytes)
KEPT_AT_ZERO: dict[type, set[str]] = {  # wire protocol, 2
    ClientInfo: {"user", "client"},
    r.PresenceResult: {"presence"},
    r.PresenceStatsResult: {"num_clients", "num_users"},
    r.HistoryResult: {"publications", "epoch", "offset"},
    r.UnsubscribePush: {"code", "reason"},
    Publication: {"data"},
}
PAYLOADS = {"data", "conn_info", "chan_info"}
NOT_SENT = {"id", "exclude_client"}  # of a publication
SENT_AS = {"time_ms": "time"}
NAMES = {
    r.ConnectResult: "connect",
    r.SubscribeResult: "subscribe",
    r.UnsubscribeResult: "unsubscribe",
    r.PublishResult: "publish",
    r.PresenceResult: "presence",
    r.PresenceStatsResult: "presence_stats",
    r.HistoryResult: "history",
    r.RpcResult: "rpc",
    r.RefreshResult: "refresh",
    r.SubRefreshResult: "sub_refresh",
    r.ErrorResult: "error",
    r.PublicationPush: "pub",
    r.JoinPush: "join",
    r.LeavePush: "leave",
    r.UnsubscribePush: "unsubscribe",
    r.SubscribePush: "subscribe",
    r.RefreshPush: "refresh",
}


def expected(value: Any) -> Any:
    """The JSON value of a part of a reply, by the rules of the wire alone."""
    if isinstance(value, r.HistoryResult):
        return {
            "publications": [expected(one) for one in value.publications],
            "epoch": value.top.epoch,
            "offset": value.top.offset,
        }
    if isinstance(value, r.PresenceResult):
        return {"presence": {info.client: expected(info) for info in value.presence}}
    if isinstance(value, list):
        return [expected(one) for one in value]
    if isinstance(value, dict):
        return {name: expected(one) for name, one in value.items()}
    if not isinstance(value, msgspec.Struct):
        return value
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(value):
        member = getattr(value, field.name)
        if field.name in PAYLOADS:
            if member and (member.strip() != b"null" or field.name in KEPT_AT_ZERO.get(type(value), ())):
                found[field.name] = json.loads(member)
        elif field.name not in NOT_SENT and (member or field.name in KEPT_AT_ZERO.get(type(value), ())):
            found[SENT_AS.get(field.name, field.name)] = expected(member)
    return found


def expected_reply(reply: Sent) -> dict[str, Any]:
    if isinstance(reply, Reply):
        found = expected(reply.result)
        if isinstance(reply.result, r.ConnectResult) and reply.pings.interval_s:
            found["ping"] = reply.pings.interval_s
            if reply.pings.timeout_s:
                found["pong"] = True
        return {"id": reply.id, NAMES[type(reply.result)]: found}
    if isinstance(reply, r.PublicationPush):
        body = expected(reply.publication)
        if reply.epoch and reply.publication.offset == 1:
            body["epoch"] = reply.epoch
    elif isinstance(reply, r.JoinPush | r.LeavePush):
        body = {"info": expected(reply.info)}
    else:
        body = expected(reply)
        body.pop("channel", None)
    channel = {"channel": reply.channel} if hasattr(reply, "channel") else {}
    return {"push": {**channel, NAMES[type(reply)]: body}}


TEXTS = st.text(max_size=8) | st.sampled_from(["room:42", "", 'a"\\\n\r\t\0\u2028', "ж😀"])
U32S = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1])
U64S = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
JSON_TEXTS = st.builds(
    lambda value, ascii_, indent: json.dumps(value, ensure_ascii=ascii_, indent=indent).encode(),
    VALUES,
    st.booleans(),
    st.sampled_from([None, 0, 2]),
) | st.sampled_from(list(SOUND.values()))
OPTIONAL = st.just(b"") | JSON_TEXTS
# conn_info and chan_info come from tokens, where null is dropped already
INFO_TEXTS = OPTIONAL.filter(lambda text: text != b"null")
INFOS = st.builds(ClientInfo, TEXTS, TEXTS, INFO_TEXTS, INFO_TEXTS)
PUBLICATIONS = st.builds(
    Publication,
    data=JSON_TEXTS,
    info=st.none() | INFOS,
    tags=st.dictionaries(TEXTS, TEXTS, max_size=2),
    id=st.binary(max_size=3),
    exclude_client=TEXTS,
    time_ms=U32S,
    offset=U64S,
)
SUBSCRIBE_RESULTS = st.builds(
    r.SubscribeResult,
    expires=st.booleans(),
    ttl=U32S,
    recoverable=st.booleans(),
    epoch=TEXTS,
    publications=st.lists(PUBLICATIONS, max_size=2),
    recovered=st.booleans(),
    offset=U64S,
    positioned=st.booleans(),
    data=OPTIONAL,
    was_recovering=st.booleans(),
)
RESULTS: st.SearchStrategy[r.Result] = st.one_of(
    st.builds(
        r.ConnectResult,
        client=TEXTS,
        version=TEXTS,
        expires=st.booleans(),
        ttl=U32S,
        data=OPTIONAL,
        subs=st.dictionaries(TEXTS, SUBSCRIBE_RESULTS, max_size=2),
    ),
    SUBSCRIBE_RESULTS,
    st.builds(r.UnsubscribeResult),
    st.builds(r.PublishResult, U64S, TEXTS),
    st.builds(r.PresenceResult, st.lists(INFOS, max_size=3, unique_by=lambda info: info.client)),
    st.builds(r.PresenceStatsResult, U32S, U32S),
    st.builds(r.HistoryResult, st.lists(PUBLICATIONS, max_size=2), st.builds(StreamPosition, U64S, TEXTS)),
    st.builds(r.RpcResult, OPTIONAL),
    st.builds(r.RefreshResult, st.booleans(), U32S),
    st.builds(r.SubRefreshResult, st.booleans(), U32S),
    st.builds(r.ErrorResult, st.integers(1, 1999), TEXTS.filter(bool), st.booleans(), U32S),
)
REPLIES: st.SearchStrategy[Sent] = st.one_of(
    st.builds(Reply, st.integers(1, 2**32 - 1), RESULTS, st.builds(Pings, U32S, U32S)),
    st.builds(r.PublicationPush, TEXTS, PUBLICATIONS, TEXTS),
    st.builds(r.JoinPush, TEXTS, INFOS),
    st.builds(r.LeavePush, TEXTS, INFOS),
    st.builds(r.UnsubscribePush, TEXTS, U32S, TEXTS),
    st.builds(r.SubscribePush, TEXTS, st.booleans(), TEXTS, U64S, st.booleans(), OPTIONAL),
    st.builds(r.RefreshPush, st.booleans(), U32S),
)


def as_protobuf(value: Any, *, parent: str = "", is_map: bool = False) -> Any:
    """The same in Protobuf's JSON, where payloads are base64."""
    if isinstance(value, list):
        return [as_protobuf(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: base64.b64encode(json.dumps(one).encode()).decode()
        if name in PAYLOADS and not is_map
        else as_protobuf(one, parent=name, is_map=not is_map and (name in ("subs", "tags") or name == parent))
        for name, one in value.items()
    }


@settings(max_examples=sized(300, 3_000), deadline=None, derandomize=True)
@given(st.lists(REPLIES, min_size=1, max_size=3))
def test_2_any_replies_are_lines_of_json_that_the_sdk_reads_as_the_same_values(replies: list[Sent]) -> None:
    payloads = [encoded(CODEC, reply) for reply in replies]
    for payload in payloads:
        assert b"\n" not in payload
        strict(payload)
    assert _JsonCodec.decode_replies(b"\n".join(payloads).decode()) == [expected_reply(reply) for reply in replies]


@settings(max_examples=sized(300, 3_000), deadline=None, derandomize=True)
@given(REPLIES)
def test_3_every_member_sent_is_in_the_schema_with_its_type_but_for_our_extensions(reply: Sent) -> None:
    sent: dict[str, Any] = json.loads(encoded(CODEC, reply))
    sent.get("error", {}).pop("retry_after_ms", None)
    if "publish" in sent:
        sent["publish"].clear()
    sent.get("push", {}).get("pub", {}).pop("epoch", None)  # in the protocol, not yet in this SDK's schema
    ParseDict(as_protobuf(sent), client_pb2.Reply())


def test_2_several_replies_share_a_frame_between_newlines() -> None:
    one = CODEC.reply(1, r.UnsubscribeResult())
    two = CODEC.encode(r.PublicationPush("a", Publication(data=b'{\n"a":\n1}')))
    assert _JsonCodec.decode_replies((one + b"\n" + two + b"\n" + CODEC.ping_frame).decode()) == [
        {"id": 1, "unsubscribe": {}},
        {"push": {"channel": "a", "pub": {"data": {"a": 1}}}},
        {},
    ]
