"""What the data of a publication may be: the `data_format` of its namespace.

**Purpose.** Data is inserted into the frames of subscribers as it is. So whoever brings it (a client, the server API),
and in whichever protocol: it is checked here, once, before it is in a log.

**Rules.**

1. `json`: a JSON text that every client can read (`checked_json`). `object`: such a text of an object. `binary`: any
   bytes.
2. What is already known to be such a text comes as `JsonText`, and is not parsed again. Everything else is.
3. JSON clients can't be given bytes. In a `binary` namespace they may neither publish nor subscribe nor read history
   (error 108). Clients whose protocol carries bytes may use every namespace.

**Example.** A message of a JSON client is checked as a whole when it is decoded, and its `data` comes as `JsonText`.
The bytes `1},"offset":999,"x":{"y":2` from anywhere else are refused, because they are no JSON text.
"""

from __future__ import annotations

from services.shared.errors import ErrorCode, ThalamusError
from services.shared.json_text import JsonText, checked_json
from services.shared.namespaces import DataFormat, Namespace


def checked_data(data: bytes | None, namespace: Namespace) -> bytes:
    """Return the data of a publication as it is to be published.

    Raises:
        ThalamusError: 107, there is none, or it is not what the namespace takes (`InvalidJson` if it is no JSON text).
    """
    if data is None:
        raise ThalamusError("no data", ErrorCode.BAD_REQUEST)
    data_format = namespace.data_format
    if data_format is DataFormat.BINARY:
        return data
    if type(data) is not JsonText:
        data = checked_json(data)
    if data_format is DataFormat.OBJECT and not data.startswith(b"{"):
        raise ThalamusError("data is no object", ErrorCode.BAD_REQUEST)
    return data


def can_use(namespace: Namespace, *, carries_bytes: bool) -> bool:
    """Whether clients of a protocol can carry the data of the namespace.

    `carries_bytes`: the protocol carries data of any bytes.
    """
    return carries_bytes or namespace.data_format is not DataFormat.BINARY
