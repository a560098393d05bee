"""Scripts that compare Redis with what persistence and edges know of it, as calls; see the package."""

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

PAUSE_MS = 500  # after a restart that lost nothing the store knows of: edges that saw more say so within it


class Incarnation(NamedTuple):
    """One incarnation, as `t:life` names it; used by clients from `open_at_ms` on (clock of Redis)."""

    run_id: str
    generation: int
    open_at_ms: int

    @property
    def token(self) -> str:
        """Names this incarnation; `stored` channels are compared with the store once in each."""
        return f"{self.run_id}.{self.generation}"


def parse_incarnation(found: bytes | None) -> Incarnation | None:
    """The value of the key; None where there is none, or another thing."""
    words = (found or b"").decode("ascii", "replace").split(" ")
    if len(words) != 3 or not (words[1].isdigit() and words[2].isdigit()):
        return None
    return Incarnation(words[0], int(words[1]), int(words[2]))


class Known(NamedTuple):
    """What a process has seen of Redis: the number of writes in a generation, and when (by the clock of Redis)."""

    generation: int = 0
    writes: int = 0
    at_ms: int = 0


class HeartbeatReply(NamedTuple):
    """`life`: what is said of this run of Redis; None where others must say first what they know.

    `was_kept`: "<name of a store> <count>", which that store had kept for certain.
    """

    counter: int
    generation: int
    incarnation: Incarnation | None
    known: Known
    was_kept: str


class ForeignStore(NamedTuple):
    """Redis names another store, and nothing was done; `counter` goes on while that one is in use."""

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
    pause_ms: int = PAUSE_MS,
) -> Call:
    """Compare with the highest counter and generation that the store or this process knows, and say what was found.

    Args:
        kept: The counter that the store itself has.
        store: Names it; "" leaves open which it is.
        restored: Names the last time that it was restored from a backup, "" if never.
        replaces: Name of another store, whose place it takes.
        waits: For edges that have not said yet what they know of an earlier run.
    """
    names = [keys.heartbeat(), keys.incarnation(), keys.store(), keys.observed(), keys.observers(), keys.said()]
    return Call(HEARTBEAT, names, [counter, generation, kept, store, *known, int(waits), pause_ms, replaces, restored])


def heartbeat_result(result: Any) -> HeartbeatReply | ForeignStore:
    """What that call answered."""
    found = raise_for_error(result)
    if len(found) == 2:
        return ForeignStore(found[0].decode(), int(found[1]))
    count, generation, said, writes, at_ms, was_kept = found
    known = Known(int(generation), int(writes), int(at_ms))
    return HeartbeatReply(int(count), int(generation), parse_incarnation(said), known, was_kept.decode())


def orderly_end_call(counter: int, known: Known) -> Call:
    """Have this run judged anew before anybody uses it, if no edge is there: whoever compares it ends in order."""
    names = [keys.incarnation(), keys.observed(), keys.observers(), keys.heartbeat()]
    return Call(ORDERLY_END, names, [known.generation, known.writes, counter, keys.control()])


def orderly_end_result(result: Any, generation: int) -> tuple[int, Known] | None:
    """What that call answered: counter, and all that was ever written; None: nothing was done."""
    found = raise_for_error(result)
    return (int(found[0]), Known(generation, int(found[1]), int(found[2]))) if found else None


class CheckReply(NamedTuple):
    """What an edge found: `missing`: this run, in use, lacked what the edge knows, and `life` is a new one."""

    run_id: str
    at_ms: int
    incarnation: Incarnation | None
    writes: int
    was_kept: str
    missing: bool


def check_call(edge: str, known: Known, run_id: str, was_kept: str) -> Call:
    """Compare with what this edge knows; `run_id`: of the run that it uses, `was_kept`: as the last look had it."""
    names = [keys.incarnation(), keys.observed(), keys.observers(), keys.said()]
    return Call(CHECK, names, [edge, *known, run_id, was_kept])


def check_result(result: Any) -> CheckReply:
    """What that call answered."""
    run_id, at_ms, said, writes, was_kept, missing = raise_for_error(result)
    return CheckReply(
        run_id.decode(), int(at_ms), parse_incarnation(said), int(writes), was_kept.decode(), bool(missing)
    )


def new_generation_call(run_id: str, generation: int, *, only_other_run: bool) -> Call:
    """Begin a generation above this one, unless somebody did."""
    return Call(NEW_GENERATION, [keys.incarnation()], [run_id, generation, int(only_other_run)])
