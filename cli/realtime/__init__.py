"""The client of `thalamus subscribe`.

It has messages, the protocol without I/O, and connections by `websockets`.

It is not centrifuge-python. That SDK parses payloads and drops the times of publications, so their text could not be
shown as it was published; it can't recover from a given position without asking for it again and again if that is
impossible; and it does not tell how many publications were missed. See docs/decisions/0031.
"""
