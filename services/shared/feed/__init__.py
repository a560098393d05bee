"""The feed: streams in Redis of committed publications and lifecycle events.

Purpose. Backends, webhooks and projections follow what happens on a platform, without a subscription per channel and
without asking again and again.

Where things are:

* `events.py`: the kinds of events, and decoding of entries.
* `lifecycle.lua`: the function with which scripts of presence write lifecycle events.
* `reader.py`, `take_events.lua`, `claim_events.lua`: a reader with consumer groups.
* `follower.py`: a reader without a group, for what a process wants to hear of publications while it runs.
* Names of keys and the shard of a channel are in `services/shared/hotlog/keys.py`.

The keys, with the prefix `t`:

| key                 | content |
| `t:feed:{0…15}`     | streams of committed publications: channel, epoch, offset, author, time; no payload |
| `t:events:{0…15}`   | streams of lifecycle events: kind, number, channel, member, time |
| `t:events:group:G`  | hash of the group G: how many entries of each stream it has read, generation of Redis |
| `t:events:gaps:G`   | stream of what the group could not read |

Rules.

* Only namespaces that ask for a kind of event (option `events`) are told of. Others pay nothing.
* Conversations are always told of, for inboxes and notifications. Where their namespace does not ask for events, that
  are hidden entries, which nobody sees who does not ask for them (`events.py`). They count for what a stream keeps.
* The script that changes a log or a roster writes the entry too: once for each change, and never for none.
* The shard of a channel is its CRC-32 modulo 16. All that a shard tells of one kind stands in one stream, in order.
* An entry has a number: for a publication its offset; otherwise a counter per channel or user, which only grows.
* The id of an event is the name of its stream and the id of its entry. It stays when the event is told again.
* Each stream keeps about `FEED_MAX_ENTRIES`. What was trimmed before a group had read it is told to the group as one
  event `gap`, and so is a Redis that may have lost something. A new group begins with a gap.
* At least once: an entry that a consumer took and did not acknowledge goes to another one after a time.

Example. Two processes read with the group `search`. One takes events 5 and 6 and dies. A minute later the other one
takes them, with their ids. If the stream lost them meanwhile, it is told `gap` instead.

Trade-offs. The feed is no truth: it holds what is new, for readers that keep up, and says where to look again.
See docs/decisions/0046.
"""
