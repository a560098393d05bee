"""Calls of the scripts that compare Redis with what its users know of it.

The package docstring has the rules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load, raise_for_error

_FOLDER = Path(__file__).parent
HEARTBEAT = load(_FOLDER / "heartbeat.lua")
CHECK = load(_FOLDER / "check.lua")
ORDERLY_END = load(_FOLDER / "orderly_end.lua")
NEW_GENERATION = load(_FOLDER / "new_generation.lua")

PAUSE_MS = 500  # wait after a restart that seems to have lost nothing: edges that know better object meanwhile


class Incarnation(NamedTuple):
    """One incarnation of Redis, as `t:life` has it.

    `open_at_ms`: when clients may use it, Unix ms by the clock of Redis; 0: at once.
    """

    run_id: str
    generation: int
    open_at_ms: int

    @property
    def token(self) -> str:
        """Text that names this incarnation.

        `stored` channels are compared with the store once in each.
        """
        return f"{self.run_id}.{self.generation}"


def parse_incarnation(found: bytes | None) -> Incarnation | None:
    """Parse the value of the key; None if it is missing or something else."""
    words = (found or b"").decode("ascii", "replace").split(" ")
    if len(words) != 3 or not (words[1].isdigit() and words[2].isdigit()):
        return None
    return Incarnation(words[0], int(words[1]), int(words[2]))


class Known(NamedTuple):
    """What a process has seen of Redis.

    `writes`: number of writes to `hot` logs in this generation. `at_ms`: when it was seen, by the clock of Redis.
    """

    generation: int = 0
    writes: int = 0
    at_ms: int = 0


class HeartbeatReply(NamedTuple):
    """Reply to a heartbeat.

    `incarnation`: None while edges must say first what they know of this run.
    `was_kept`: "<store> <counter>", which that store is known to have kept.
    """

    counter: int
    generation: int
    incarnation: Incarnation | None
    known: Known
    was_kept: str


class ForeignStore(NamedTuple):
    """Redis is used with another store, and nothing was done.

    `counter` goes up while that store is in use.
    """

    store: str
    counter: int


def heartbeat_call(
    counter: int,
    generation: int,
    known: Known,
    *,
    kept: int = 0,
    store: str = "",
    restored: str = "",
    replaces: str = "",
    waits: bool = False,
) -> Call:
    """Return the call that counts up, and compares Redis with what is known of it.

    Args:
        counter: Highest that the store or this process knows.
        generation: Highest that the store or this process knows.
        known: What this process saw with its last heartbeat.
        kept: Counter that the store itself has.
        store: Name of the store; "" for any.
        restored: Mark of the store's last restore, "" if there was none.
        replaces: Name of another store, whose place this one takes.
        waits: Whether to wait for edges that have not said yet what they know of an earlier run.
    """
    names = [keys.heartbeat(), keys.incarnation(), keys.store(), keys.observed(), keys.observers(), keys.said()]
    return Call(HEARTBEAT, names, [counter, generation, kept, store, *known, int(waits), PAUSE_MS, replaces, restored])


def heartbeat_result(result: Any) -> HeartbeatReply | ForeignStore:
    """Decode the reply of `heartbeat_call`."""
    found = raise_for_error(result)
    if len(found) == 2:
        return ForeignStore(found[0].decode(), int(found[1]))
    count, generation, said, writes, at_ms, was_kept = found
    known = Known(int(generation), int(writes), int(at_ms))
    return HeartbeatReply(int(count), int(generation), parse_incarnation(said), known, was_kept.decode())


def orderly_end_call(counter: int, known: Known) -> Call:
    """Return the call that ends this run in order, if no edge is there.

    The run must be judged again before anybody uses it. `known` and `counter` are what this process knows.
    """
    names = [keys.incarnation(), keys.observed(), keys.observers(), keys.heartbeat()]
    return Call(ORDERLY_END, names, [known.generation, known.writes, counter, keys.control()])


def orderly_end_result(result: Any, generation: int) -> tuple[int, Known] | None:
    """Decode the reply of `orderly_end_call` as counter and all that Redis has.

    None: nothing was done.
    """
    found = raise_for_error(result)
    return (int(found[0]), Known(generation, int(found[1]), int(found[2]))) if found else None


class CheckReply(NamedTuple):
    """Reply to the check of an edge.

    `missing`: this run, which is in use, had less than the edge knows, and `incarnation` is a new one. `appends`: how
    many append calls of this edge Redis has counted. `was_kept` as in `HeartbeatReply`.
    """

    run_id: str
    at_ms: int
    incarnation: Incarnation | None
    writes: int
    was_kept: str
    missing: bool
    appends: int


def check_call(edge: str, known: Known, run_id: str, was_kept: str, *, appends: int = 0) -> Call:
    """Return the call that compares Redis with what this edge knows.

    Args:
        edge: Its name among those that watch Redis.
        known: What it saw with its last check.
        run_id: Of the run that it uses; "": none.
        was_kept: As the last check returned it.
        appends: Highest number of its append calls that it was told of, in the generation of `known`.
    """
    names = [keys.incarnation(), keys.observed(), keys.observers(), keys.said(), keys.appends(edge)]
    return Call(CHECK, names, [edge, *known, run_id, was_kept, appends])


def check_result(result: Any) -> CheckReply:
    """Decode the reply of `check_call`."""
    run_id, at_ms, said, writes, was_kept, missing, appends = raise_for_error(result)
    return CheckReply(
        run_id.decode(), int(at_ms), parse_incarnation(said), int(writes), was_kept.decode(), bool(missing), appends
    )


def new_generation_call(run_id: str, generation: int, *, only_other_run: bool) -> Call:
    """Return the call that begins a generation above this one, unless somebody did.

    `only_other_run`: only if the present incarnation is of another run.
    """
    return Call(NEW_GENERATION, [keys.incarnation()], [run_id, generation, int(only_other_run)])
