"""`thalamus dev`: runs the whole platform on this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import click

from cli.bundled import present_or_bundled
from cli.errors import EXIT_FAILED, EXIT_OK
from cli.options import DEFAULT_DATA, data_option
from cli.output import remark
from cli.stack.banner import banner
from cli.stack.environment import check_environment
from cli.stack.logs import Formatter, LogSink, Terminal
from cli.stack.run import StackSettings, api_key, describe, mint, running_stack
from cli.stack.supervisor import StartFailed, Supervisor

_USER = "dev"
_TOKEN_TTL_S = 24 * 3600
_START_TIMEOUT_S = 30.0
_MOST_EDGES = 64


@click.command("dev")
@data_option
@click.option(
    "--edges",
    envvar="EDGES",
    show_envvar=True,
    type=click.IntRange(1, _MOST_EDGES),
    default=1,
    show_default=True,
    help="How many edges.",
)
@click.option(
    "--config",
    "channels_file",
    envvar="CHANNELS_FILE",
    show_envvar=True,
    type=Path,
    help="Namespaces [config/channels.toml].",
)
@click.option(
    "--ports",
    envvar="THALAMUS_PORTS",
    show_envvar=True,
    type=click.Choice(["fixed", "auto"]),
    default="fixed",
    show_default=True,
    help="auto: any free ports, those of the last start if possible, but for those that a variable names (EDGE_PORT).",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Cut off what Redis can't read at the end of its append-only file, as after a power cut; keeps a copy.",
)
@click.option(
    "--start-timeout",
    "start_timeout_s",
    type=click.FloatRange(1.0),
    default=_START_TIMEOUT_S,
    show_default=True,
    help="Seconds until everything must be ready.",
)
def command(
    data: Path, edges: int, channels_file: Path | None, ports: str, repair: bool, start_timeout_s: float
) -> int:
    """Start the whole platform on this machine and show its logs until Ctrl-C.

    Starts Redis, auth, presence, persistence and the edges, what sends webhooks if WEBHOOKS_FILE names an endpoint,
    and the notifier if PUSH_FILE names a namespace. Every setting of a service can be given by its environment
    variable. Ports: REDIS_PORT, AUTH_GRPC_PORT, PRESENCE_GRPC_PORT, PERSISTENCE_GRPC_PORT, EDGE_PORT and
    *_INTERNAL_PORT; 0 takes any free one. A second stack on this machine needs --ports auto and a --data of its own.
    """
    check_environment(os.environ)
    settings = StackSettings(
        data=data,
        channels_file=channels_file or present_or_bundled("config/channels.toml"),
        webhooks_file=Path(os.environ.get("WEBHOOKS_FILE") or present_or_bundled("config/webhooks.toml")),
        push_file=Path(os.environ.get("PUSH_FILE") or present_or_bundled("config/push.toml")),
        environment=os.environ,
        edges=edges,
        any_free_port=ports == "auto",
        repair=repair,
        start_timeout_s=start_timeout_s,
    )
    return asyncio.run(_run(settings))


async def _run(settings: StackSettings) -> int:
    stop = asyncio.Event()
    supervisors: list[Supervisor] = []

    def asked_to_stop() -> None:
        if stop.is_set():
            for supervisor in supervisors:
                supervisor.hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked_to_stop)

    main = asyncio.ensure_future(_follow(settings, supervisors))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((main, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not main.done():
        main.cancel()  # also during the start; leaving the contexts stops everything
        with contextlib.suppress(OSError):  # the terminal may be gone
            remark("Stopping: edges, then services, then Redis. Ctrl-C again kills them.")
    stopped.cancel()
    try:
        await main
    except asyncio.CancelledError:
        return EXIT_OK
    except StartFailed as error:
        if error.tail:
            remark(f"\nThe last lines of {error.name}:")
        formatter = Formatter(colour=False)
        for line in error.tail:
            remark(formatter.format(error.name, line.encode()))
        remark(f"thalamus: {error}")
        return EXIT_FAILED
    return EXIT_OK


async def _follow(settings: StackSettings, supervisors: list[Supervisor]) -> None:
    """Start the stack, print the banner, and show log lines until cancelled."""
    started = time.monotonic()
    formatter = Formatter(colour=sys.stderr.isatty() and "NO_COLOR" not in os.environ)
    terminal = Terminal(sys.stderr)
    # Redis logs much of little use: its lines go to its file only. If it dies, that is shown as an event.
    sink = LogSink(settings.data / "logs", terminal.line, formatter, hidden=frozenset({"redis"}))

    def event(level: str, name: str, text: str) -> None:
        terminal.line(formatter.event(time.strftime("%H:%M:%S"), name, level, text))

    try:
        async with running_stack(settings, on_line=sink.line, on_event=event, on_supervisor=supervisors.append) as (
            supervisor,
            plan,
        ):
            token = await asyncio.to_thread(mint, plan, _USER, _TOKEN_TTL_S)
            text = banner(
                describe(plan, supervisor),
                token=token,
                user=_USER,
                api_key=await api_key(plan),
                data_option="" if settings.data == DEFAULT_DATA else f" --data {shlex.quote(str(settings.data))}",
                start_took_s=time.monotonic() - started,
            )
            print(text, flush=True)
            await asyncio.Event().wait()
    finally:
        terminal.close()
        sink.close()
