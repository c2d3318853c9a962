"""``taskfold submit``, as click sees it.

The one rule: what is right of a request is the api's to say; here is only what it is called on
a command line.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
import msgspec

from services.cli.running import addressed, run

F = TypeVar("F", bound=Callable[..., Any])  # Any: a command, whatever its parameters


def _an_object(_: click.Context, __: click.Parameter, text: str | None) -> dict[str, Any] | None:
    """Read a JSON object."""  # Any: the user's own JSON
    try:
        return None if text is None else msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        raise click.BadParameter("""a JSON object is wanted, such as '{"order": 7}'""") from None


_COMMONS: Final = (
    click.option("--model", help="Model to run it; none: any."),
    click.option(
        "--priority", type=click.Choice(["high", "normal", "low"]), help="Before or after others."
    ),
    click.option("--delay-s", type=float, help="Start so many seconds from now at the earliest."),
    click.option("--not-before", help="Start then at the earliest, as 2026-12-24T18:00:00Z."),
    click.option("--start-deadline-s", type=float, help="Expire if not started by then."),
    click.option("--deadline-s", type=float, help="Expire if not finished by then."),
    click.option("--run-timeout-s", type=float, help="Longest time of one attempt."),
    click.option("--max-attempts", type=int, help="Tries until it fails."),
    click.option("--backend", help="Run there, while that GPU is in service."),
    click.option("--user", help="Whose it is."),
    click.option("--tag", "tags", multiple=True, help="A word to find it by; may be given several times."),
    click.option(
        "--metadata", metavar="JSON", callback=_an_object, help="An object of yours to keep with it."
    ),
    click.option("--idempotency-key", "key", help="The same key and request is the same task."),
    click.option("--wait", is_flag=True, help="Wait for the end."),
    click.option("-o", "--output", metavar="FILE", help="Wait, and write the result there; - is stdout."),
)


def _commons(command: F) -> F:
    for option in reversed(_COMMONS):
        command = option(command)
    return addressed(command)


@click.group()
def submit() -> None:
    """Submit a task, and print its id."""


@submit.command()
@click.argument("prompt")
@click.option("--negative-prompt", help="What should not be in it.")
@click.option("--width", type=int, help="In pixels.")
@click.option("--height", type=int, help="In pixels.")
@click.option("--steps", type=int, help="Steps of the sampler.")
@click.option("--seed", type=int, help="The same seed gives the same picture.")
@click.option("--guidance", type=float, help="How close to the prompt.")
@click.option("--sampler", help="By the name that the GPU server has for it.")
@click.option("--n", type=int, help="So many pictures.")
@_commons
def image(prompt: str, **flags: Any) -> None:  # Any: as click gives them
    """Ask for a picture of PROMPT; - reads it from standard input."""
    from services.cli import submit as submission  # noqa: PLC0415 - see commands

    wanted = submission.taken(flags)
    run(submission.image(prompt, flags, wanted))


@submit.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--idempotency-key", "key", help="The same key and tasks are the same batch.")
@click.option("--wait", is_flag=True, help="Wait until all have ended.")
@addressed
def batch(file: str, key: str | None, url: str, *, wait: bool, as_json: bool) -> None:
    """Submit the tasks of FILE, all or none, and print the batch's id.

    FILE has a JSON object a line, or is a JSON array; - reads it from standard input.
    """
    from services.cli import batches  # noqa: PLC0415 - see commands

    run(batches.submit(url, file, key, wait=wait, as_json=as_json))


@submit.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--language", help="Of the recording, as en.")
@click.option("--prompt", help="Words that may come up.")
@click.option("--temperature", type=float, help="From 0, the surest words, to 1.")
@click.option("--translate", is_flag=True, default=None, help="Into English.")
@click.option("--word-timestamps", is_flag=True, default=None, help="Say when each word is spoken.")
@click.option(
    "--response-format",
    type=click.Choice(["json", "text", "srt", "vtt", "verbose_json"]),
    help="Form of the transcription; else by the suffix of -o.",
)
@_commons
def speech(file: str, **flags: Any) -> None:  # Any: as click gives them
    """Ask for a transcription of FILE; - reads it from standard input."""
    from services.cli import submit as submission  # noqa: PLC0415 - see commands

    wanted = submission.taken(flags)
    run(submission.speech(file, flags, wanted))
