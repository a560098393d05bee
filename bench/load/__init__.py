"""The load generator: processes of raw sockets, which know no server's code and must never be the bottleneck."""
