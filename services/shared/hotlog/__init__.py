"""Hot log, the recent part of a channel's log in Redis: keys, scripts and calls.

Purpose. Redis gives each publication of a channel its offset and keeps the recent ones. Every change is a Lua script,
which Redis runs without anything in between, so processes need no locks.

Where things are:

* `keys.py`: names of all keys and pub/sub channels, and the first bytes of pub/sub messages.
* `scripts.py`: loads the scripts, and runs several in one round trip.
* `hotlog.py`, `hot.py`, `queued.py`: builds a call of each script, and decodes its reply. `hot.py` has the append to
  `hot` logs, `queued.py` what durability `queued` adds.
* `erasing.py`: calls that take content out of `stored` logs.
* `entries.py`: decodes entries of `stored` logs.
* `*.lua`: the scripts. The comment at the head of each says what it does, and has its keys, arguments and result.

The keys of a channel C, with the prefix `t` (docs/architecture.md has the others):

| key           | content |
| `t:{C}:log`   | stream; entry id `<offset>-0`. Fields: `p` publication; of `stored` channels also `i` id, `k` user |
|               | and key, `n` key in Redis; `a` author, if the feed tells of it, or `b`, if it does so in hidden |
|               | entries; `c` `<flags> <n> <mv>`, if the channel counts; `u` users whose membership it may change; |
|               | `q` 1, if it may become readable before it is stored |
| `t:{C}:meta`  | hash: `epoch`, `top` (last offset given), `time` of the newest publication, and |
|               | `hot` channels: `renewed` (history TTL, and when the expiry was last renewed) |
|               | `stored` channels: `stored` (the store has all up to here, and it is readable), `shown` (readable |
|               | up to here, stored or not), `lives` (seconds for which the log is kept, if it has entries with |
|               | `q`), `life` (incarnation in which it was compared with the store), `rests` (1: may be forgotten), |
|               | `told`, `hinted` (last offset of which the feed told, |
|               | in all entries or hidden ones), `fed` (last offset of which it told, and the id of its entry), |
|               | `counts` (`<offset> <n> <mv>`, see below), `erased` (erasures seen), `unclean` (1: bytes of what |
|               | was cut off may be left), `removed` (history up to here was removed) |
| `t:{C}:key:…` | `<epoch> <offset>` of the publish with this idempotency key, for 300 s |
| `t:{C}:pub`   | pub/sub channel |

Rules.

* `hot` channel: one script numbers, keeps and publishes (`append_hot.lua`). The epoch begins with the generation; a log
  of an older generation is replaced by an empty one when it is used next.
* `stored` channel: `append_stored.lua` numbers, `commit.lua` makes readable and publishes once the store has it.
  Scripts refuse a channel that was not compared with the store in this incarnation.
* Durability `queued`: entries with `q` become readable before they are stored, and `shown` is ahead of `stored` then.
  Nothing above `stored` is cut off, and the log does not expire while there is any.
* `n` is how many publications of a `stored` channel count so far (flag 1), `mv` the offset of the last that may take
  a right away (flag 2). An item with a guard is numbered only if the guard is `mv` at this moment, one
  with a latest time not after it. A channel
  begins to count with the first item that has flags or a guard; in others nothing is kept and nothing is sent for it.
* `counts` holds as of the offset that it names. If that is not the top, a version that does not count has numbered or
  advanced meanwhile: the channel is compared with the store before anything is numbered that has flags or a guard.
* A script that is given the number of writes that its caller has seen refuses a Redis with less (data-loss fence, see
  `services/shared/incarnation`).

Example. Two edges append to `chat:1`, whose top is 4, at the same time. One script runs first and gives 5, the other
gives 6. Both publish in this order on `t:{chat:1}:pub`.

Example. The `mv` of `conv:g.1` is 40. One edge sends the removal of eve (flag 2), another one her message with guard
40. If the removal is numbered first, as 57, `mv` is 57 and the message gets no offset.

Trade-offs. While a script runs nothing else does, so each handles a bounded amount. Scripts are sent by hash; a server
that does not know one costs two more round trips, once. See docs/decisions/0002, 0005, 0020, 0024 and 0049.
"""
