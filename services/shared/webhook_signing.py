"""Signs requests as Standard Webhooks says: HMAC-SHA256 over id, time and body.

Source: https://www.standardwebhooks.com

With several secrets a request has several signatures. A receiver accepts it if one of them is right, so a secret is
replaced without a moment in which nothing is accepted.
"""

from __future__ import annotations

import base64
import binascii
import datetime
from collections.abc import Iterable, Sequence
from pathlib import Path

from standardwebhooks import Webhook

from services.shared.process.config import ConfigError, read_secret_file

_PREFIX = "whsec_"
_BYTES = (24, 64)  # length of a secret, by the specification
_MAX_SECRETS = 4  # two during a rotation; each adds a signature to every request


class Signer:
    """Signs with every secret it was given."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Take the secrets; the same one given twice signs once.

        Raises:
            ValueError: one is not as `checked` wants it.
        """
        self._webhooks = [Webhook(self.checked(secret)) for secret in dict.fromkeys(secrets)]

    @staticmethod
    def checked(secret: str) -> str:
        """Return the secret, if it is `whsec_` and 24 to 64 bytes in base64.

        Raises:
            ValueError: it is not. The text does not show the secret.
        """
        try:
            length = len(base64.b64decode(secret.removeprefix(_PREFIX), validate=True))
        except (binascii.Error, ValueError):
            length = 0
        if not secret.startswith(_PREFIX) or not _BYTES[0] <= length <= _BYTES[1]:
            raise ValueError(f"must hold {_PREFIX} and {_BYTES[0]} to {_BYTES[1]} bytes in base64")
        return secret

    def headers(self, message_id: str, now_s: int, body: str) -> dict[str, str]:
        """Return the three headers of a request.

        Args:
            message_id: Stays the same when the request is repeated.
            now_s: Unix time, seconds. Receivers refuse what is older than five minutes, so each try has its own.
            body: What is sent.
        """
        moment = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": " ".join(one.sign(message_id, moment, body) for one in self._webhooks),
        }


def _read_secret(path: Path, where: str) -> str:
    """Return the secret in a file.

    Args:
        path: The file.
        where: Names the setting in errors.

    Raises:
        ConfigError: it can't be read, or holds no secret that signs.
    """
    try:
        return Signer.checked(read_secret_file(path, where).decode("ascii"))
    except ValueError as error:  # or a UnicodeDecodeError, which would show a part of it
        told = "must be ASCII" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ConfigError(f"{where}: {path} {told}") from None


def read_signer(paths: Iterable[Path], where: str) -> Signer:
    """Return what signs with the secrets in the files, one in each.

    Raises:
        ConfigError: as `_read_secret`, or there are more than four. `where` names the setting.
    """
    secrets = [_read_secret(path, where) for path in paths]
    if len(secrets) > _MAX_SECRETS:
        raise ConfigError(f"{where}: at most {_MAX_SECRETS}, not {len(secrets)}")
    return Signer(secrets)
