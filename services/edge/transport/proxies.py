"""Who a request comes from when balancers stand in front: whom to believe, and what they say."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from services.shared.process.config import ConfigError

_MAX_HOPS = 32  # addresses of X-Forwarded-For that are looked at
_WITH_PORT = re.compile(r"(?:\[([^\]]*)\]|([0-9.]+))(?::[0-9]{1,5})?")  # some balancers add the port
_ADDRESSES_KEPT = 1_024  # those of balancers come again and again
_SCHEMES = ("http", "https")


class TrustedProxies:
    """Peers that are believed when they speak of somebody else.

    Args:
        entries: Addresses (`10.0.0.7`, `2001:db8::7`) and networks (`10.0.0.0/24`); none: nobody is believed.

    Raises:
        ConfigError: an entry is neither.
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
        """Whether the peer at this address is believed."""
        if not self._networks or not isinstance(address, str):
            return False
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self._networks)

    def client_of(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Address of the client, given that of the peer and the lines of X-Forwarded-For, in order.

        Every proxy adds whom it saw at the right, so what stands right of the first address that is not a proxy's is
        true, and the rest is whatever the client wrote. Only proxies: the first of them. Malformed: the peer.
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
        """`https` or `http`: what the client speaks, given the lines of X-Forwarded-Proto; else `default`."""
        if len(forwarded_proto) == 1 and peer in self and forwarded_proto[0].lower() in _SCHEMES:
            return forwarded_proto[0].lower()
        return default


@functools.lru_cache(maxsize=_ADDRESSES_KEPT)
def canonical(address: str) -> str:
    """The one way to write an address, IPv4 in IPv6 as IPv4; what is no address stays as it is."""
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
