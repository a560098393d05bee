"""Format of an object: JSON lines, compressed by gzip, encrypted by AES-256-GCM.

Each object has a key of its own, which only its manifest has: without the manifest nobody can read the object, also
not a copy of it that was made before. The object's name is authenticated with it, so objects can't be exchanged. The
first 12 bytes are the nonce.

A line is an object with the fields `o` offset, `i` id, `k` user and key, `t` Unix time of the write to the store, `p`
publication, `f`, `n`, `mv` what the log counts (docs/storage.md). Ids and publications are base64.
"""

from __future__ import annotations

import gzip
import hashlib
import secrets
import zlib
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.persistence.archive.ports import ArchivedRow, Manifest, SegmentUnreadable

_NONCE_BYTES = 12
_KEY_BITS = 256
_LEVEL = 6  # of gzip


class _Line(msgspec.Struct):
    o: int
    i: bytes
    k: str
    t: float
    p: bytes
    f: int
    n: int
    mv: int


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_Line)


def new_name(store: str) -> str:
    """Return a random name for an object of a store."""
    name = secrets.token_hex(16)
    return f"{store}/{name[:2]}/{name[2:]}"


def encode(channel: str, rows: Sequence[ArchivedRow], name: str) -> tuple[Manifest, bytes]:
    """Return manifest and object of rows, under a new key."""
    plain = gzip.compress(_ENCODER.encode_lines([_Line(*row) for row in rows]), _LEVEL, mtime=0)
    key, nonce = AESGCM.generate_key(_KEY_BITS), secrets.token_bytes(_NONCE_BYTES)
    body = nonce + AESGCM(key).encrypt(nonce, plain, name.encode())
    manifest = Manifest(channel, rows[0].offset, rows[-1].offset, name, _digest(body), key, len(body))
    return manifest, body


def decode(manifest: Manifest, body: bytes) -> list[ArchivedRow]:
    """Return the rows of an object.

    Raises:
        SegmentUnreadable: it is not the object that the manifest means.
    """
    if _digest(body) != manifest.digest:
        raise SegmentUnreadable("an archived object is not as it was written")
    try:
        plain = AESGCM(manifest.key).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], manifest.object.encode())
        lines = _DECODER.decode_lines(gzip.decompress(plain))
    except (InvalidTag, ValueError, OSError, EOFError, zlib.error) as error:
        raise SegmentUnreadable(f"an archived object can't be read: {type(error).__name__}") from error
    rows = [ArchivedRow(one.o, one.i, one.k, one.t, one.p, one.f, one.n, one.mv) for one in lines]
    if [row.offset for row in rows] != [*range(manifest.first, manifest.last + 1)]:
        raise SegmentUnreadable("an archived object has other publications than its manifest says")
    return rows


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()
