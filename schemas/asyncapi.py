"""The AsyncAPI document: everything that goes over NATS, and which process sends and receives it.

The one rule: subjects come from ``subjects``, headers from ``envelope``, shapes from the generated schemas.
"""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from schemas import envelope, previews, subjects
from schemas.events import TOKENS, TaskEvent
from schemas.ids import TaskId
from schemas.subjects import Address, Lane

Json = dict[str, Any]  # Any: JSON

_FORMAT: Final = "application/schema+json;version=draft-2020-12"
_API: Final = ("scheduled", "submitted", "cancelled", "expired")
_DISPATCHER: Final = ("started", "attached", "attempt_failed", "requeued", "done", "failed", "expired")
_WAKES: Final = ("submitted", "cancelled", "expired")
_ALL: Final = tuple(TOKENS.values())
OPERATIONS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("api", "send"): (*_API, "schedule", "suspect"),
    ("api", "receive"): ("applied", "preview"),
    ("dispatcher", "send"): (*_DISPATCHER, "progress", "preview"),
    ("dispatcher", "receive"): ("submitted", *(f"wake_{token}" for token in _WAKES)),
    ("projector", "send"): ("applied",),
    ("projector", "receive"): (*_ALL, "progress", "suspect"),
}
"""Which process sends and receives on which channel."""

PARAMETERS: Final = {
    "kind": "what is made: image or speech",
    "model": "the slug of the model asked for, `any` when none was named",
    "priority": "high, normal or low",
    "lane": "the number of one of the tenant's two lanes",
    "id": "the task's id, a UUID in lower case",
}
_PARAMETER: Final = re.compile(r"{(\w+)}")


def document() -> Json:
    """Describe everything that goes over NATS, and who sends and receives it."""
    channels = _channels()
    return {
        "asyncapi": "3.1.0",
        "id": "urn:taskfold",
        "info": {
            "title": "Taskfold",
            "version": "1",
            "description": "The events of tasks and the hints between processes, as they go over NATS.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "{host}:{port}",
                "protocol": "nats",
                "variables": {"host": {"default": "127.0.0.1"}, "port": {"default": "4222"}},
            }
        },
        "channels": {name: _channel(*channel) for name, channel in channels.items()},
        "operations": dict(_operations(channels)),
        "components": {
            "messages": _messages(),
            "parameters": {name: {"description": text} for name, text in PARAMETERS.items()},
            "schemas": {"CloudEvent": _cloud_event()},
        },
    }


def _channels() -> dict[str, tuple[str, str, str]]:
    """Name every channel: its address, its one message, what it is for."""
    lane = Lane("{kind}", "{model}", "{priority}", 0)
    address = Address(lane, TaskId("{id}"))
    stored = {
        token: (
            address.subject(event).replace(".0.", ".{lane}."),
            token,
            f"Stream {subjects.TASKS}: part of a task's history.",
        )
        for event, token in TOKENS.items()
    }
    wakes = {
        f"wake_{token}": (
            f"wake.{stored[token][0].removeprefix('task.')}",
            f"wake_{token}",
            "Core NATS: the headers of what was just stored. A hint that may be lost.",
        )
        for token in _WAKES
    }
    return {
        **stored,
        **wakes,
        "schedule": (
            subjects.schedule_subject(TaskId("{id}")),
            "submitted",
            f"Stream {subjects.TASKS}: what the server stores as `submitted` once its time has come.",
        ),
        "progress": (
            subjects.progress_subject(TaskId("{id}")),
            "progress",
            f"Stream {subjects.PROGRESS}: how far a running attempt is, the latest only.",
        ),
        "preview": (
            subjects.preview_subject(TaskId("{id}")),
            "preview",
            f"Stream {subjects.PROGRESS}: how its picture looks so far, the latest only.",
        ),
        "applied": (subjects.APPLIED, "hint", "Core NATS: the projector has committed; look."),
        "suspect": (subjects.SUSPECT, "hint", "Core NATS: the read model's file could not be read."),
    }


def _channel(address: str, message: str, description: str) -> Json:
    names = _PARAMETER.findall(address)
    parameters = {name: {"$ref": f"#/components/parameters/{name}"} for name in names}
    return {
        "address": address,
        "description": description,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        **({"parameters": parameters} if parameters else {}),
    }


def _operations(channels: Mapping[str, tuple[str, str, str]]) -> Iterable[tuple[str, Json]]:
    for (process, action), names in OPERATIONS.items():
        for name in names:
            channel = f"#/channels/{name}"
            yield (
                f"{process}.{action}.{name}",
                {
                    "action": action,
                    "channel": {"$ref": channel},
                    "messages": [{"$ref": f"{channel}/messages/{channels[name][1]}"}],
                    "tags": [{"name": process}],
                },
            )


def _messages() -> Json:
    events = {token: _event_message(event, token) for event, token in TOKENS.items()}
    return {
        **events,
        **{f"wake_{token}": _wake_message(events[token]) for token in _WAKES},
        "progress": {
            "name": "taskfold.progress.v1",
            "payload": _payload("./progress.v1.json"),
        },
        "preview": {
            "name": "taskfold.preview",
            "summary": f"A JPEG, PNG or WebP, of {previews.MAX_BYTES // 1024} KiB at most.",
            "contentType": "image/*",
            "headers": {
                "type": "object",
                "properties": {
                    previews.ATTEMPT: {
                        "type": "string",
                        "pattern": "^[0-9]+$",
                        "description": "the attempt",
                    }
                },
                "required": [previews.ATTEMPT],
            },
        },
        "hint": {"name": "taskfold.hint", "summary": "Empty; that it comes is all it says."},
    }


def _event_message(event: type[TaskEvent], token: str) -> Json:
    described = inspect.cleandoc(event.__doc__) if event.__doc__ else None
    return {
        "name": envelope.event_type(event),
        "headers": {
            "allOf": [
                {"$ref": "#/components/schemas/CloudEvent"},
                {"properties": {envelope.EVENT_TYPE: {"const": envelope.event_type(event)}}},
            ]
        },
        "payload": _payload(f"./events/{token}.v1.json"),
        **({"summary": described} if described else {}),
    }


def _wake_message(stored: Json) -> Json:
    return {"name": stored["name"], "summary": "Headers only.", "headers": stored["headers"]}


def _payload(reference: str) -> Json:
    return {"schemaFormat": _FORMAT, "schema": {"$ref": reference}}


def _cloud_event() -> Json:
    """Describe the headers of every event: CloudEvents 1.0 in binary mode, and JetStream's."""
    text: Json = {"type": "string"}
    required = {
        "ce-specversion": {"const": "1.0"},
        envelope.EVENT_ID: {**text, "description": "new for each append, kept when that is repeated"},
        envelope.EVENT_TYPE: text,
        "ce-source": {**text, "description": "the process that appended it"},
        "ce-subject": {**text, "format": "uuid", "description": PARAMETERS["id"]},
        "ce-time": {**text, "format": "date-time"},
        "ce-datacontenttype": {"const": "application/json"},
        envelope.MSG_ID: {**text, "description": f"the same as {envelope.EVENT_ID}"},
    }
    optional = {
        envelope.EXPECTED_SEQUENCE: {**text, "pattern": "^[0-9]+$"},
        envelope.EXPECTED_SUBJECT: {**text, "description": "the task's guard"},
        envelope.SCHEDULER: {**text, "description": "the schedule that stored it, or that it removes"},
        envelope.TRACEPARENT: text,
    }
    return {"type": "object", "properties": {**required, **optional}, "required": sorted(required)}
