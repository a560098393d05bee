"""A device, and which addresses of Web Push there may be.

The address of a browser comes from the user, and the notifier calls it. So it must lie at a push service that the
operator trusts (`WEB_PUSH_HOSTS`): an entry is the end of a host name, `push.example.com` also stands for
`a.push.example.com`. An entry with a port names one server, which may have a private address; others may not.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

WEB_PUSH_HOSTS = (
    "fcm.googleapis.com",
    "jmt17.google.com",
    "push.services.mozilla.com",
    "push.apple.com",
    "notify.windows.com",
)
"""The services of Chrome, of other builds of Chromium, of Firefox, Safari and Edge."""
_HTTPS_PORT = 443
_SIGN_IN_DIGITS = 32  # hexadecimal: enough that no two sign-ins of a user have the same
_AUTH_BYTES = 16  # RFC 8291


class Device(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where notifications go.

    `token`: of FCM and APNs. `endpoint`, `p256dh`, `auth`: of Web Push, as the browser says them. `set_ms`: Unix ms.
    `session`: `sign_in` of that in which it was set; "": it stays whichever ends.
    """

    id: str
    platform: Literal["webpush", "fcm", "apns"]
    set_ms: int
    token: str = ""
    endpoint: str = ""
    p256dh: str = ""
    auth: str = ""
    session: str = ""

    @property
    def address(self) -> str:
        """A digest of where it leads to: the same for the same device."""
        return hashlib.sha256(f"{self.platform}\n{self.token or self.endpoint}".encode()).hexdigest()


def sign_in(session: str) -> str:
    """Return what is kept of a sign-in, the claim `sid` of its tokens; "" of none."""
    return hashlib.sha256(session.encode()).hexdigest()[:_SIGN_IN_DIGITS] if session else ""


def why_no_endpoint(url: str, hosts: Sequence[str]) -> str:
    """Return why an address of Web Push is not allowed; empty if it is."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return "is no address"
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return "is no address"
    if parts.scheme != "https":
        return "must begin with https://"
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "must have no user, password or fragment"
    if names_server(host, port, hosts):
        return ""
    if port in (None, _HTTPS_PORT) and any(host == entry or host.endswith(f".{entry}") for entry in hosts):
        return ""
    return "is at no push service that this platform allows"


def names_server(host: str, port: int | None, hosts: Sequence[str]) -> bool:
    """Whether an entry names exactly this server, with its port."""
    return port is not None and f"{host}:{port}" in hosts


def is_key(text: str) -> bool:
    """Whether a text is the public key of a browser: a point of P-256 in base64url."""
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), _decoded(text))
    except ValueError:
        return False
    return True


def is_auth(text: str) -> bool:
    """Whether a text is the authentication secret of a browser."""
    try:
        return len(_decoded(text)) == _AUTH_BYTES
    except ValueError:
        return False


def _decoded(text: str) -> bytes:
    """Decode base64url, with padding or without.

    Raises:
        ValueError: it is none.
    """
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
