"""Ids and other texts that begin with a hyphen, given to every command.

Auth mints no such id any more, but there are some, and other login servers may make theirs.
"""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from cli.main import run, thalamus

ID = "-zcCwlh"  # like an option: a cluster of short ones


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all commands that do something, such as `("keys", "retire")`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def found(path: tuple[str, ...]) -> click.Command:
    command: click.Command | None = thalamus
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None
    return command


def texts(path: tuple[str, ...], kind: type[click.Parameter]) -> list[click.Parameter]:
    """The arguments, or the options, of a command that take any text."""
    taken = [param for param in found(path).params if isinstance(param, kind)]
    return [param for param in taken if isinstance(param.type, click.types.StringParamType)]


COMMANDS = list(commands(thalamus))
WITH_ARGUMENTS = [path for path in COMMANDS if texts(path, click.Argument)]
OPTIONS = [(path, option) for path in COMMANDS for option in texts(path, click.Option)]


def parsed(path: tuple[str, ...], *arguments: str) -> dict[str, object]:
    """What the command would be called with; options that it demands are given."""
    command = found(path)
    demanded = [
        word
        for param in command.params
        if isinstance(param, click.Option) and param.required and param.opts[0] not in arguments
        for word in (param.opts[0], "x")
    ]
    return command.make_context(path[-1], [*demanded, *arguments]).params


def test_the_commands_that_take_ids_are_among_those_tested() -> None:
    for path in (("keys", "retire"), ("api-key", "revoke"), ("users", "uninvite"), ("users", "get"), ("history",)):
        assert path in WITH_ARGUMENTS
    options = {(path, option.opts[0]) for path, option in OPTIONS}
    for verb in ("get", "update", "password", "disable", "enable", "delete"):
        assert (("users", verb), "--id") in options
    for path in (("token",), ("connections",), ("subscribe",), ("users", "create")):
        assert (path, "--user") in options


@pytest.mark.parametrize("path", WITH_ARGUMENTS, ids=" ".join)
def test_every_argument_may_begin_with_a_hyphen_after_two_hyphens(path: tuple[str, ...]) -> None:
    arguments = texts(path, click.Argument)
    values = [f"{ID}{number}" for number in range(len(arguments))]
    taken = parsed(path, "--", *values)
    for argument, value in zip(arguments, values, strict=True):
        assert argument.name is not None
        assert taken[argument.name] == ((value,) if argument.nargs == -1 else value)


@pytest.mark.parametrize(
    ("path", "option"), OPTIONS, ids=[" ".join((*path, option.opts[0])) for path, option in OPTIONS]
)
def test_every_option_takes_a_value_that_begins_with_a_hyphen(path: tuple[str, ...], option: click.Option) -> None:
    assert option.name is not None
    arguments = [param for param in found(path).params if isinstance(param, click.Argument)]
    given = [next(iter(getattr(argument.type, "choices", [ID]))) for argument in arguments]
    for words in ((option.opts[0], ID), (f"{option.opts[0]}={ID}",)):
        assert parsed(path, *words, "--", *given)[option.name] == ((ID,) if option.multiple else ID)


@pytest.mark.parametrize("path", WITH_ARGUMENTS, ids=" ".join)
def test_who_forgets_the_two_hyphens_is_told_of_them(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*path, ID]) == 2
    assert "goes last, after --" in capsys.readouterr().err
    assert run([*path, "--help"]) == 0
    assert "goes last, after --" in capsys.readouterr().out


def test_other_commands_say_nothing_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["connections", ID]) == 2
    assert "after --" not in capsys.readouterr().err
