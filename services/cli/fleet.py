"""The commands on backends and queues, as click sees them.

The one rule: what may be said of a backend is the api's to say; here is only what it is called on
a command line.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
import msgspec

from services.cli.running import addressed, run

F = TypeVar("F", bound=Callable[..., Any])  # Any: a command, whatever its parameters
Json = dict[str, Any]  # Any: JSON of the api

_name = click.argument("name")


def _models(_: click.Context, __: click.Parameter, text: str | None) -> list[str] | None:
    return None if text is None else [name for name in text.split(",") if name]


def _labels(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, str] | None:
    if wrong := next((text for text in texts if text.find("=") < 1), None):
        raise click.BadParameter(f"NAME=VALUE is wanted, not {wrong!r}")
    return {name: value for name, _, value in (text.partition("=") for text in texts)} or None


def _workflow(_: click.Context, __: click.Parameter, path: str | None) -> Json | None:
    if path is None:
        return None
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError), open(path, "rb") as file:  # noqa: PTH123 - no other import is worth it
        return msgspec.json.decode(file.read(), type=dict[str, Any])
    raise click.BadParameter(f"{path!r} is no file that can be read and holds a JSON object")


_MEMBERS: Final = (
    click.option("--protocol", help="What it speaks; none: it is recognised."),
    click.option("--models", metavar="A,B", callback=_models, help="Its models; alias=own renames one."),
    click.option("--slots", type=int, help="Requests that it serves at once."),
    click.option("--keeps", type=int, help="Models that it holds loaded at once."),
    click.option("--weight", type=float, help="How much of the work it is given, 1 unless told."),
    click.option(
        "--label", "labels", metavar="K=V", multiple=True, callback=_labels, help="A mark of yours."
    ),
    click.option("--api-key", help="What it wants to be told with each request."),
    click.option(
        "--disconnect-cancels/--no-disconnect-cancels", default=None, help="Hanging up stops its work."
    ),
    click.option("--workflow", metavar="FILE", callback=_workflow, help="What a ComfyUI is given."),
)
_kind = click.option("--kind", default="image", show_default=True, help="image or speech.")


def _members(command: F) -> F:
    for option in reversed(_MEMBERS):
        command = option(command)
    return addressed(command)


def _said(members: Json) -> Json:
    return {name: value for name, value in members.items() if value is not None}


@click.group(invoke_without_command=True)
@click.pass_context
@addressed
def backends(context: click.Context, url: str, *, as_json: bool) -> None:
    """List the GPUs and how busy they are, or add, change and remove them."""
    if context.invoked_subcommand is None:
        from services.cli import lists  # noqa: PLC0415 - so that --help is quick

        run(lists.backends(url, as_json=as_json))
    for name in ("url", "as_json"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            context.fail(f"--url and --json come after {context.invoked_subcommand}")


@backends.command()
@_name
@click.argument("address", metavar="URL")
@_kind
@_members
def add(name: str, address: str, kind: str, url: str, *, as_json: bool, **members: Any) -> None:
    """Add a GPU; URL as in IMAGE_GEN_URL_1."""  # Any: as click reads them
    from services.cli import operating  # noqa: PLC0415 - so that --help is quick

    body = {"name": name, "url": address, "kind": kind, **_said(members)}
    run(operating.add(url, body, as_json=as_json))


@backends.command("set")
@_name
@click.option("--address", metavar="URL", help="Where it is now.")
@_members
def change(name: str, address: str | None, url: str, *, as_json: bool, **members: Any) -> None:
    """Change a GPU; --label K= takes a label away."""  # Any: as click reads them
    from services.cli import operating  # noqa: PLC0415 - so that --help is quick

    body = _said({"url": address, **members})
    if not body:
        raise click.UsageError("say what to change")
    run(operating.change(url, name, body, as_json=as_json))


@backends.command()
@_name
@click.option("--wait", is_flag=True, help="Until nothing runs there.")
@addressed
def drain(name: str, url: str, *, wait: bool, as_json: bool) -> None:
    """Give a GPU nothing new, and let what runs there end."""
    from services.cli import operating  # noqa: PLC0415 - so that --help is quick

    run(operating.drain(url, name, wait=wait, as_json=as_json))


@backends.command()
@_name
@addressed
def on(name: str, url: str, *, as_json: bool) -> None:
    """Give a GPU work."""
    from services.cli import operating  # noqa: PLC0415 - so that --help is quick

    run(operating.change(url, name, {"wanted": "on"}, as_json=as_json))


@backends.command()
@_name
@addressed
def off(name: str, url: str, *, as_json: bool) -> None:
    """Give a GPU nothing new, and count its models no more."""
    from services.cli import operating  # noqa: PLC0415 - so that --help is quick

    run(operating.change(url, name, {"wanted": "off"}, as_json=as_json))


@backends.command()
@_name
@addressed
def remove(name: str, url: str, *, as_json: bool) -> None:
    """Forget a GPU that is drained or off."""
    from services.cli import operating  # noqa: PLC0415 - so that --help is quick

    run(operating.remove(url, name, as_json=as_json))


@backends.command()
@_name
@click.argument("address", metavar="URL")
@_kind
@click.option("--ttl", "ttl_s", type=float, default=30.0, show_default=True, help="Seconds, 5 to 3600.")
@_members
def announce(
    name: str, address: str, kind: str, ttl_s: float, url: str, *, as_json: bool, **members: Any
) -> None:
    """Add a GPU for as long as this command runs; then it is drained and removed."""  # Any: see add
    from services.cli import announcing  # noqa: PLC0415 - so that --help is quick

    body = {"name": name, "url": address, "kind": kind, "ttl_s": ttl_s, **_said(members)}
    run(announcing.announce(url, body, as_json=as_json))


@click.command()
@click.argument("kind")
@click.option("--model", help="Only this model's queue; any: what names no model.")
@click.option("--reason", help="Why; it is shown with the queue.")
@addressed
def pause(kind: str, url: str, *, as_json: bool, **body: str | None) -> None:
    """Start nothing of a kind until it is resumed; what runs goes on."""
    from services.cli import operating  # noqa: PLC0415 - so that --help is quick

    run(operating.hold(url, kind, "pause", _said(body), as_json=as_json))


@click.command()
@click.argument("kind")
@click.option("--model", help="Only this model's queue.")
@addressed
def resume(kind: str, url: str, *, as_json: bool, **body: str | None) -> None:
    """Take back a pause."""
    from services.cli import operating  # noqa: PLC0415 - so that --help is quick

    run(operating.hold(url, kind, "resume", _said(body), as_json=as_json))
