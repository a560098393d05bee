"""The life of a Redis: which run of the server it is, and which generation its `hot` logs are of.

Persistence compares a counter in Redis with the same counter in the store every second (`beat.lua`) and says here what
it found. Nobody uses a connection to a server whose run it has not spoken of: see `services/shared/incarnation/gate.py`.

Everybody who uses Redis remembers how often `hot` logs were written. A data set that was written less often has gone
back, whatever its run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from services.shared.hotlog import keys
from services.shared.hotlog.scripts import BEAT, LEAVE, LOOK, RENEW, Call, refuse

PAUSE_MS = 500  # after a restart that lost nothing the store knows of: edges that saw more say so within it


class Life(NamedTuple):
    """What `t:life` says. `open_at_ms` by the clock of Redis."""

    run_id: str
    generation: int
    open_at_ms: int

    @property
    def token(self) -> str:
        """Names this life; `stored` channels are compared with the store once in each."""
        return f"{self.run_id}.{self.generation}"


def parse(found: bytes | None) -> Life | None:
    """The value of the key; None where there is none, or another thing."""
    words = (found or b"").decode("ascii", "replace").split(" ")
    if len(words) != 3 or not (words[1].isdigit() and words[2].isdigit()):
        return None
    return Life(words[0], int(words[1]), int(words[2]))


class Known(NamedTuple):
    """What a process has seen of Redis: the number of writes in a generation, and when (by the clock of Redis)."""

    generation: int = 0
    writes: int = 0
    at_ms: int = 0


class Beat(NamedTuple):
    """`life`: what is said of this run of Redis; None where others must say first what they know.

    `was_kept`: "<name of a store> <count>", which that store had kept for certain.
    """

    counter: int
    generation: int
    life: Life | None
    known: Known
    was_kept: str


class Foreign(NamedTuple):
    """Redis names another store, and nothing was done; `counter` goes on while that one is in use."""

    store: str
    counter: int


def beat_call(
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
    names = [keys.beacon(), keys.life(), keys.store(), keys.observed(), keys.observers(), keys.said()]
    return Call(BEAT, names, [counter, generation, kept, store, *known, int(waits), pause_ms, replaces, restored])


def beat(result: Any) -> Beat | Foreign:
    """What that call answered."""
    found = refuse(result)
    if len(found) == 2:
        return Foreign(found[0].decode(), int(found[1]))
    count, generation, said, writes, at_ms, was_kept = found
    known = Known(int(generation), int(writes), int(at_ms))
    return Beat(int(count), int(generation), parse(said), known, was_kept.decode())


def leave_call(counter: int, known: Known) -> Call:
    """Have this run judged anew before anybody uses it, if no edge is there: whoever compares it ends in order."""
    names = [keys.life(), keys.observed(), keys.observers(), keys.beacon()]
    return Call(LEAVE, names, [known.generation, known.writes, counter, keys.control()])


def left(result: Any, generation: int) -> tuple[int, Known] | None:
    """What that call answered: counter, and all that was ever written; None: nothing was done."""
    found = refuse(result)
    return (int(found[0]), Known(generation, int(found[1]), int(found[2]))) if found else None


class Look(NamedTuple):
    """What an edge found: `missing`: this run, in use, lacked what the edge knows, and `life` is a new one."""

    run_id: str
    at_ms: int
    life: Life | None
    writes: int
    was_kept: str
    missing: bool


def look_call(edge: str, known: Known, run_id: str, was_kept: str) -> Call:
    """Compare with what this edge knows; `run_id`: of the run that it uses, `was_kept`: as the last look had it."""
    names = [keys.life(), keys.observed(), keys.observers(), keys.said()]
    return Call(LOOK, names, [edge, *known, run_id, was_kept])


def look(result: Any) -> Look:
    """What that call answered."""
    run_id, at_ms, said, writes, was_kept, missing = refuse(result)
    return Look(run_id.decode(), int(at_ms), parse(said), int(writes), was_kept.decode(), bool(missing))


def renew_call(run_id: str, generation: int, *, only_other_run: bool) -> Call:
    """Begin a generation above this one, unless somebody did."""
    return Call(RENEW, [keys.life()], [run_id, generation, int(only_other_run)])
