"""Is this still the same Redis data set? Run id, heartbeat and data-loss fence.

Purpose. Redis may come back with less than it had: restarted without its last writes, restored from a copy, replaced by
a replica that lagged. Offsets that were acknowledged would then be given again, and a client would be told "recovered"
although it missed something. An *incarnation* names one data set: the run id of the server, and the generation of the
logs of `hot` channels, which is part of their epochs. Nobody sends a command to a run that no incarnation names.

Rules.

* Run id: `gate.RunTracker` and `gate.IncarnationGate` ask each new connection for it, and refuse other runs.
* Heartbeat: every second persistence counts a number in Redis and in the store up together (`heartbeat.lua`). A Redis
  that is behind the store has lost something.
* Data-loss fence: Redis counts the writes to `hot` logs. Everybody brings the highest number that it has seen with each
  append and read (`check.lua`); a Redis that has less does nothing, and a new generation begins.
* A new run goes on with the generation only where a witness says that it has all: an edge or persistence that watched
  until its end, or the note of an orderly stop (`orderly_end.lua`). Otherwise the generation goes up, epochs change,
  and clients are told that they can't recover.

Example. Redis is killed and loses 0.3 s. An edge has seen write 1007, Redis has 1004: the edge says so, persistence
begins generation 8, and clients at epoch `7.…` get `recovered: false` instead of a silent gap.

Trade-offs. One HGET and one HSET for each batch of appends. Where everything is killed at once, nobody can be a
witness: `hot` channels begin anew although nothing may be lost. `stored` channels are compared with the store instead,
and keep their epochs. See docs/decisions/0005 and 0020.
"""
