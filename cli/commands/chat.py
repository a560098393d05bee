"""`thalamus chat`: compares what is kept of conversations with their logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cli.errors import EXIT_FAILED, EXIT_OK, Refused, Unreachable, WrongUsage
from cli.options import data_option, find_persistence, json_option, persistence_options
from cli.output import printable, remark, say, say_json
from cli.service_rpc import ServiceRpc
from services.shared.errors import ErrorCode
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.chat.v1.chat_pb2_grpc import ChatServiceStub

_DEADLINE_S = 600.0  # one conversation may have a million messages
_channels = click.argument("channels", nargs=-1, metavar="[CHANNEL]...")
_all = click.option("--all", "every", is_flag=True, help="All conversations of the namespace.")
_namespace = click.option("--namespace", default="conv", show_default=True, help="With --all: the namespace.")


@click.group("chat")
def command() -> None:
    """Compare what is kept of conversations with their logs, or make it again.

    Lists, members and changed messages are kept so that nobody has to read a whole log. All of it follows from the log.
    """


@command.command("check")
@_channels
@_all
@_namespace
@data_option
@persistence_options
@json_option
def check(
    channels: tuple[str, ...],
    every: bool,
    namespace: str,
    data: Path,
    persistence: str | None,
    service_token_file: Path | None,
    as_json: bool,
) -> int:
    """Compare conversations with their logs; exit code 1 if any differs.

    Reads each log as a whole.
    """
    wrong = 0
    with _chat(data, persistence, service_token_file) as chat:
        for answer in chat.each("upkeep.check", channels, every, namespace):
            differences = answer["differences"]
            wrong += bool(differences)
            if as_json:
                say_json(answer)
                continue
            say(f"{answer['channel']}  {'differs' if differences else 'right'} at {answer['offset']}")
            for one in differences:
                say(f"  {printable(one)}")
    remark(f"{wrong} differ")
    return EXIT_FAILED if wrong else EXIT_OK


@command.command("rebuild")
@_channels
@_all
@_namespace
@data_option
@persistence_options
@json_option
def rebuild(
    channels: tuple[str, ...],
    every: bool,
    namespace: str,
    data: Path,
    persistence: str | None,
    service_token_file: Path | None,
    as_json: bool,
) -> None:
    """Make what is kept of conversations again; they may be in use."""
    with _chat(data, persistence, service_token_file) as chat:
        for answer in chat.each("upkeep.rebuild", channels, every, namespace):
            say_json(answer) if as_json else say(f"{answer['channel']}  made again at {answer['offset']}")


class _Chat(ServiceRpc):
    """A connection to persistence."""

    def each(self, method: str, channels: tuple[str, ...], every: bool, namespace: str) -> Iterator[dict[str, Any]]:
        """Call a method for each conversation; yield the answers."""
        if every == bool(channels):
            raise WrongUsage("name conversations, or give --all")
        for channel in self._all(namespace) if every else channels:
            answer = self._ask(method, {"channel": channel}, may_be_absent=every)
            if answer is not None:
                yield answer

    def _all(self, namespace: str) -> Iterator[str]:
        """Yield the channels of all conversations, and perhaps of others."""
        cursor = ""
        while True:
            answer = self._ask("upkeep.channels", {"namespace": namespace, "cursor": cursor}) or {}
            yield from answer["channels"]
            cursor = answer["cursor"]
            if not cursor:
                return

    def _ask(self, method: str, params: dict[str, Any], *, may_be_absent: bool = False) -> dict[str, Any] | None:
        """Call a method; return None if there is no such conversation, and may be none."""
        request = pb.CallRequest(method=method, params=json.dumps(params).encode())
        response = self.call(ChatServiceStub(self.channel).Call, request, _DEADLINE_S)
        refusal = response.refusal
        if not response.HasField("refusal"):
            answer: dict[str, Any] = json.loads(response.result)
            return answer
        if may_be_absent and refusal.why == "no_conversation":
            return None
        text = f"{params.get('channel', method)}: {refusal.text or refusal.why}"
        raise Unreachable(text) if refusal.code == ErrorCode.INTERNAL else Refused(text)


def _chat(data: Path, persistence: str | None, service_token_file: Path | None) -> _Chat:
    found = find_persistence(data, persistence, service_token_file)
    return _Chat("persistence", found.address, found.service_token_file, found.tls)
