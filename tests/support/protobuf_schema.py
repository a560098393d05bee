"""Messages and field numbers of the client protocol in Protobuf.

Written by hand from the specification, and from nothing that the edge uses: a wrong number in `client.proto` must not
be wrong here too. `tests/edge/protocols/test_protobuf_fields.py` compares the two.

One line per field: number, name, type. Types are `u32 i32 u64 i64 s64 bool str raw` (`raw`: a payload) or a message;
`[T]` is a list, `{T}` a map from text. `!`: JSON has it even when it is zero. `ours`: an addition of this server.
"""

from __future__ import annotations

from typing import NamedTuple

_TEXT = """
Command
1 id u32
4 connect ConnectRequest
5 subscribe SubscribeRequest
6 unsubscribe UnsubscribeRequest
7 publish PublishRequest
8 presence PresenceRequest
9 presence_stats PresenceStatsRequest
10 history HistoryRequest
11 ping PingRequest
12 send SendRequest
13 rpc RpcRequest
14 refresh RefreshRequest
15 sub_refresh SubRefreshRequest
1000 token str ours

Reply
1 id u32
2 error Error
4 push Push
5 connect ConnectResult
6 subscribe SubscribeResult
7 unsubscribe UnsubscribeResult
8 publish PublishResult
9 presence PresenceResult
10 presence_stats PresenceStatsResult
11 history HistoryResult
12 ping PingResult
13 rpc RpcResult
14 refresh RefreshResult
15 sub_refresh SubRefreshResult

Error
1 code u32
2 message str
3 temporary bool
100 retry_after_ms u32 ours

ConnectRequest
1 token str
2 data raw
3 subs {SubscribeRequest}
4 name str
5 version str
6 headers {str}
7 flag i64
8 dict str
9 profile str

ConnectResult
1 client str
2 version str
3 expires bool
4 ttl u32
5 data raw
6 subs {SubscribeResult}
7 ping u32
8 pong bool
9 session str
10 node str
11 time i64
12 flag i64
13 dict Dictionary

Dictionary
1 id str
2 data raw
3 data_b64 str

SubscribeRequest
1 channel str
2 token str
3 recover bool
6 epoch str
7 offset u64
8 data raw
9 positioned bool
10 recoverable bool
11 join_leave bool
12 delta str
13 tf FilterNode
14 flag i64
15 type i32
16 phase i32
17 cursor str
18 limit i32
19 asc bool

SubscribeResult
1 expires bool
2 ttl u32
3 recoverable bool
6 epoch str
7 publications [Publication]
8 recovered bool
9 offset u64
10 positioned bool
11 data raw
12 was_recovering bool
13 delta bool
14 id i64
15 type i32
16 phase i32
17 cursor str
18 state [Publication]
19 publish_debounce u32

UnsubscribeRequest
1 channel str

UnsubscribeResult

PublishRequest
1 channel str
2 data raw
3 type i32
4 key str
5 removed bool
100 idempotency_key str ours
101 exclude_self bool ours

PublishResult
100 offset u64 ours
101 epoch str ours

PresenceRequest
1 channel str

PresenceResult
1 presence {ClientInfo} !

PresenceStatsRequest
1 channel str

PresenceStatsResult
1 num_clients u32 !
2 num_users u32 !

HistoryRequest
1 channel str
7 limit i32
8 since StreamPosition
9 reverse bool

HistoryResult
1 publications [Publication] !
2 epoch str !
3 offset u64 !

PingRequest

PingResult

SendRequest
1 data raw

RpcRequest
1 data raw
2 method str

RpcResult
1 data raw

RefreshRequest
1 token str

RefreshResult
1 client str
2 version str
3 expires bool
4 ttl u32

SubRefreshRequest
1 channel str
2 token str
3 type i32
4 track [Track]
5 untrack [str]

Track
1 signature str
2 items [TrackItem]

TrackItem
1 key str
2 version u64

SubRefreshResult
1 expires bool
2 ttl u32
3 items [Publication]

Push
1 id i64
2 channel str
4 pub Publication
5 join Join
6 leave Leave
7 unsubscribe Unsubscribe
8 message Message
9 subscribe Subscribe
10 connect Connect
11 disconnect Disconnect
12 refresh Refresh

Publication
4 data raw !
5 info ClientInfo
6 offset u64
7 tags {str}
8 delta bool
9 time i64
10 channel str
11 key str
12 removed bool
13 score s64
14 epoch str
15 prev_data raw
16 version u64

ClientInfo
1 user str !
2 client str !
3 conn_info raw
4 chan_info raw

StreamPosition
1 offset u64
2 epoch str

FilterNode
1 op str
2 key str
3 cmp str
4 val str
5 vals [str]
6 nodes [FilterNode]

Join
1 info ClientInfo
100 updated bool ours

Leave
1 info ClientInfo

Unsubscribe
2 code u32 !
3 reason str !

Message
1 data raw

Subscribe
1 recoverable bool
4 epoch str
5 offset u64
6 positioned bool
7 data raw

Connect
1 client str
2 version str
3 data raw
4 subs {SubscribeResult}
5 expires bool
6 ttl u32
7 ping u32
8 pong bool
9 session str
10 node str
11 time i64

Disconnect
1 code u32
2 reason str
3 reconnect bool

Refresh
1 expires bool
2 ttl u32
"""


class Field(NamedTuple):
    """One field. `many` is "" for one value, `[` for a list, `{` for a map."""

    number: int
    name: str
    kind: str
    many: str
    always: bool
    ours: bool


def _field(line: str) -> Field:
    number, name, kind, *marks = line.split()
    many = kind[0] if kind[0] in "[{" else ""
    return Field(int(number), name, kind.strip("[]{}"), many, "!" in marks, "ours" in marks)


SCHEMA: dict[str, dict[int, Field]] = {
    name: {field.number: field for field in map(_field, fields)}
    for name, *fields in (block.split("\n") for block in _TEXT.strip().split("\n\n"))
}
"""Fields by number, by message."""

ZEROS = {"str": "", "raw": b"", "bool": False}


def is_message(kind: str) -> bool:
    """Whether a type is a message."""
    return kind[0].isupper()
