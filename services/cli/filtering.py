"""The options that say which tasks are meant, the same for every command that has them.

The one rule: what is right of a value is the api's to say; what was typed is passed on as it is.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])  # Any: a command, whatever its parameters

_HELP: Final[Mapping[str, str]] = {
    "kind": "Only these: image or speech.",
    "status": "Only these, such as RUNNING; several with commas between them.",
    "tag": "Only with this tag.",
    "user": "Only this user's.",
    "tenant": "Only this tenant's.",
    "backend": "Only where this GPU made the last attempt.",
    "model": "Only where this model was asked for.",
    "error": "Only what ended with this code.",
    "priority": "Only with this priority.",
    "batch": "Only those that were submitted together under this id.",
    "submitted-after": "Only what was submitted then or later, as 2026-11-24T09:00:00Z.",
    "submitted-before": "Only what was submitted earlier.",
    "finished-after": "Only what ended then or later.",
    "finished-before": "Only what ended earlier.",
    "text": 'Only with these words in the prompt; "a phrase" in quotes, snow* for what begins so.',
}
MEMBERS: Final = tuple(name.replace("-", "_") for name in _HELP)


def filtered(command: F) -> F:
    """Give a command the options of a filter."""
    for name, text in reversed([*_HELP.items()]):
        command = click.option(f"--{name}", help=text)(command)
    return command


def given(flags: Mapping[str, Any]) -> dict[str, str]:  # Any: as click gives them
    """Take from what was typed the members of a filter, as the api calls them."""
    return {name: flags[name] for name in MEMBERS if flags.get(name) is not None}
