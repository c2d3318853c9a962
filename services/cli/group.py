"""The group of all commands: what there is, in which order, and how a mistake is told.

The one rule: it is there in every process, so it imports click and what is pure; a command of the user's
side is imported when it is named.
"""

import difflib
import importlib
import sys
from typing import Any, Final

import click

from services.cli.failures import Exit

_USERS: Final = {
    "submit": "services.cli.submission",
    "watch": "services.cli.commands",
    "get": "services.cli.commands",
    "history": "services.cli.commands",
    "batch": "services.cli.commands",
    "cancel": "services.cli.actions",
    "erase": "services.cli.actions",
    "tasks": "services.cli.commands",
    "counts": "services.cli.commands",
    "dead": "services.cli.actions",
    "replay": "services.cli.actions",
    "redrive": "services.cli.actions",
    "queues": "services.cli.commands",
    "pause": "services.cli.fleet",
    "resume": "services.cli.fleet",
    "backends": "services.cli.fleet",
    "top": "services.cli.commands",
    "simulate": "services.cli.simulate",
}
_HERE: Final = ("backup", "restore", "rebuild", "doctor", "config", "completion")
EPILOG: Final = """\b
Exit codes:
  0    done
  1    a task failed, was cancelled or expired; doctor found something;
       a process could not start
  2    wrong usage, or a file that is not there, not whole or cannot be written
  3    refused by the api, or by NATS, which says why
  4    the api, or NATS, cannot be reached, or can do nothing just now: try again
  130  interrupted by Ctrl-C; a task that was submitted goes on
"""


class Commands(click.Group):
    """Imports a command of the user's side when it is asked for, and ends every mistake with one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = [name for name in super().list_commands(ctx) if name not in _HERE]
        return [*_USERS, *_HERE, *own]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _USERS:
            return super().get_command(ctx, cmd_name)
        found: click.Command = getattr(importlib.import_module(_USERS[cmd_name]), cmd_name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not (name.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, name)):
            close = difflib.get_close_matches(name, self.list_commands(ctx), 1)
            ctx.fail(f"no command is called {name!r}{f', did you mean {close[0]!r}?' if close else ''}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List what users type first, what keeps it running after that."""
        users = (*_USERS, *_HERE)
        processes = [name for name in self.list_commands(ctx) if name not in users]
        for title, names in (("Commands", users), ("Processes", processes)):
            with formatter.section(title):
                formatter.write_dl([(name, self._help(ctx, name)) for name in names])

    def main(self, *args: Any, **extra: Any) -> Any:  # Any: as click has it
        if not extra.pop("standalone_mode", True):
            return self._main(*args, **extra)
        try:
            code = self._main(*args, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            click.echo(f"taskfold: {_complaint(error)}", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(Exit.INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)

    def _main(self, *args: Any, **extra: Any) -> Any:  # Any: as click has it
        return super().main(*args, **extra, standalone_mode=False)  # type: ignore[call-overload]  # as given

    def _help(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return command.get_short_help_str(limit=100) if command else ""


def _complaint(error: click.ClickException) -> str:
    """Say on one line what is wrong, and where to read on."""
    text = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{text}; see `{context.command_path} --help`" if context else text
