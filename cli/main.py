"""The `thalamus` command: runs a subcommand and turns its errors into exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

import click

from cli.errors import EXIT_FAILED, EXIT_USAGE, CommandError
from cli.text import check_input, prepare_output
from services.shared.process.config import ConfigError
from services.shared.version import VERSION

_COMMANDS = {
    "dev": "Start the whole platform on this machine and follow its logs.",
    "token": "Mint a token for a user.",
    "users": "Create, invite, find, change, disable and delete users.",
    "api-key": "Create, list and revoke the keys of backends.",
    "keys": "Rotate, list and retire the keys that sign tokens.",
    "publish": "Publish to a channel.",
    "subscribe": "Follow channels until Ctrl-C.",
    "history": "Read what a channel kept.",
    "presence": "Show who is in a channel.",
    "connections": "Show who is connected, and where.",
    "events": "Follow committed publications and lifecycle events.",
    "secrets": "Make and rotate the secret files of a deployment.",
    "certs": "Make a certificate for development, or those of services.",
    "store": "Make the tables of DynamoDB; set a restored log right.",
    "deploy": "Make what Thalamus keeps in AWS, or remove it.",
    "chat": "Compare what is kept of conversations with their logs.",
    "archive": "Show and check what is archived, or bring it back.",
    "retention": "Show for how long publications are kept.",
    "erasures": "List what is deleted and not erased everywhere yet.",
    "push": "List, replay and drop notifications that were not taken.",
    "dlq": "List, replay and drop what no worker could store.",
    "webhooks": "List, replay and drop what backends did not take.",
    "verify": "Check that a stack delivers what it acknowledges.",
}
_HYPHENS = "an argument that begins with - goes last, after --"
_INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it


class _LateGroup(click.Group):
    """Command group that imports a subcommand's module only when it is used.

    `publish` need not load what `dev` needs.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"cli.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        _explain_hyphens(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LateGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, message="thalamus %(version)s")
def thalamus() -> None:
    """Realtime channels with presence, history and recovery, run by yourself.

    Exit codes: 0 done, 1 refused or failed, 2 wrong usage or configuration, 3 nobody answered.
    """


def _explain_hyphens(command: click.Command) -> None:
    """Say in the help of each command how to give it what begins with a hyphen."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _explain_hyphens(each)
    elif _takes_text(command):
        command.epilog = f"{_HYPHENS.capitalize()}."


def _takes_text(command: click.Command) -> bool:
    """Return whether the command has an argument that may be any text."""
    arguments = (param for param in command.params if isinstance(param, click.Argument))
    return any(isinstance(argument.type, click.types.StringParamType) for argument in arguments)


def main() -> NoReturn:
    """Run the command line and exit."""
    prepare_output()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line and return the exit code."""
    try:
        check_input(arguments, os.environ)
        result = thalamus.main(arguments, prog_name="thalamus", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "thalamus"
        variable = getattr(getattr(error, "param", None), "envvar", None)
        also = f"; also set by {variable}" if variable else ""
        if isinstance(error, click.NoSuchOption) and error.ctx and _takes_text(error.ctx.command):
            also += f"; {_HYPHENS}"
        return _complain(f"{error.format_message().rstrip('.')} (see {where} --help{also})", EXIT_USAGE)
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except ConfigError as error:
        return _complain(str(error), EXIT_USAGE)
    except CommandError as error:
        return _complain(str(error), error.exit_code)
    except BrokenPipeError:  # `thalamus history … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:  # an unexpected error of a file or of the output, such as a full disk
        return _complain(f"{error.filename or 'output'}: {error.strerror or error}", EXIT_FAILED)


def _complain(text: str, exit_code: int) -> int:
    print(f"thalamus: {' '.join(text.split())}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    main()
