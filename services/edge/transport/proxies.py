"""Client address and scheme of requests that come through load balancers.

Read from X-Forwarded-For and X-Forwarded-Proto, if the peer is trusted.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from services.shared.process.config import ConfigError

_MAX_HOPS = 32  # last addresses of X-Forwarded-For that are read
_WITH_PORT = re.compile(r"(?:\[([^\]]*)\]|([0-9.]+))(?::[0-9]{1,5})?")  # an address; some balancers add a port
_ADDRESSES_KEPT = 1_024  # cached addresses: those of balancers come again and again
_SCHEMES = ("http", "https")


class TrustedProxies:
    """Peers whose statements about the client's address and scheme are believed.

    Args:
        entries: Addresses (`10.0.0.7`, `2001:db8::7`) and networks (`10.0.0.0/24`). Without entries no peer is trusted.

    Raises:
        ConfigError: an entry is neither an address nor a network.
    """

    __slots__ = ("_networks",)

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in entries:
            try:
                self._networks.append(ip_network(entry))
            except ValueError as error:
                raise ConfigError(f"EDGE_TRUSTED_PROXIES: {error}") from None

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: object) -> bool:
        """Whether the peer at this address is trusted."""
        if not self._networks or not isinstance(address, str):
            return False
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self._networks)

    def client_of(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Return the client's address, from the peer's and the X-Forwarded-For lines.

        Every proxy appends the address that it saw. So the list is read from the right: the first address that is not
        a trusted proxy's is the client, and what stands left of it may be made up. If all are trusted proxies, the
        leftmost is returned. The peer's own address is returned if the peer is not trusted, if an entry is malformed,
        or if there are more than 32 entries and the last 32 are trusted proxies.
        """
        if peer not in self:
            return peer
        hops = [hop.strip(" \t") for line in forwarded_for for hop in line.split(",")]
        found = peer
        for hop in reversed(hops[-_MAX_HOPS:]):
            match = _WITH_PORT.fullmatch(hop)
            parsed = _parse((match[1] or match[2]) if match else hop)
            if parsed is None:
                return peer
            found = str(parsed)
            if found not in self:
                return found
        return found if len(hops) <= _MAX_HOPS else peer

    def scheme_of(self, peer: str, forwarded_proto: Sequence[str], default: str) -> str:
        """Return the client's scheme, `https` or `http`, from X-Forwarded-Proto.

        Returns `default` if the peer is not trusted, or if there is not exactly one header line with one of the two.
        """
        if len(forwarded_proto) == 1 and peer in self and forwarded_proto[0].lower() in _SCHEMES:
            return forwarded_proto[0].lower()
        return default


@functools.lru_cache(maxsize=_ADDRESSES_KEPT)
def canonical(address: str) -> str:
    """Return an IP address in its canonical form, IPv4-mapped IPv6 as IPv4.

    Text that is no address is returned unchanged.
    """
    parsed = _parse(address)
    return address if parsed is None else str(parsed)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed
