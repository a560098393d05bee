"""The ports that were chosen for a stack: the next start takes them again, so that clients which run on find it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from cli.stack.ports import Port

_FILE = "dev-ports.json"
_Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class LastPorts:
    """Kept in the data directory, by owner and variable; also those of edges that the last start did not have.

    A file that can't be read counts as none.
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
        """Write down what was chosen where any port would do; a line for each that could not be taken again,
        and one where it can't be written."""
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
