"""What every command of the user's side does alike: its address, its loop, its end.

The one rule: nothing here imports the client or the display; a command does, once it runs.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn, TypeVar

import click

from services.cli.failures import EndError, Exit

DEFAULT_URL: Final = "http://127.0.0.1:8080"
F = TypeVar("F", bound=Callable[..., Any])  # Any: a command, whatever its parameters

url = click.option(
    "--url",
    envvar="TASKFOLD_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    help="Address of the api.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, as the api gives it.")


def addressed(command: F) -> F:
    """Give a command the options that all have."""
    return url(as_json(command))


def run(job: Coroutine[None, None, Exit | None]) -> NoReturn:
    """Run a command to its end and leave with its exit code."""
    try:
        code = asyncio.run(job) or Exit.DONE
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except (EndError, BrokenPipeError, BaseExceptionGroup) as error:
        code = ended(error)
    raise SystemExit(int(code))


def ended(error: BaseException) -> Exit:
    """Tell why a command ended early; one whose reader has left ends silently."""
    first = _first(error)
    if isinstance(first, BrokenPipeError):
        # Else the interpreter complains when it flushes what nobody reads.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.PIPE
    if not isinstance(first, EndError):
        raise error
    say(str(first))
    return first.exit_code


def say(line: str) -> None:
    """Tell the person at the terminal something that is no result."""
    click.echo(f"taskfold: {line}", err=True)


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
