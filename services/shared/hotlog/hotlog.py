"""The hot log as calls: what edges and persistence ask of Redis about the log of a channel."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from services.shared.hotlog import keys
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
    TRIM,
    UNMARK,
    UNSTORED,
    VERIFY,
    Call,
    raise_for_error,
)

KEY_TTL_S = 300
REST_TTL_S = 24 * 3600  # of a `stored` channel in which nobody publishes
EMPTY_TTL_S = 3600  # where nobody ever did
STAMP_BYTES = 7  # that the log puts behind a publication: see stamp.lua
META_TTL_S = 720 * 3600  # wire protocol, 11.1
_EPOCH_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_rng = random.Random(os.urandom(32))  # epochs need not be secret, and one is made for every batch


def new_epoch(generation: int | None = None) -> str:
    """Random text that names the life of a log; that of a `hot` log begins with its generation."""
    if generation is not None:
        return f"{generation}.{new_epoch()}"
    return "".join(_rng.choices(_EPOCH_LETTERS, k=12))


class Item(NamedTuple):
    """One publication to append; `key` is never empty."""

    publication_id: bytes
    publication: bytes
    key_user: str
    key: str


class Batch(NamedTuple):
    """Publications of one `stored` channel, in order, and what its namespace says."""

    channel: str
    history_size: int
    history_ttl_s: int
    items: Sequence[Item]


class Appended(NamedTuple):
    """Where the publications of a batch are: offsets in their order.

    Negative: an earlier publish under its key had this offset; 0: it has none, too much is not stored yet.
    `stamp` is what the log put behind every new publication, its time: the same bytes are to be stored.
    """

    epoch: str
    stored: int  # readable up to there
    stamp: bytes
    offsets: list[int]


class Page(NamedTuple):
    """Entries as (offset, publication), and the readable top."""

    entries: list[tuple[int, bytes]]
    top: int
    epoch: str


def append_call(batch: Batch, *, incarnation: str, max_unstored: int) -> Call:
    """Append one batch; `life` of Redis, in which the channel was compared with the store."""
    channel, _, history_ttl_s, items = batch
    names = [keys.log(channel), keys.meta(channel)]
    arguments: list[str | bytes | int] = [incarnation, history_ttl_s, KEY_TTL_S, max_unstored]
    for publication_id, publication, user, key in items:
        names.append(keys.key(channel, user, key))
        arguments += (publication_id, publication, keys.pair(user, key))
    return Call(APPEND_STORED, names, arguments)


def appended(result: Any) -> Appended | None:
    """What that call answered; None: compare the channel with the store first, nothing was done."""
    found = raise_for_error(result)
    return Appended(found[0].decode(), found[1], found[2], found[3:]) if found else None


def commit_call(channel: str, epoch: str, upto: int, history_size: int, incarnation: str) -> Call:
    """Make everything up to `upto` readable; `life`: in which it was numbered."""
    names = [keys.log(channel), keys.meta(channel)]
    return Call(COMMIT, names, [epoch, upto, history_size, keys.pub(channel), incarnation])


def trim_call(channel: str, upto: int) -> Call:
    """Drop what is readable of a `stored` channel, up to an offset."""
    return Call(TRIM, [keys.log(channel), keys.meta(channel)], [upto])


def verify_call(channel: str, epoch: str, top: int, incarnation: str, *, may_be_ahead: bool = False) -> Call:
    """Note that the channel was compared with the store; 1, or 0: it is behind, 2: ahead, or -1: it is not there."""
    return Call(VERIFY, [keys.meta(channel)], [epoch, top, incarnation, int(may_be_ahead)])


def rest_call(channel: str) -> Call:
    """Let Redis forget the channel by and by, unless something of it is not stored; 1 if so.

    Times differ by a quarter: what was opened at one moment is not to be brought from the store at one moment.
    """
    times = [int(ttl_s * _rng.uniform(0.75, 1.25)) for ttl_s in (REST_TTL_S, EMPTY_TTL_S)]
    return Call(REST, [keys.meta(channel), keys.log(channel)], times)


def init_call(
    channel: str, epoch: str, top: int, time_ms: int, incarnation: str, known: Sequence[tuple[str, str, int, int]]
) -> Call:
    """Bring meta and keys from the store; `known` has (user, key, offset, ttl_s), `time_ms` is that of the newest."""
    names = [keys.log(channel), keys.meta(channel), *(keys.key(channel, user, key) for user, key, _, _ in known)]
    arguments: list[str | bytes | int] = [epoch, top, incarnation, time_ms]
    for _, _, offset, ttl_s in known:
        arguments += (f"{epoch} {offset}", ttl_s)
    return Call(INIT, names, arguments)


def remember_call(channel: str, epoch: str, known: Sequence[tuple[str, str, int, int]]) -> Call:
    """Bring keys from the store, before `init` or `advance`; `known` has (user, key, offset, ttl_s)."""
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
) -> Call:
    """The store is ahead: its newest has `time_ms`. `forget` has (user, key), `remember` (user, key, offset, ttl_s)."""
    names = [keys.log(channel), keys.meta(channel)]
    names += [keys.key(channel, user, key) for user, key in forget]
    names += [keys.key(channel, user, key) for user, key, _, _ in remember]
    arguments: list[str | bytes | int] = [epoch, top, incarnation, len(forget), time_ms]
    for _, _, offset, ttl_s in remember:
        arguments += (f"{epoch} {offset}", ttl_s)
    return Call(ADVANCE, names, arguments)


def mark_call(channels: Sequence[str]) -> Call:
    """Note, before appending, that these may hold what is not stored yet."""
    return Call(MARK, [keys.dirty()], list(channels))


def settled_call(age_s: float, limit: int) -> Call:
    """Channels marked for longer than that."""
    return Call(SETTLED, [keys.dirty()], [int(age_s * 1000), limit])


def unmark_call(marks: Sequence[tuple[str, bytes]]) -> Call:
    """Forget marks, unless they were renewed."""
    return Call(UNMARK, [keys.dirty()], [part for channel, mark in marks for part in (channel, mark)])


def reset_call(channel: str, old_epoch: str, generation: int) -> Call:
    """Begin a `hot` log anew."""
    names = [keys.log(channel), keys.meta(channel), keys.observed()]
    return Call(RESET, names, [old_epoch, new_epoch(generation), META_TTL_S, keys.pub(channel)])


def clear_call(channel: str) -> Call:
    """Drop what a `hot` log keeps; the number of writes."""
    return Call(CLEAR, [keys.log(channel), keys.observed()], [])


def hot_top_call(channel: str, generation: int, meta_ttl_s: int = META_TTL_S, *, writes: int = 0) -> Call:
    """Epoch and top of a `hot` log, made if there is none of this generation; `writes`: as the caller knows."""
    names = [keys.log(channel), keys.meta(channel), keys.observed()]
    return Call(TOP, names, ["hot", new_epoch(generation), meta_ttl_s, keys.pub(channel), writes])


def stored_top_call(channel: str, incarnation: str, *, writes: int = 0) -> Call:
    """Epoch and readable top of a `stored` channel, if it was compared with the store in this life of Redis."""
    names = [keys.log(channel), keys.meta(channel), keys.observed()]
    return Call(TOP, names, ["stored", incarnation, 0, "", writes])


def top(result: Any) -> tuple[int, str] | None:
    """(offset, epoch), or None: compare with the store first, or (`hot`) the log is of a later generation.

    Or Redis has gone back, and the caller knows of more writes than it has.
    """
    found = raise_for_error(result)
    return (int(found[1]), found[0].decode()) if found else None


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
    """One page of the hot log; `life` is that of Redis (`stored`), or the generation (`hot`)."""
    names = [keys.log(channel), keys.meta(channel), keys.observed()]
    kind = "stored" if stored else "hot"
    return Call(READ, names, [kind, since_offset, limit, int(reverse), incarnation, max_bytes, writes])


def page(result: Any) -> Page | None:
    """What a read call answered."""
    found = raise_for_error(result)
    if not found:
        return None
    epoch, top_offset, entries = found
    found_entries = [(int(entry.split(b"-")[0]), fields[3 if len(fields) > 2 else 1]) for entry, fields in entries]
    return Page(found_entries, int(top_offset), epoch.decode())


class Unstored(NamedTuple):
    """Entries of a `stored` channel above what is readable: (offset, id, publication, key as `keys.pair` makes it).

    `life`: the one in which the channel was compared with the store last.
    """

    epoch: str
    stored: int
    entries: list[tuple[int, bytes, bytes, str]]
    incarnation: str


def unstored_call(channel: str, limit: int) -> Call:
    """Ask for them, oldest first."""
    return Call(UNSTORED, [keys.log(channel), keys.meta(channel)], [limit])


def unstored(result: Any) -> Unstored | None:
    """What that call answered; None where Redis has no meta."""
    found = raise_for_error(result)
    if not found:
        return None
    epoch, stored, entries, incarnation = found
    return Unstored(
        epoch.decode(),
        int(stored),
        [(int(name.split(b"-")[0]), fields[1], fields[3], fields[5].decode()) for name, fields in entries],
        incarnation.decode(),
    )
