"""The load generator: processes with raw sockets; it must never be the bottleneck.

It knows no server's code.
"""
