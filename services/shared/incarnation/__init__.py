"""Is this still the same Redis data set? Run id, heartbeat and data-loss fence.

Purpose. Redis may come back with less than it had: restarted without its last writes, restored from a copy, replaced by
a replica that lagged. Offsets that were acknowledged would then be given again, and a client would be told "recovered"
although it missed something. An *incarnation* names one data set: the run id of the server, and the generation of the
logs of `hot` channels, which is part of their epochs. No channel is used in a run that no incarnation names.

Rules.

* Run id. A gate asks the server of each new connection for it. `gate.IncarnationGate` refuses all runs but the one it
  is open for. `gate.RunTracker` refuses none: heartbeat, checks of edges, and presence use it.
* Heartbeat (`heartbeat.lua`). Every second persistence reads the counter in the store, counts up the one in Redis, and
  keeps the result in the store. A Redis that is not ahead of what was read has lost something.
* Data-loss fence. Redis counts the writes to `hot` logs. An edge sends the highest number that it has seen with each
  append and read, and a Redis that has less does nothing. The edge's next check (`check.lua`, every 0.5 s) then begins
  a new generation.
* Own appends. Redis numbers the append calls of each edge. One number twice means that it went back between two calls
  that were under way. Calls and checks bring the highest number, for which the writes of others can't make up.
* A new run keeps the generation only if nobody misses anything, a witness watched until the end of the last run, and no
  edge of its last 6 s is absent. A witness is an edge, this process of persistence, or the note of an orderly stop
  (`orderly_end.lua`). The same goes for a run with a new replication id: it may have become a copy of another server.
* Otherwise the generation goes up, epochs of `hot` channels change, and clients learn that they can't recover. If
  persistence says nothing for 6 s, an edge raises the generation (`new_generation.lua`).

Example. Redis is killed and loses 0.3 s. An edge has seen write 1007, Redis has 1004: the edge says so, persistence
begins generation 8, and clients at epoch `7.…` get `recovered: false` instead of a silent gap.

Trade-offs. One HGET and two HINCRBY for each batch of appends. Where everything is killed at once, nobody can be a
witness: `hot` channels start over although nothing may be lost. `stored` channels are compared with the store instead,
and keep their epochs. See docs/decisions/0005, 0020 and 0039.
"""
