"""Runs a command that is killed when its parent ends, even by SIGKILL.

    python -I -S guard.py MODE PARENT_PID PIPE_FD COMMAND...

A file of its own that imports only the standard library: it starts in 20 ms and becomes the command (same pid).

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
_POLL_S = 0.5  # how often the watcher looks whether the command still runs, seconds
_NOT_STARTED = 127  # exit code of a shell for a command that can't be started


def main(arguments: list[str]) -> None:
    """Arrange that the command is killed with the parent, then become the command."""
    mode, parent, pipe, *command = arguments
    if mode == "signal":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    else:
        _watch(int(pipe))
    if os.getppid() != int(parent):  # the parent ended before the line above took effect
        sys.exit(_NOT_STARTED)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"can't start {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(_NOT_STARTED)


def _watch(pipe: int) -> None:
    """Fork a watcher process that kills the command when the pipe closes."""
    os.set_inheritable(pipe, False)  # the command does not inherit it
    command = os.getpid()
    if os.fork():
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # otherwise readers of the command's output would wait for the watcher
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
