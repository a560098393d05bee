"""Calls of the scripts of the hot log, and decoding of their replies."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from services.shared.hotlog import keys
from services.shared.hotlog.entries import Entry, decode_entry
from services.shared.hotlog.scripts import (
    ADVANCE,
    APPEND_STORED,
    CLEAR,
    COMMIT,
    INIT,
    MARK,
    READ,
    REMEMBER,
    RESET,
    REST,
    SETTLED,
    TOP,
    UNMARK,
    UNSTORED,
    VERIFY,
    Call,
    raise_for_error,
)

FEED_MAX_ENTRIES = 50_000  # entries that a stream of the feed keeps, unless the setting says otherwise
COUNTS, CHANGES_MEMBERSHIP, ERASES, GRANTS = 1, 2, 4, 8  # flags of an item
KEY_TTL_S = 300  # seconds for which an idempotency key counts
REST_TTL_S = 24 * 3600  # seconds after which Redis forgets a `stored` channel without new publications
EMPTY_TTL_S = 3600  # the same for a channel that never had a publication
MOST_NUMBERED = 256  # publications that one call appends: Redis does nothing else meanwhile, for about 1 ms
MOST_COMMITTED = 256  # entries that one call makes readable
NEEDS_FEED = -2  # result of a call that must tell the feed of it, and was not given its stream
STAMP_BYTES = 7  # length of the time that Redis appends to a publication: see stamp.lua
MAX_UNSTORED_BYTES = 16 << 20  # of a channel, unless the setting says otherwise
META_TTL_S = 720 * 3600  # seconds for which the meta of a `hot` channel is kept: wire protocol, 11.1
_EPOCH_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_rng = random.Random(os.urandom(32))  # fast, as an epoch is made for every batch; epochs need not be secret


def new_epoch(generation: int | None = None) -> str:
    """Return a random epoch for a new log.

    That of a `hot` log begins with its generation.
    """
    if generation is not None:
        return f"{generation}.{new_epoch()}"
    return "".join(_rng.choices(_EPOCH_LETTERS, k=12))


class Item(NamedTuple):
    """One publication of a `stored` channel to append; `key` is never empty.

    `author`: user id, "" for a backend; None: the feed does not tell of the publication.
    `hidden`: the feed tells only those of it who ask for hidden entries; the same for all items of a batch.
    `users`: JSON array of users whose membership it may change, which the feed tells; b"": none.
    `flags`: any of `COUNTS`, `CHANGES_MEMBERSHIP` (may take a right away), `ERASES` (something) and `GRANTS` (changes
    membership or rights, and takes nothing away).
    `guard`: membership version that the channel must have, or the item gets no offset; None: any.
    `latest_ms`: it gets none after this time either, Unix ms by the clock of Redis; None: at any time.
    `guard_epoch`: with a guard, the epoch that the channel must have; "": any.
    """

    publication_id: bytes
    publication: bytes
    key_user: str
    key: str
    author: str | None = None
    flags: int = 0
    guard: int | None = None
    latest_ms: int | None = None
    hidden: bool = False
    users: bytes = b""
    guard_epoch: str = ""


class Batch(NamedTuple):
    """Publications of one `stored` channel, in order, with its history settings.

    `queued`: they may become readable before they are stored (durability `queued`).
    """

    channel: str
    history_size: int
    history_ttl_s: int
    items: Sequence[Item]
    queued: bool = False


class Counts(NamedTuple):
    """What a channel that counts had counted before a batch, and what the batch met.

    `refused`: indexes of the items whose guard was not the membership version or the epoch, or that were late.
    """

    n: int
    mv: int
    mv_behind: int  # behind the last item
    refused: Sequence[int]


class Appended(NamedTuple):
    """Offsets of the publications of a batch, in order.

    Negative: an earlier publish with the key has this offset. 0: it got none, since too much is not stored yet, or
    because of its guard or its latest time.
    `stamp`: encoded time that Redis appended to each new publication; the same bytes must be stored.
    `counts`: None if the channel does not count.
    `may_be_queued`: whether anything of the channel may become readable before it is stored.
    """

    epoch: str
    stored: int  # everything above it is to be stored
    stamp: bytes
    offsets: list[int]
    counts: Counts | None = None
    may_be_queued: bool = False


class Page(NamedTuple):
    """Entries as (offset, publication), with readable top and epoch."""

    entries: list[tuple[int, bytes]]
    top: int
    epoch: str


def append_call(
    batch: Batch, *, incarnation: str, max_unstored: int, max_unstored_bytes: int = MAX_UNSTORED_BYTES
) -> Call:
    """Return the call that appends one batch.

    `incarnation`: the one in which the channel was compared with the store.
    `max_unstored`: entries of the channel that may be numbered and not stored.
    `max_unstored_bytes`: the same in bytes, of those that may become readable before they are stored.
    """
    channel, _, history_ttl_s, items, queued = batch
    names = [keys.log(channel), keys.meta(channel)]
    arguments: list[str | bytes | int] = [incarnation, history_ttl_s, KEY_TTL_S, max_unstored, 0]
    if queued:
        arguments[3] = f"-{max_unstored} {max_unstored_bytes}"
    terms: list[str | bytes | int] = []
    told = special = False
    for publication_id, publication, user, key, author, flags, guard, latest_ms, hidden, users, guard_epoch in items:
        names.append(keys.key(channel, user, key))
        arguments += (publication_id, publication, keys.pair(user, key))
        told = told or author is not None
        special = special or hidden or bool(users)
        if flags or guard is not None or latest_ms is not None:
            wanted: str | int = "" if guard is None else guard
            if guard is not None and guard_epoch:
                wanted = f"{guard} {'' if latest_ms is None else latest_ms} {guard_epoch}"
            elif latest_ms is not None:
                wanted = f"{wanted} {latest_ms}"
            terms += (len(names), flags, wanted)
    if terms:
        arguments[4] = len(terms) // 3
        arguments += terms
    if told:
        arguments += [item.author or "" for item in items]
        if special:
            arguments += ["b" if items[0].hidden else "a", *[item.users for item in items]]
    return Call(APPEND_STORED, names, arguments)


def appended(result: Any) -> Appended | None:
    """Decode the reply of `append_call`.

    None: the channel must be compared with the store first, and nothing was done.
    """
    found = raise_for_error(result)
    if not found:
        return None
    epoch, stored, stamp, counted, may_be_queued, *offsets = found
    counts = None
    if counted:
        n, mv, mv_behind, *refused = counted
        counts = Counts(n, mv, mv_behind, [place - 1 for place in refused])
    return Appended(epoch.decode(), stored, stamp, offsets, counts, bool(may_be_queued))


def commit_call(
    channel: str,
    epoch: str,
    upto: int,
    history_size: int,
    incarnation: str,
    *,
    feed_max_entries: int = 0,
    early: bool = False,
) -> Call:
    """Return the call that makes entries up to `upto` readable, and publishes them.

    Its result is the readable top, which is below `upto` if there are more than 256: call again then. Or -1 (see
    commit.lua), or `NEEDS_FEED`: call again with `feed_max_entries`; if `early`, also `queued.MUST_BE_STORED`.

    `incarnation`: the one in which they were numbered.
    `feed_max_entries`: entries that a stream of the feed keeps; 0: the feed does not tell of the channel.
    `early`: the store lacks them, and they are of durability `queued`.
    """
    names = [keys.log(channel), keys.meta(channel)]
    arguments: list[str | bytes | int] = [
        epoch,
        upto,
        history_size,
        keys.pub(channel),
        incarnation,
        MOST_COMMITTED,
        "q" if early else "",
    ]
    if feed_max_entries:
        names += (keys.commits(keys.feed_shard(channel)), keys.inbox_head(channel))
        arguments += (feed_max_entries, channel)
    return Call(COMMIT, names, arguments)


def verify_call(
    channel: str,
    epoch: str,
    top: int,
    incarnation: str,
    *,
    n: int = 0,
    mv: int = 0,
    erasures: int = 0,
    may_be_ahead: bool = False,
) -> Call:
    """Return the call that notes that the channel was compared with the store.

    `n` and `mv` are those of the store at its top, `erasures` is what it has counted of the channel.
    Its result is 1: noted; 0: Redis is behind; 2: it is ahead; -1: it has no meta of the channel; 3: it lacks something
    that was readable before it was stored.
    """
    names = [keys.meta(channel), keys.log(channel), keys.inbox_head(channel)]
    return Call(VERIFY, names, [epoch, top, incarnation, int(may_be_ahead), n, mv, erasures])


def rest_call(channel: str) -> Call:
    """Return the call that lets Redis forget the channel after a time.

    Its result is 1, or 0 if something is not stored yet: then nothing is forgotten. The time varies by a quarter at
    random, so that channels which were opened together need not be brought back together.
    """
    times = [int(ttl_s * _rng.uniform(0.75, 1.25)) for ttl_s in (REST_TTL_S, EMPTY_TTL_S)]
    return Call(REST, [keys.meta(channel), keys.log(channel)], times)


def init_call(
    channel: str,
    epoch: str,
    top: int,
    time_ms: int,
    incarnation: str,
    known: Sequence[tuple[str, str, int, int]],
) -> Call:
    """Return the call that brings meta and keys from the store.

    `known` has (user, key, offset, ttl_s); `time_ms` is that of the newest publication.
    """
    names = [keys.log(channel), keys.meta(channel), *(keys.key(channel, user, key) for user, key, _, _ in known)]
    arguments: list[str | bytes | int] = [epoch, top, incarnation, time_ms]
    for _, _, offset, ttl_s in known:
        arguments += (f"{epoch} {offset}", ttl_s)
    return Call(INIT, names, arguments)


def remember_call(channel: str, epoch: str, known: Sequence[tuple[str, str, int, int]]) -> Call:
    """Return the call that brings keys from the store, before `init` or `advance`.

    `known` has (user, key, offset, ttl_s).
    """
    arguments: list[str | bytes | int] = []
    for _, _, offset, ttl_s in known:
        arguments += (f"{epoch} {offset}", ttl_s)
    return Call(REMEMBER, [keys.key(channel, user, key) for user, key, _, _ in known], arguments)


def advance_call(
    channel: str,
    epoch: str,
    top: int,
    time_ms: int,
    incarnation: str,
    *,
    forget: Sequence[tuple[str, str]] = (),
    remember: Sequence[tuple[str, str, int, int]] = (),
    feed_max_entries: int = 0,
    saved: tuple[str, int] = ("", 0),
) -> Call:
    """Return the call that sets Redis, which is behind, to the store's state.

    Its result is `NEEDS_FEED` if nothing was done: call again with `feed_max_entries`. It is `queued.HAS_MORE` if
    nothing was done since something above `saved`, epoch and offset, is readable that the store may lack.

    `time_ms` is that of the newest publication; `forget` has (user, key), `remember` (user, key, offset, ttl_s).
    `feed_max_entries`: entries that a stream of the feed keeps; 0: the feed does not tell of the channel.
    """
    names = [keys.log(channel), keys.meta(channel)]
    names += [keys.key(channel, user, key) for user, key in forget]
    names += [keys.key(channel, user, key) for user, key, _, _ in remember]
    arguments: list[str | bytes | int] = [epoch, top, incarnation, len(forget), time_ms, "", ""]
    if feed_max_entries:
        shard = keys.feed_shard(channel)
        names.append(keys.commits(shard))
        arguments[5:] = feed_max_entries, f"feed{shard}"
    arguments += (" ".join(map(str, saved)), keys.pub(channel))
    for _, _, offset, ttl_s in remember:
        arguments += (f"{epoch} {offset}", ttl_s)
    return Call(ADVANCE, names, arguments)


def mark_call(channels: Sequence[str]) -> Call:
    """Return the call that marks channels as dirty, before an append."""
    return Call(MARK, [keys.dirty()], list(channels))


def settled_call(age_s: float, limit: int) -> Call:
    """Return the call for channels that were marked more than `age_s` seconds ago."""
    return Call(SETTLED, [keys.dirty()], [int(age_s * 1000), limit])


def unmark_call(marks: Sequence[tuple[str, bytes]]) -> Call:
    """Return the call that removes marks, unless they were renewed."""
    return Call(UNMARK, [keys.dirty()], [part for channel, mark in marks for part in (channel, mark)])


def reset_call(channel: str, old_epoch: str, generation: int) -> Call:
    """Return the call that starts a `hot` log over, if it still has the old epoch."""
    names = [keys.log(channel), keys.meta(channel), keys.observed()]
    return Call(RESET, names, [old_epoch, new_epoch(generation), META_TTL_S, keys.pub(channel)])


def clear_call(channel: str) -> Call:
    """Return the call that deletes the entries of a `hot` log.

    Its result is the number of writes to `hot` logs.
    """
    return Call(CLEAR, [keys.log(channel), keys.observed()], [])


def hot_top_call(channel: str, generation: int, meta_ttl_s: int = META_TTL_S, *, writes: int = 0) -> Call:
    """Return the call for epoch and top of a `hot` log, which begins one if needed.

    `generation`: the log must be of this one; an older one is replaced.
    `writes`: number of writes to `hot` logs that the caller has seen.
    """
    names = [keys.log(channel), keys.meta(channel), keys.observed()]
    return Call(TOP, names, ["hot", new_epoch(generation), meta_ttl_s, keys.pub(channel), writes])


def stored_top_call(channel: str, incarnation: str, *, writes: int = 0) -> Call:
    """Return the call for epoch and readable top of a `stored` channel.

    It has a reply only if the channel was compared with the store in this incarnation.
    """
    names = [keys.log(channel), keys.meta(channel), keys.observed()]
    return Call(TOP, names, ["stored", incarnation, 0, "", writes])


def top(result: Any) -> tuple[int, str] | None:
    """Decode the reply of `hot_top_call` or `stored_top_call` as (offset, epoch).

    None: a `stored` channel must be compared first, a `hot` log is of a later generation, or Redis has fewer writes
    than the caller has seen.
    """
    found = raise_for_error(result)
    return (int(found[1]), found[0].decode()) if found else None


def removed(result: Any) -> int:
    """Return up to where history was removed, as the reply of `stored_top_call` says.

    Less, if an earlier version removed more.
    """
    found = raise_for_error(result)
    return int(found[2]) if len(found) > 2 and found[2] else 0


def read_call(
    channel: str,
    *,
    stored: bool,
    incarnation: str | int,
    since_offset: int,
    limit: int,
    reverse: bool,
    max_bytes: int = 1 << 50,
    writes: int = 0,
) -> Call:
    """Return the call that reads one page of the hot log.

    Args:
        channel: Its name.
        stored: Whether it is a `stored` channel.
        incarnation: Token of the incarnation for a `stored` channel, the generation for a `hot` one.
        since_offset: The page begins after it, or before it if `reverse`; then 0 is the top.
        limit: Most publications.
        reverse: Newest first.
        max_bytes: Nothing more is read beyond this; looked at after every 128 entries.
        writes: Number of writes to `hot` logs that the caller has seen.
    """
    names = [keys.log(channel), keys.meta(channel), keys.observed()]
    kind = "stored" if stored else "hot"
    return Call(READ, names, [kind, since_offset, limit, int(reverse), incarnation, max_bytes, writes])


def page(result: Any) -> Page | None:
    """Decode the reply of `read_call`.

    None: there is no such log, or Redis has fewer writes than the caller has seen.
    """
    found = raise_for_error(result)
    if not found:
        return None
    epoch, top_offset, entries = found
    found_entries = [(int(entry.split(b"-")[0]), fields[3 if len(fields) > 2 else 1]) for entry, fields in entries]
    return Page(found_entries, int(top_offset), epoch.decode())


class Unstored(NamedTuple):
    """A page of the entries of a `stored` channel that are not stored.

    It is what Redis knows. `stored`: the last one that is. `incarnation`: the one in which the channel was last
    compared with the store.
    `readable`: the readable top, which is higher if publications were acknowledged before they were stored.
    `top`: the last one that was numbered.
    `may_be_queued`: whether anything of the channel may become readable before it is stored.
    """

    epoch: str
    stored: int
    entries: list[Entry]
    incarnation: str
    readable: int
    top: int
    may_be_queued: bool


def unstored_call(
    channel: str, limit: int, *, max_bytes: int = 1 << 50, since_offset: int = 0, reverse: bool = False
) -> Call:
    """Return the call for a page of the entries that are not stored, oldest first.

    `limit`, `max_bytes`: most entries, and of publications; the one that reaches `max_bytes` is the last one.
    `since_offset`: the page begins behind it. `reverse`: newest first, only readable ones; then it begins below
    `since_offset`, or with 0 at the readable top.
    """
    arguments: list[str | bytes | int] = [limit, max_bytes, since_offset, "r" if reverse else ""]
    return Call(UNSTORED, [keys.log(channel), keys.meta(channel)], arguments)


def unstored(result: Any) -> Unstored | None:
    """Decode the reply of `unstored_call`; None: Redis has no meta of the channel."""
    found = raise_for_error(result)
    if not found:
        return None
    epoch, stored, entries, incarnation, readable, top, may_be_queued = found
    return Unstored(
        epoch.decode(),
        int(stored),
        [decode_entry(int(name.split(b"-")[0]), fields) for name, fields in entries],
        incarnation.decode(),
        int(readable),
        int(top),
        bool(may_be_queued),
    )
