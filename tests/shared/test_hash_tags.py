"""Which keys each Lua script gets: of one hash tag, or why not.

In a Redis Cluster all keys of a script must have one hash tag, and a script may use no key that its caller did not
name. Every script of the services is called here as their code calls it, and its keys are looked at. Those that mix
tags are listed with the reason; a new one is a decision (docs/decisions/0055-scripts-and-hash-tags.md).
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from services.edge.adapters.redis.command_log import RedisControlLog
from services.edge.adapters.redis.counts import RedisCounts
from services.edge.adapters.redis.edge_lease import EdgeLeases
from services.edge.adapters.redis.limit_calls import LimitCalls
from services.edge.adapters.redis.rates import take_call
from services.edge.adapters.redis.revocations import RedisRevocationLog
from services.edge.adapters.redis.session_table import RedisSessionTable
from services.edge.adapters.redis.tickets import RedisTickets
from services.edge.domain.access.revocations import Revocation, RevokedKind
from services.persistence.adapters.redis import rewrites
from services.persistence.chat.inbox.kept_heads import PUT_HEAD
from services.persistence.chat.inbox.lists import LEASE_LIST, MARK_LIST, PUT_LIST, UNMARK_LIST
from services.persistence.chat.markers.kept import KeptMarkers
from services.persistence.chat.markers.ports import Of
from services.persistence.chat.markers.receipts import DONE, TELL, Receipts
from services.persistence.chat.markers.record import Record
from services.persistence.chat.marks import Marks
from services.persistence.chat.who_types import Typing
from services.persistence.notifier.timers import Grown, OnDevice, Timers
from services.persistence.webhooks.letters import Letter, Letters
from services.presence.adapters.redis_roster import RedisRoster
from services.presence.domain.ports import ALL_EVENTS, Change, Lease
from services.shared.feed.reader import FeedReader
from services.shared.hotlog import erasing, hot, hotlog, keys, queued, scripts
from services.shared.hotlog.scripts import Call, Script
from services.shared.incarnation import calls as incarnation
from services.shared.redis.pipeline import RedisPipeline
from tests.presence.test_roster import entering, leaving

ROOT = Path(__file__).parents[2]
CHANNEL, OTHER = "chat:one", "chat:two"
EDGE = Lease("edge-a", 1)

# Scripts that mix hash tags: the file, and why. Decision 55 says what a cluster needs for each kind.
COUNTED = "counts or compares writes to all hot logs (observed), which show a Redis that went back"
RUN = "judges the whole Redis: incarnation, heartbeat, what was observed, who watches"
LEASES = "changes leases and generations of all edges, and the clock of presence, together"
MIXED = {
    "append_hot": f"{COUNTED}; numbers the appends of the edge; takes several channels; tells the feed",
    "reset": COUNTED,
    "clear": COUNTED,
    "top": COUNTED,
    "read": COUNTED,
    "commit": "tells the feed",
    "advance": "tells the feed of a gap",
    "heartbeat": RUN,
    "check": f"{RUN}; and the appends of the edge",
    "orderly_end": RUN,
    "lease": LEASES,
    "expired": LEASES,
    "wait": "adds to what is due, by the clock of presence",
    "due": "takes of what is due, by the clock of presence",
    "enter": "checks the lease, by the clock of presence; adds to the channels of users; tells the feed",
    "leave": "goes by the clock of presence; tells the feed",
    "in_channel": "takes a channel off the list of its user, if the roster has no client of theirs",
    "take_events": "reads all streams of the feed, and what the group has read",
    "claim_events": "takes over from all streams of the feed",
    "store": "adds the endpoint to the list of those that have letters",
}
ONLY_WITH_THE_FEED = {"commit", "advance"}
# Keys that a script uses and its caller does not name: the file, and the Lua expression.
NOT_NAMED = {
    ("advance", "one[1]"),  # idempotency key of an entry that is removed: of the same channel, so the same tag
    ("take_events", "ARGV[5]"),  # the incarnation
}
KEYLESS = {"TIME", "INFO", "PUBLISH", "PUBSUB"}  # PUBLISH takes no key: a cluster sends it to all nodes


def lua_files() -> list[Path]:
    return sorted((ROOT / "services").rglob("*.lua"))


def loaded() -> dict[bytes, str]:
    """Return the last file of each script of the services, by its text."""
    found: dict[bytes, str] = {}
    texts = [(path.stem, path.read_bytes()) for path in lua_files()]
    for path in sorted((ROOT / "services").rglob("*.py")):
        if "hotlog.scripts import" in path.read_text() or path.stem == "scripts":
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            for value in vars(module).values():
                if isinstance(value, Script):
                    (found[value.text],) = (name for name, text in texts if value.text.endswith(text))
    return found


def of_logs() -> list[Call]:
    """Calls of the scripts of logs and incarnations."""
    known, forget = [("ann", "k", 1, 300)], [("ann", "k")]
    item = hotlog.Item(b"i", b"p", "ann", "k", "ann")
    keyed = [(b"p", keys.key(CHANNEL, "ann", "k"))]
    seen = incarnation.Known(1, 1, 1)
    channel = CHANNEL
    return [
        hotlog.append_call(hotlog.Batch(channel, 10, 10, [item, item]), incarnation="i", max_unstored=10),
        *(hotlog.commit_call(channel, "e", 1, 10, "i", feed_max_entries=most) for most in (0, 10)),
        hotlog.commit_call(channel, "e", 1, 10, "i", early=True),
        queued.count_write_call(1),
        *(queued.note_call(channel, "i", generation) for generation in (None, 1)),
        erasing.trim_call(channel, 1),
        erasing.erase_call(channel, 1, {1: b"p"}),
        hotlog.verify_call(channel, "e", 1, "i"),
        hotlog.rest_call(channel),
        hotlog.init_call(channel, "e", 1, 1, "i", known),
        hotlog.remember_call(channel, "e", known),
        *(
            hotlog.advance_call(channel, "e", 1, 1, "i", forget=forget, remember=known, feed_max_entries=most)
            for most in (0, 10)
        ),
        hotlog.mark_call([channel, OTHER]),
        hotlog.settled_call(1.0, 1),
        hotlog.unmark_call([(channel, b"1"), (OTHER, b"1")]),
        hotlog.reset_call(channel, "e", 1),
        hotlog.clear_call(channel),
        hotlog.hot_top_call(channel, 1),
        hotlog.stored_top_call(channel, "i"),
        hotlog.read_call(channel, stored=True, incarnation="i", since_offset=0, limit=1, reverse=False),
        hotlog.unstored_call(channel, 1),
        hot.append_call(
            [hot.HotBatch(name, 10, 10, keyed, ["ann"]) for name in (channel, OTHER)],
            edge="e",
            fresh_epoch="1.a",
            now_s=1,
        ),
        rewrites.note_call(),
        Call(PUT_HEAD, [keys.inbox_head(channel), keys.meta(channel)], ["e", 1, b"{}", 60]),
        Call(LEASE_LIST, [keys.inbox_list("ann")], ["token", 10, ""]),
        Call(MARK_LIST, [keys.inbox_list("ann"), keys.inbox_gone("ann")], ["mark", 10, "conv:a", 2, 1]),
        Call(UNMARK_LIST, [keys.inbox_list("ann")], ["mark"]),
        Call(PUT_LIST, [keys.inbox_list("ann")], ["token", b"{}", 60]),
        incarnation.heartbeat_call(1, 1, seen),
        incarnation.orderly_end_call(1, seen),
        incarnation.check_call("edge-a", seen, "run", ""),
        incarnation.new_generation_call("run", 1, only_other_run=False),
        take_call("publishes", "ann", rate=1.0, burst=1.0, most=1, least=1),
    ]


async def use_edge(redis: RedisPipeline) -> None:
    """Do what edges do, beside their logs."""
    await RedisControlLog(redis).append(b"{}")
    await RedisRevocationLog(redis).append(Revocation(kind=RevokedKind.USER, id="ann", at=1.0, until=2.0))
    await RedisTickets(redis, lambda: "run.1").take("ticket")
    leases = EdgeLeases(redis, "edge-a")
    await leases.renew()
    limits = LimitCalls(redis)
    await RedisCounts(limits, leases, lambda: 1.0).count("connections", "ann", held=0, wanted=1, cap=9)
    await limits.close()
    table = RedisSessionTable(redis, leases, lambda: 1.0)
    table.opened("digest")
    async with asyncio.timeout(30):
        while table._pending:  # noqa: SLF001
            await asyncio.sleep(0.01)
    await table.close()


async def use_presence(redis: RedisPipeline) -> None:
    """Let members come and go, in a channel and online, and read who is there."""
    roster = RedisRoster(redis)
    await roster.renew(EDGE, 60.0, held=False)
    changes: Sequence[Change] = [
        entering("c1", "ann", grace_s=0.001, events=ALL_EVENTS),
        entering("c2", "bob", events=ALL_EVENTS),
        leaving("c1", clean=False),
        leaving("c2"),
        entering("c1", "ann", channel="{/u1}", since_ms=1),
    ]
    await roster.change(EDGE, changes)
    await roster.page("chat:room", "", 10)
    await roster._put_in_order(["t:presence:{chat:room}", "t:presence:{chat:room}:order"], b"add")  # noqa: SLF001
    await roster.channels("ann", "", 10)
    await roster.online(["ann"])
    await roster.end_graces((await roster.due(10)).members)


async def use_rewrites(redis: RedisPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look whether the append-only file is to be rewritten; it is not."""

    async def with_a_file(self: rewrites.AofRewrites) -> dict[str, str]:
        return {"aof_enabled": "1"}

    monkeypatch.setattr(rewrites.AofRewrites, "_info", with_a_file)
    await redis.run([rewrites.note_call()], timeout_s=2.0)
    await rewrites.AofRewrites(redis, lambda: 1.0).look()


async def use_feed(redis: RedisPipeline, url: str) -> None:
    """Read the feed, send webhooks, mark conversations."""
    reader = FeedReader(url, "group")
    await reader.next(wait_s=0.0)
    await reader.close()
    letters, letter = Letters(redis, "crm"), Letter(id="msg", body="{}", events=1)
    await letters.store(letter)
    await letters.claim(1, 1.0)
    await letters.dead(letter, 1)
    await letters.revive(letter)
    timers = Timers(redis)
    await timers.note([Grown(CHANNEL, "e", 1, 0.0), Grown(OTHER, "e", 1, 0.0)])
    await timers.claim(2, 1.0)
    await timers.settle(CHANNEL, "e", 1, 0.0)
    await timers.show(CHANNEL, {"ann": OnDevice(1, 0, 1, "e")})
    await timers.hide(CHANNEL, "ann", None)
    markers = KeptMarkers(redis, lambda: 1.0, lambda: "run.1")
    await markers.swap([(Of(user, CHANNEL), b"", Record()) for user in ("ann", "bob")], note=True)
    receipts = Receipts(redis, Any, Any)  # type: ignore[arg-type]
    await receipts.sweep()
    await receipts._run(TELL, "3:ann" + CHANNEL, 1_000, 3_000)  # noqa: SLF001
    await receipts._run(DONE, 1_000, "3:ann" + CHANNEL, "1")  # noqa: SLF001
    await Typing(redis, lambda: 1).began(CHANNEL, "ann")
    marks = Marks(redis, lambda: 1.0)
    await marks.unmark([(CHANNEL, b"1")])
    await marks.settled(1.0, 1)


async def called(redis: RedisPipeline, url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Sequence[str]]]:
    """Return the keys of the calls of each script, by its file."""
    calls, plain = of_logs(), scripts._command  # noqa: SLF001

    def noted(call: Call) -> Any:
        calls.append(call)
        return plain(call)

    monkeypatch.setattr(scripts, "_command", noted)
    await use_edge(redis)
    await use_presence(redis)
    await use_feed(redis, url)
    await use_rewrites(redis, monkeypatch)
    names, found = loaded(), dict[str, list[Sequence[str]]]()
    for call in calls:
        found.setdefault(names[call.script.text], []).append(call.keys)
    return found


def mixes(names: Sequence[str]) -> bool:
    return len({key_slot(name.encode()) for name in names}) > 1


async def test_every_script_has_keys_of_one_hash_tag_or_a_reason(
    redis_pipeline: RedisPipeline, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await called(redis_pipeline, redis_url, monkeypatch)
    assert sorted(found) == sorted(loaded().values()), "a script is not called here"
    assert {name for name, calls in found.items() if any(map(mixes, calls))} == set(MIXED)
    assert {name for name in MIXED if not all(map(mixes, found[name]))} == ONLY_WITH_THE_FEED


def key_expressions(text: str) -> list[str]:
    """Return the Lua expressions that stand where a command takes its key."""
    found = []
    for line in text.splitlines():
        for match in re.finditer(r"redis\.p?call\('([A-Z]+)',? *(.*)", line.split("--")[0]):
            command, rest = match[1], [part.split(")")[0].strip() for part in match[2].split(",")]
            if command in KEYLESS:
                continue
            if command in ("XINFO", "XGROUP"):
                found.append(rest[1])
            elif command == "XREADGROUP":
                found.append(rest[rest.index("'STREAMS'") + 1])
            else:
                found.append(rest[0])
    return found


def is_named(expression: str, text: str) -> bool:
    """Whether this is one of KEYS, or a name for one, or a parameter."""
    if expression.startswith("KEYS["):
        return True
    name = re.escape(expression)
    return expression.isidentifier() and any(
        re.search(pattern, text)
        for pattern in (
            rf"local [^=\n]*\b{name}\b[^=\n]*=[^\n]*KEYS\[",
            rf"for _, {name} in ipairs\(KEYS",
            rf"for \w+, {name} in ipairs\({{unpack\(KEYS",
            rf"function \w+\([^)\n]*\b{name}\b",
        )
    )


@pytest.mark.parametrize("path", lua_files(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_script_uses_only_keys_that_its_caller_names(path: Path) -> None:
    text = path.read_text()
    strange = {(path.stem, one) for one in key_expressions(text) if not is_named(one, text)}
    assert strange == {one for one in NOT_NAMED if one[0] == path.stem}


def test_the_decision_lists_the_scripts_that_mix_hash_tags() -> None:
    page = (ROOT / "docs" / "decisions" / "0055-scripts-and-hash-tags.md").read_text()
    listed = {
        name
        for line in page.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert listed == set(MIXED)
