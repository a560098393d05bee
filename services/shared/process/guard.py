"""Runs a command that dies with the process that asked for it, even when that one is killed with -9.

    python -I -S guard.py MODE PARENT_PID PIPE_FD COMMAND...

A file of its own, with the standard library only: it starts in 20 ms and becomes the command (same pid).

MODE `signal` (Linux): the kernel sends SIGKILL when the parent's thread ends; this survives execve.
MODE `pipe` (elsewhere): a watcher process waits for the end of a pipe whose other end only the parent holds,
then kills the command. The watcher itself ends when the command does.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_S = 0.5
_NOT_STARTED = 127


def main(arguments: list[str]) -> None:
    """Arrange for the death, then become the command."""
    mode, parent, pipe, *command = arguments
    if mode == "signal":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    else:
        _watch(int(pipe))
    if os.getppid() != int(parent):  # it died before the line above
        sys.exit(_NOT_STARTED)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"can't start {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(_NOT_STARTED)


def _watch(pipe: int) -> None:
    """Leave a watcher behind in a process of its own."""
    os.set_inheritable(pipe, False)  # the command doesn't get it
    command = os.getpid()
    if os.fork():
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # the command's output ends with the command
        os.dup2(nothing, stream)
    while not select.select([pipe], [], [], _POLL_S)[0]:
        if os.getppid() != command:
            os._exit(0)
    try:
        os.kill(command, signal.SIGKILL)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
