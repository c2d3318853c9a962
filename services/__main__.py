"""The command line: ``taskfold``, or ``python -m services``.

The one rule: a process is imported only by its own command, so that none pays for another. What users type
is in ``services.cli``, of which only the command's own module is imported, and only when it is named.
"""

import asyncio
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from services import process
from services.cli.group import EPILOG, Commands
from services.settings import Settings, masked, meaning, sources

_DEFAULT_FILE = Path("taskfold.toml")


def _remember(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.meta["config"] = value


_config = click.option(
    "--config",
    type=click.Path(path_type=Path),
    expose_value=False,
    callback=_remember,
    help="Read settings from this TOML file; else from $TASKFOLD_CONFIG, else from ./taskfold.toml.",
)


def _file() -> Path | None:
    """Give the settings file: that of the command line, of the environment, of this folder, or none."""
    named: Path | None = click.get_current_context().meta.get("config")
    if named is None and (variable := os.environ.get("TASKFOLD_CONFIG")):
        named = Path(variable)
    return named or (_DEFAULT_FILE if _DEFAULT_FILE.exists() else None)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.version_option(package_name="taskfold")
@_config
def main() -> None:
    """Taskfold queues work for your GPUs, runs it, and tells its story as events."""


@main.command()
@_config
def up() -> None:
    """Run everything on this machine, with simulated GPUs for a kind that has no url."""
    config = _file()
    settings = process.effective_settings(config)
    from services.up.main import serve  # noqa: PLC0415 - see the rule

    process.run("up", functools.partial(serve, config=config), settings)


@main.command()
@_config
def init() -> None:
    """Make the NATS server ready: streams, buckets and the registry of GPUs."""
    settings = process.effective_settings(_file())
    from services.init.main import serve  # noqa: PLC0415 - see the rule

    process.run("init", serve, settings)


@main.command()
@_config
def api() -> None:
    """Run the HTTP api, which accepts tasks and tells what became of them."""
    settings = process.effective_settings(_file())
    from services.api.main import serve  # noqa: PLC0415 - see the rule

    process.run("api", serve, settings)


@main.command()
@_config
def projector() -> None:
    """Run the projector, which folds events into the read model."""
    settings = process.effective_settings(_file())
    from services.projector.main import serve  # noqa: PLC0415 - see the rule

    process.run("projector", serve, settings)


@main.command()
@_config
def dispatcher() -> None:
    """Run a dispatcher, which gives waiting tasks to free GPUs; any number may run."""
    settings = process.effective_settings(_file())
    from services.dispatcher.main import serve  # noqa: PLC0415 - see the rule

    process.run("dispatcher", serve, settings)


@main.command()
@_config
@click.argument(
    "profile",
    type=click.Choice(
        [
            "sdcpp",
            "openai",
            "a1111",
            "koboldcpp",
            "comfyui",
            "comfyui_old",
            "whisper",
            "whispercpp",
            "whisper_asr",
        ]
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen on this address.")
@click.option("--port", type=int, default=0, show_default=True, help="Listen here; 0 takes a free port.")
@click.option("--model", "models", multiple=True, help="Show this model; may be given several times.")
@click.option(
    "--step-ms", type=float, default=40.0, show_default=True, help="Mean time of a step at 512x512."
)
@click.option("--sigma", type=float, default=0.15, show_default=True, help="Spread of the step times.")
@click.option("--seed", type=int, default=0, show_default=True, help="Start of everything drawn by lot.")
@click.option(
    "--startup-s", type=float, default=0.0, show_default=True, help="Be away for so long at first."
)
@click.option(
    "--load-s", type=float, default=0.0, show_default=True, help="Take so long to load another model."
)
@click.option("--keeps", type=int, default=1, show_default=True, help="Keep so many models loaded.")
@click.option(
    "--fail-rate", type=float, default=0.0, show_default=True, help="Let this share of jobs fail."
)
@click.option("--previews/--no-previews", default=True, show_default=True, help="Show what is being drawn.")
@click.option("--api-key", help="Refuse requests without this key.")
def gpusim(**flags: Any) -> None:  # Any: as click gives them; Options says what they must be
    """Run a simulated GPU server that speaks the protocol of a real one."""
    from services.gpusim.main import serve  # noqa: PLC0415 - see the rule
    from services.gpusim.model import Options  # noqa: PLC0415 - see the rule

    try:
        options = msgspec.convert(flags, Options)
    except msgspec.ValidationError as error:
        raise click.UsageError(str(error)) from None

    async def simulate(_: Settings, stop: asyncio.Event) -> None:
        try:
            async with process.background(serve(options, lambda url: click.echo(f"listens on {url}"))):
                await stop.wait()
        except* OSError as errors:
            reason = errors.exceptions[0]
            raise process.StartError(
                f"cannot listen on {options.host} port {options.port}: {reason}"
            ) from None

    process.run("gpusim", simulate, process.effective_settings(_file()))


@main.command()
@_config
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def config(*, as_json: bool) -> None:
    """Show every effective setting, where it comes from and what it means."""
    file = _file()
    settings = process.effective_settings(file)
    origin = sources(os.environ, file)
    rows = [
        (
            field.name,
            masked(_shown(getattr(settings, field.name))),
            origin[field.name],
            meaning(field.name),
        )
        for field in msgspec.structs.fields(Settings)
    ]
    if as_json:
        click.echo(_config_json(settings, origin))
        return
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[3]]).rstrip())


def _config_json(settings: Settings, origin: Mapping[str, str]) -> str:
    """Give settings as an object; masked as a whole, which leaves it JSON."""
    document = {
        field.name: {
            "value": getattr(settings, field.name),
            "source": origin[field.name],
            "meaning": meaning(field.name),
        }
        for field in msgspec.structs.fields(Settings)
    }
    return masked(msgspec.json.encode(document).decode())


@main.command()
@_config
@click.option("--url", envvar="TASKFOLD_URL", help="Address of the api; else that of the settings.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(url: str | None, *, as_json: bool) -> None:
    """Look for what keeps Taskfold from running, and say what to do."""
    settings = process.effective_settings(_file())
    from services.cli.doctor import examine  # noqa: PLC0415 - see the rule
    from services.cli.running import run  # noqa: PLC0415 - see the rule

    run(examine(settings, url, as_json=as_json))


@main.command()
@_config
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backup(folder: Path, *, as_json: bool) -> None:
    """Save the log, artifacts and buckets of the NATS server to a new folder, while all goes on."""
    settings = process.effective_settings(_file())
    from services.cli import backup as saving  # noqa: PLC0415 - see the rule
    from services.cli.running import run  # noqa: PLC0415 - see the rule

    run(saving.backup(settings, folder, as_json=as_json))


@main.command()
@_config
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rebuild(*, as_json: bool) -> None:
    """Make the read model of every projector anew from the log, while it goes on serving."""
    settings = process.effective_settings(_file())
    from services.cli import rebuild as rebuilding  # noqa: PLC0415 - see the rule
    from services.cli.running import run  # noqa: PLC0415 - see the rule

    run(rebuilding.rebuild(settings, as_json=as_json))


@main.command()
@_config
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def restore(folder: Path, *, as_json: bool) -> None:
    """Make a NATS server that is empty what another was when it was saved."""
    settings = process.effective_settings(_file())
    from services.cli import backup as saving  # noqa: PLC0415 - see the rule
    from services.cli.running import run  # noqa: PLC0415 - see the rule

    run(saving.restore(settings, folder, as_json=as_json))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands in your shell."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - see the rule

    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(made(main, {}, "taskfold", "_TASKFOLD_COMPLETE").source())


def _shown(value: Any) -> str:  # Any: whatever a setting can be
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


if __name__ == "__main__":
    main()
