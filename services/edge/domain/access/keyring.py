"""Keys that verify tokens, and API keys.

Own keys are the public keys of the auth service and the secrets of the edge's settings. Each external issuer has keys
of its own: they verify only tokens that name this issuer (`iss`), and such tokens are verified by no other keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from services.edge.domain.access.algorithms import DEFAULT_ALGORITHMS, HMAC_BYTES, prepared_secret
from services.edge.domain.access.api_keys import ApiKeys
from services.edge.domain.access.key_set import Keys, read_key_set


class KeyRing:
    """The keys that this edge trusts at the moment. No I/O.

    The client of the auth service, that of external issuers, and the wiring of the edge change them; `TokenVerifier`
    and the HTTP API read them.
    """

    def __init__(self, algorithms: Set[str] = DEFAULT_ALGORITHMS) -> None:
        """Create a key ring without keys.

        Tokens of other algorithms than these are refused.
        """
        self.algorithms = algorithms
        self.jwks = b'{"keys":[]}'  # of auth
        self.api_keys = ApiKeys()
        self.awaits_auth = False  # auth is to send its keys, and has not done so yet
        self.changes = 0  # how often keys were replaced: then a token that was verified may not be good any more
        self._secrets: Mapping[str, tuple[bytes, ...]] = {}
        self._public: Keys = {}
        self._issuers: dict[str, tuple[bytes, Keys]] = {}

    def set_secrets(self, secret: bytes | None, *previous: bytes) -> None:
        """Accept HMAC tokens signed with `secret` or with one of the `previous` secrets.

        A secret serves the algorithms that it is long enough for, and HS256 in any case. None: accept no such tokens.

        Raises:
            ValueError: one of them is no secret.
        """
        secrets = () if secret is None else tuple(map(prepared_secret, (secret, *previous)))
        self._secrets = {
            name: tuple(each for each in secrets if name == "HS256" or len(each) >= least)
            for name, least in HMAC_BYTES.items()
            if name in self.algorithms
        }
        self.changes += 1

    def set_jwks(self, jwks: bytes) -> None:
        """Replace all public keys of auth by those of a JWK Set; see `read_key_set`.

        Raises:
            ValueError: it is not a JWK Set; the keys stay as they are.
        """
        if jwks != self.jwks:
            self._public = read_key_set(jwks, self.algorithms)
            self.jwks = jwks
            self.changes += 1
        self.awaits_auth = False

    def trust_issuer(self, issuer: str) -> None:
        """Add an external issuer that has no keys yet.

        From now on own keys verify no token that names it.
        """
        self._issuers.setdefault(issuer, (b"", {}))

    def set_issuer_keys(self, issuer: str, jwks: bytes) -> int:
        """Replace all keys of an external issuer by those of a JWK Set.

        Return their number.

        Raises:
            ValueError: it is not a JWK Set; the keys stay as they are.
        """
        known, keys = self._issuers.get(issuer, (b"", {}))
        if jwks != known:
            keys = read_key_set(jwks, self.algorithms)
            self._issuers[issuer] = (jwks, keys)
            self.changes += 1
        return len(keys)

    @property
    def issuers(self) -> Set[str]:
        """The external issuers that are trusted."""
        return self._issuers.keys()

    @property
    def is_empty(self) -> bool:
        """Whether there is no key that could verify a token."""
        return not any(self._secrets.values()) and not self._public and not self.has_issuer_keys

    @property
    def has_issuer_keys(self) -> bool:
        """Whether there is a key of an external issuer."""
        return any(keys for _, keys in self._issuers.values())

    def may_still_come(self, algorithm: str, issuer: str | None = None) -> bool:
        """Return whether a key for such a token may still come.

        That is so until whoever publishes it, auth or the issuer, was heard. Meanwhile a token that no key verifies
        can't be judged.
        """
        if algorithm in HMAC_BYTES:
            return False
        external = self._issuers.get(issuer) if issuer else None
        return self.awaits_auth if external is None else not external[0]

    def keys(self, algorithm: str, kid: object, issuer: str | None = None) -> Sequence[Any]:
        """Return the keys that may verify a token with this header and this `iss`.

        A public key is found by its id. Secrets have no ids, so each is tried.
        """
        external = self._issuers.get(issuer) if issuer else None
        if algorithm in HMAC_BYTES:
            return self._secrets.get(algorithm, ()) if external is None else ()
        if not isinstance(kid, str):
            return ()
        key = (self._public if external is None else external[1]).get((algorithm, kid))
        return () if key is None else (key,)
