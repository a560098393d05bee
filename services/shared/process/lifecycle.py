"""Runs a service from process start to exit code: event loop, signals, errors."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from services.shared.process.config import ConfigError

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_CONFIG = 2


def run(main: Callable[[asyncio.Event], Awaitable[None]], service: str, *, has_parent: bool = False) -> None:
    """Run `main` on uvloop until it returns, and handle signals and errors.

    SIGTERM or SIGINT sets the event that `main` is given; a second one cancels `main`.

    Ends the process with code 2 and one line on stderr after a `ConfigError`, with 1 after any other failure.

    Args:
        main: The service.
        service: Its name.
        has_parent: One of our own processes started this one. The text of a `ConfigError` then goes to stdout, where
            the parent reads it. A second signal does not cancel `main`: the parent passes on signals that this process
            may have got as well, and kills it if necessary.
    """
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_supervise(main, has_parent=has_parent))
    except ConfigError as error:
        _refuse(service, error, has_parent=has_parent)
    except ExceptionGroup as group:  # raised inside a TaskGroup
        if (wrong := _first(group, ConfigError)) is not None:
            _refuse(service, wrong, has_parent=has_parent)
        logger.critical("failed", exc_info=group)
        sys.exit(EXIT_FAILED)
    except Exception as error:
        logger.critical("failed", exc_info=error)
        sys.exit(EXIT_FAILED)


async def until_stopped(stopping: asyncio.Event, *tasks: asyncio.Task[Any]) -> None:
    """Wait until `stopping` is set or a task ends, and raise what that ended with."""
    stopped = asyncio.create_task(stopping.wait())
    try:
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopped}:
            await task
    finally:
        stopped.cancel()


async def _supervise(main: Callable[[asyncio.Event], Awaitable[None]], *, has_parent: bool) -> None:
    stop = asyncio.Event()
    task = asyncio.ensure_future(main(stop))
    loop = asyncio.get_running_loop()

    def asked_to_stop(name: str) -> None:
        if stop.is_set() and has_parent:
            return
        if stop.is_set():
            logger.warning("asked to stop twice: stopping at once", extra={"signal": name})
            task.cancel()
        else:
            logger.info("asked to stop", extra={"signal": name})
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop, number.name)
    try:
        await task
    except asyncio.CancelledError:
        if not stop.is_set():
            raise


def _first(group: BaseExceptionGroup[BaseException], kind: type[ConfigError]) -> ConfigError | None:
    for error in group.exceptions:
        if isinstance(error, kind):
            return error
        if isinstance(error, BaseExceptionGroup) and (found := _first(error, kind)) is not None:
            return found
    return None


def _refuse(service: str, error: ConfigError, *, has_parent: bool) -> None:
    if has_parent:
        print(error, flush=True)
    else:
        print(f"thalamus {service}: {error}", file=sys.stderr)
    sys.exit(EXIT_CONFIG)
