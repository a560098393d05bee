"""Remembers the ports of a stack, so that the next start takes them again.

Clients that keep running then find the stack at the same address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from cli.stack.ports import Port

_FILE = "dev-ports.json"
_Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class LastPorts:
    """Ports by owner and variable, kept in a file of the data directory.

    Ports of edges that the last start did not have are kept too. A file that can't be read counts as empty.
    """

    def __init__(self, data: Path) -> None:
        self._path = data / _FILE
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Port])
        except (OSError, msgspec.MsgspecError):
            kept = {}
        self.ports: Mapping[tuple[str, str], int] = {
            (owner, variable): port for name, port in kept.items() for owner, _, variable in (name.partition(" "),)
        }

    def keep(self, wanted: Sequence[Port], chosen: Mapping[tuple[str, str], int]) -> list[str]:
        """Write down the ports that were chosen freely; return lines for people.

        There is a line for each port that could not be taken again, and one if the file can't be written.
        """
        free = {(port.owner, port.variable) for port in wanted if port.number == 0}
        told = [
            f"port {self.ports[name]} ({', '.join(name)}) of the last start is in use: {chosen[name]} in its place"
            for name in sorted(free)
            if self.ports.get(name, chosen[name]) != chosen[name]
        ]
        self.ports = {**self.ports, **{name: chosen[name] for name in free}}
        text = msgspec.json.encode({" ".join(name): port for name, port in sorted(self.ports.items())})
        temporary = self._path.with_name(f"{_FILE}.new")
        try:
            temporary.write_bytes(msgspec.json.format(text, indent=2) + b"\n")
            temporary.replace(self._path)
        except OSError as error:
            told.append(f"the next start may take others, {self._path} can't be written: {error.strerror}")
        return told
