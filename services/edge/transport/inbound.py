"""Frames of clients, as far as they need no state: where they end, and the small whole texts that most of them are.

Everything else is for the library's core, which is given all bytes of it.
"""

from __future__ import annotations

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover  # where the library comes without its extension
    from websockets.utils import apply_mask

_TEXT = 0x81  # final, no extension
_MASKED = 0x80
_MASK_BYTES = 4


def small_texts(data: bytes, max_bytes: int) -> tuple[list[bytes], int]:
    """Payloads of the whole text messages that `data` begins with, and how many bytes those are.

    It ends before anything else: another opcode, a fragment, an unmasked or unusual frame, one over `max_bytes` or over
    64 KiB, one that is not all there.
    """
    texts: list[bytes] = []
    position, size = 0, len(data)
    while position + 6 <= size and data[position] == _TEXT:
        length = data[position + 1] - _MASKED
        start = position + 2
        if length == 126:
            length = data[start] << 8 | data[start + 1]
            start += 2
            if length < 126:
                break
        elif not 0 <= length < 126:
            break
        begin = start + _MASK_BYTES
        end = begin + length
        if end > size or length > max_bytes:
            break
        texts.append(apply_mask(data[begin:end], data[start:begin]))
        position = end
    return texts, position


class FrameBounds:
    """Follows frames through a stream of bytes by their headers alone."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""  # of a header that is not whole
        self._left = 0  # bytes of the payload that are still to come

    @property
    def between_frames(self) -> bool:
        """Whether the last byte was the last one of a frame."""
        return not self._left and not self._head

    def pass_over(self, data: bytes) -> None:
        """Go on by these bytes."""
        position, size = 0, len(data)
        while position < size:
            if self._left:
                step = min(self._left, size - position)
                self._left -= step
                position += step
                continue
            step = min(_head_bytes(self._head) - len(self._head), size - position)
            self._head += data[position : position + step]
            position += step
            if len(self._head) == _head_bytes(self._head):
                self._left = _payload_bytes(self._head)
                self._head = b""


def _head_bytes(head: bytes) -> int:
    """Length of the header that begins so."""
    if len(head) < 2:
        return 2
    code = head[1] & 0x7F
    extended = 2 if code == 126 else 8 if code == 127 else 0
    return 2 + extended + (_MASK_BYTES if head[1] & _MASKED else 0)


def _payload_bytes(head: bytes) -> int:
    code = head[1] & 0x7F
    if code == 126:
        return int.from_bytes(head[2:4], "big")
    if code == 127:
        return int.from_bytes(head[2:10], "big")
    return code
