"""Errors that end a command: one line for people, an exit code for scripts."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3


class CommandError(Exception):
    """Ends the command. The text is one line: what is wrong and what to do about it."""

    exit_code = EXIT_FAILED


class Refused(CommandError):
    """The other side answered with a refusal, or the work failed."""


class WrongUsage(CommandError):
    """An argument, option, variable or file is wrong. Nothing was done."""

    exit_code = EXIT_USAGE


class Unreachable(CommandError):
    """Nobody answered, or not in time."""

    exit_code = EXIT_UNREACHABLE
