"""The description of the api, OpenAPI 3.1, as Litestar sees the routes and as these tables say the rest.

The one rule: bodies, documents and codes come from the structs that check and make them. Handlers read
raw bytes, so what Litestar cannot see of them stands here, beside the name of each operation.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.routes import HTTPRoute
from msgspec import Struct

from schemas import batches, filters, registering, views
from schemas.counts import Counts
from schemas.errors import Code
from schemas.event_filters import TYPES
from schemas.intake import MAX_TOGETHER, Common
from schemas.problems import HTTP_STATUS, Problem
from schemas.requests import ImageRequest, Kind, Priority, SpeechRequest
from schemas.standing import Standing
from services.api import past, shown_fleet, uploaded
from services.api.answer import READ
from services.api.upto import FROM_LOG

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
Schema = Mapping[str, Any]  # Any: JSON Schema

_OPERATION: Final = "operation"
_TYPES: Final = (
    ImageRequest,
    SpeechRequest,
    Common,
    views.Document,
    views.ProgressView,
    Standing,
    views.Accepted,
    views.Cancelled,
    Counts,
    batches.AcceptedBatch,
    batches.BatchView,
    views.Erased,
    batches.CancelledMany,
    batches.RedrivenMany,
    views.WireEvent,
    Problem,
    shown_fleet.Fleet,
    shown_fleet.Queues,
    past.PastQueues,
    shown_fleet.Pauses,
    registering.Addition,
    registering.Change,
    uploaded.UploadView,
)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


class Parameter(Struct, frozen=True):
    """``place`` is query or header."""

    name: str
    place: str
    description: str
    schema: Schema = MappingProxyType({"type": "string"})


class Operation(Struct, frozen=True, kw_only=True):
    """``bodies`` and ``content`` by media type; ``status`` is that of the answer that is hoped for."""

    answer: str
    status: int = 200
    content: Mapping[str, Schema] = {}
    bodies: Mapping[str, Schema] = {}
    parameters: Sequence[Parameter] = ()
    also: Mapping[int, str] = {}
    codes: Sequence[Code] = ()


def _opt(operation: Operation, *, from_log: bool = False) -> dict[str, Any]:  # Any: Litestar's
    return {_OPERATION: operation, FROM_LOG: from_log}


_KEY: Final = Parameter(
    "Idempotency-Key", "header", "1 to 255 visible characters; the same key and body give the same task"
)
_PREFER: Final = Parameter("Prefer", "header", "`wait=n` waits up to n seconds, at most 60, for the end")
_TRACE: Final = Parameter("traceparent", "header", "W3C trace context, kept with the task")
_WAIT: Final = Parameter(
    "wait",
    "query",
    "seconds to wait for the end, or with If-None-Match for a change",
    {"type": "number", "minimum": 0, "maximum": 60},
)
_IF_NONE_MATCH: Final = Parameter("If-None-Match", "header", "an ETag; 304 while it is still the same")
_LAST_EVENT_ID: Final = Parameter("Last-Event-ID", "header", "the sequence after which to go on")
_LAST_EVENT: Final = Parameter(
    "last_event_id",
    "query",
    "the same, for clients that cannot set a header; `snapshot`: show what has not ended, and go on",
    {"anyOf": [{"type": "integer", "minimum": 0}, {"const": "snapshot"}]},
)

_SEEN: Final = Parameter(
    "Taskfold-Sequence",
    "header",
    "how far the client has seen the log, as an answer said; waits up to a second to show no less",
    {"type": "integer", "minimum": 0},
)
_PAST: Final = (
    Parameter("at_seq", "query", "as it was right after that sequence", {"type": "integer", "minimum": 1}),
    Parameter("at", "query", "as it was at that time", {"type": "string", "format": "date-time"}),
)

_FILTER_NOTES: Final = {
    "kind": "only of this kind",
    "status": f"only in this status, or in several with commas between: {', '.join(filters.ANY_STATUS)}",
    "tag": "only with this tag",
    "user": "only this user's",
    "tenant": "only this tenant's",
    "backend": "only where this backend made the last attempt",
    "model": "only where this model was asked for; `any`: none was",
    "error": "only what ended with this code",
    "priority": "only with this priority",
    "batch": "only what was submitted together under this id",
    "submitted_after": "only what was submitted then or later, as 2026-11-24T09:00:00Z",
    "submitted_before": "only what was submitted earlier",
    "finished_after": "only what ended then or later",
    "finished_before": "only what ended earlier",
    "text": 'only with these words in the prompt; `"a red fox"` together, `snow*` begun',
}
_CHOICES: Final[Mapping[str, Schema]] = {"kind": {"enum": list(Kind)}, "priority": {"enum": list(Priority)}}
_FILTER: Final = tuple(
    Parameter(name, "query", note, _CHOICES.get(name, {"type": "string"}))
    for name, note in _FILTER_NOTES.items()
)
_FILTERED: Final[dict[str, Schema]] = {
    "all": {"type": "boolean", "description": "every task; instead of a filter"},
    **{p.name: {**p.schema, "description": p.description} for p in _FILTER},
}

_CHECKS: Final = (
    Code.MALFORMED,
    Code.UNKNOWN_MEMBER,
    Code.MISSING_MEMBER,
    Code.WRONG_TYPE,
    Code.OUT_OF_RANGE,
    Code.CONFLICTING_MEMBERS,
    Code.UNKNOWN_MODEL,
    Code.UNSUPPORTED_MEDIA_TYPE,
    Code.BODY_TOO_LARGE,
    Code.QUEUE_FULL,
    Code.TENANT_QUEUE_FULL,
    Code.STORAGE_FULL,
    Code.NATS_AWAY,
    Code.OUTCOME_UNKNOWN,
)
_KEYED: Final = (*_CHECKS, Code.IDEMPOTENCY_KEY_REUSED)
_READ: Final = (
    Code.INVALID_ID,
    Code.UNKNOWN_TASK,
    Code.UNKNOWN_MEMBER,
    Code.NATS_AWAY,
    Code.READ_MODEL_AWAY,
)
_ON_MANY: Final = (
    Code.MALFORMED,
    Code.UNKNOWN_MEMBER,
    Code.MISSING_MEMBER,
    Code.WRONG_TYPE,
    Code.OUT_OF_RANGE,
    Code.CONFLICTING_MEMBERS,
    Code.NATS_AWAY,
    Code.OUTCOME_UNKNOWN,
    Code.READ_MODEL_AWAY,
)
_ACCEPTED: Final = {JSON: _ref("Accepted")}
_DOCUMENT: Final = {JSON: _ref("TaskDocument")}
_SUBMIT: Final[dict[str, Any]] = {  # Any: members of Operation
    "answer": "Accepted: the log has stored it",
    "status": 202,
    "content": _ACCEPTED,
    "also": {200: "Finished within the time that Prefer gave: the task"},
}
_NESTED: Final = {
    "allOf": [
        _ref("Common"),
        {
            "type": "object",
            "required": ["kind", "request"],
            "properties": {
                "kind": {"enum": list(Kind)},
                "request": {"anyOf": [_ref("ImageRequest"), _ref("SpeechRequest")]},
            },
        },
    ]
}
_FORM: Final = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary"}},
    "description": "file or artifact, and the members of SpeechRequest and Common as fields",
}

IMAGE: Final = _opt(
    Operation(
        **_SUBMIT,
        bodies={JSON: {"allOf": [_ref("ImageRequest"), _ref("Common")]}},
        parameters=(_KEY, _PREFER, _TRACE),
        codes=_KEYED,
    )
)
SPEECH: Final = _opt(
    Operation(
        **_SUBMIT,
        bodies={
            "multipart/form-data": _FORM,
            JSON: {"allOf": [_ref("SpeechRequest"), _ref("Common")]},
        },
        parameters=(_KEY, _PREFER, _TRACE),
        codes=(*_KEYED, Code.UNSUPPORTED_AUDIO, Code.BROKEN_AUDIO, Code.UNKNOWN_ARTIFACT),
    )
)
CREATE: Final = _opt(
    Operation(
        **_SUBMIT,
        bodies={JSON: _NESTED},
        parameters=(_KEY, _PREFER, _TRACE),
        codes=(*_KEYED, Code.UNKNOWN_KIND, Code.UNKNOWN_ARTIFACT),
    )
)
CREATE_BATCH: Final = _opt(
    Operation(
        answer="Accepted: the log has stored all of them",
        status=202,
        content={JSON: _ref("AcceptedBatch")},
        bodies={
            JSON: {
                "type": "object",
                "required": ["tasks"],
                "properties": {
                    "tasks": {
                        "type": "array",
                        "items": _NESTED,
                        "minItems": 1,
                        "maxItems": MAX_TOGETHER,
                    }
                },
                "additionalProperties": False,
            }
        },
        parameters=(_KEY, _TRACE),
        codes=(*_KEYED, Code.UNKNOWN_KIND, Code.UNKNOWN_ARTIFACT, Code.BATCH_TOO_LARGE),
    )
)
_ON_BATCH: Final = (
    Code.INVALID_ID,
    Code.UNKNOWN_BATCH,
    Code.UNKNOWN_MEMBER,
    Code.NATS_AWAY,
    Code.READ_MODEL_AWAY,
)
BATCH: Final = _opt(
    Operation(
        answer="The batch",
        content={JSON: _ref("BatchView")},
        parameters=(_WAIT, _IF_NONE_MATCH),
        also={304: "Not changed"},
        codes=(*_ON_BATCH, Code.WRONG_TYPE, Code.OUT_OF_RANGE),
    ),
    from_log=True,
)
CANCEL_BATCH: Final = _opt(
    Operation(
        answer="How many were cancelled",
        content={JSON: _ref("CancelledMany")},
        bodies={JSON: {"type": "object", "properties": {"reason": {"type": ["string", "null"]}}}},
        codes=(*_ON_BATCH, Code.MALFORMED, Code.WRONG_TYPE, Code.OUT_OF_RANGE, Code.OUTCOME_UNKNOWN),
    )
)
PUT: Final = _opt(
    Operation(
        **_SUBMIT,
        bodies={JSON: _NESTED},
        parameters=(_PREFER, _TRACE),
        codes=(*_CHECKS, Code.INVALID_ID, Code.TASK_EXISTS, Code.UNKNOWN_KIND, Code.UNKNOWN_ARTIFACT),
    )
)
TASK: Final = _opt(
    Operation(
        answer="The task",
        content=_DOCUMENT,
        parameters=(_WAIT, _IF_NONE_MATCH, *_PAST),
        also={304: "Not changed"},
        codes=(*_READ, Code.WRONG_TYPE, Code.OUT_OF_RANGE, Code.CONFLICTING_MEMBERS),
    ),
    from_log=True,
)
LIST: Final = _opt(
    Operation(
        answer="Tasks, newest first; with task_id the one task",
        content={
            JSON: {
                "type": "object",
                "properties": {
                    "tasks": {"type": "array", "items": _ref("TaskDocument")},
                    "next": {"type": ["string", "null"]},
                    "prev": {"type": ["string", "null"]},
                },
            }
        },
        parameters=(
            Parameter("task_id", "query", "show this one task"),
            *_FILTER,
            Parameter("limit", "query", "how many", {"type": "integer", "minimum": 1, "maximum": 200}),
            Parameter("cursor", "query", "what `next` or `prev` gave"),
            _WAIT,
        ),
        codes=(*_READ, Code.WRONG_TYPE, Code.OUT_OF_RANGE),
    )
)
COUNTS: Final = _opt(
    Operation(
        answer="How many tasks of each kind are in each status",
        content={JSON: _ref("Counts")},
        parameters=tuple(p for p in _FILTER if p.name in {"kind", "tenant"}),
        codes=(Code.UNKNOWN_MEMBER, Code.OUT_OF_RANGE, Code.READ_MODEL_AWAY),
    )
)
RESULT: Final = _opt(
    Operation(
        answer="Where the result is",
        status=303,
        codes=(*_READ, Code.NOT_FINISHED, Code.NO_RESULT, Code.EXPIRED_ARTIFACT),
    ),
    from_log=True,
)
ERASE: Final = _opt(
    Operation(
        answer="What was asked for is no longer known, nor what came of it; that it was there is",
        content={JSON: _ref("Erased")},
        codes=(*_READ, Code.NOT_FINISHED, Code.OUTCOME_UNKNOWN),
    )
)
PREVIEW: Final = _opt(
    Operation(
        answer="The latest preview, a JPEG, PNG or WebP",
        content={"image/*": {"type": "string", "format": "binary"}},
        parameters=(Parameter("v", "query", "whatever `preview_url` has there"), _IF_NONE_MATCH),
        also={304: "Not changed"},
        codes=(*_READ, Code.NO_PREVIEW),
    )
)
_CANCELLED: Final[dict[str, Any]] = {  # Any: members of Operation
    "answer": "What became of it",
    "content": {JSON: _ref("Cancelled")},
    "bodies": {JSON: {"type": "object", "properties": {"reason": {"type": ["string", "null"]}}}},
    "codes": (*_READ, Code.MALFORMED, Code.WRONG_TYPE, Code.OUTCOME_UNKNOWN),
}
CANCEL: Final = _opt(Operation(**_CANCELLED))
DELETE: Final = _opt(Operation(**_CANCELLED))
CANCEL_MANY: Final = _opt(
    Operation(
        answer="How many were cancelled",
        content={JSON: _ref("CancelledMany")},
        bodies={
            JSON: {
                "type": "object",
                "properties": {**_FILTERED, "reason": {"type": ["string", "null"]}},
            }
        },
        codes=_ON_MANY,
    )
)
_REPLAY: Final = {
    "allOf": [
        _ref("Common"),
        {"type": "object", "properties": {"request": {"type": "object"}}},
    ],
    "description": "What is to be different; null leaves a member out, which then has its default",
}
REPLAY: Final = _opt(
    Operation(
        **_SUBMIT,
        bodies={JSON: _REPLAY},
        parameters=(_KEY, _PREFER, _TRACE),
        codes=(
            *_KEYED,
            Code.INVALID_ID,
            Code.UNKNOWN_TASK,
            Code.UNKNOWN_ARTIFACT,
            Code.NO_RESULT,
            Code.ERASED,
        ),
    )
)
REDRIVE: Final = _opt(
    Operation(
        answer="How many were submitted again",
        content={JSON: _ref("RedrivenMany")},
        bodies={JSON: {"type": "object", "properties": {**_FILTERED, "change": _REPLAY}}},
        codes=(*_ON_MANY, Code.QUEUE_FULL, Code.TENANT_QUEUE_FULL, Code.STORAGE_FULL),
    )
)
_EVENTS: Final[dict[str, Any]] = {  # Any: members of Operation
    "answer": "A stream of events; the history as JSON where Accept prefers that",
    "content": {
        "text/event-stream": {"type": "string"},
        JSON: {
            "type": "object",
            "properties": {
                "events": {"type": "array", "items": _ref("WireEvent")},
                "next": {"type": ["integer", "null"]},
            },
        },
    },
    "parameters": (_LAST_EVENT_ID, _LAST_EVENT),
}
_STORY: Final[dict[str, Any]] = {  # Any: as above
    **_EVENTS,
    "also": {204: "There is nothing after that event"},
}
TASK_EVENTS: Final = _opt(
    Operation(
        **{**_STORY, "parameters": (*_STORY["parameters"], *_PAST)},
        codes=(*_READ, Code.WRONG_TYPE, Code.OUT_OF_RANGE, Code.CONFLICTING_MEMBERS),
    )
)
BATCH_EVENTS: Final = _opt(Operation(**_STORY, codes=(*_ON_BATCH, Code.WRONG_TYPE, Code.OUT_OF_RANGE)))
EVENTS: Final = _opt(
    Operation(
        **{
            **_EVENTS,
            "parameters": (
                *_EVENTS["parameters"],
                Parameter("type", "query", f"only events of this type, or of several: {', '.join(TYPES)}"),
                *_FILTER,
            ),
        },
        codes=(
            Code.UNKNOWN_MEMBER,
            Code.CONFLICTING_MEMBERS,
            Code.WRONG_TYPE,
            Code.OUT_OF_RANGE,
            Code.INVALID_ID,
            Code.READ_MODEL_AWAY,
        ),
    )
)
ARTIFACT: Final = _opt(
    Operation(
        answer="The bytes",
        content={"*/*": {"type": "string", "format": "binary"}},
        parameters=(
            Parameter("Range", "header", "one range of bytes"),
            Parameter("If-Range", "header", "an ETag; the range only while it is still the same"),
            _IF_NONE_MATCH,
            Parameter("download", "query", "to save it, under this name or, if it is empty, under its own"),
        ),
        also={206: "The bytes of the range", 304: "Not changed"},
        codes=(
            Code.UNKNOWN_MEMBER,
            Code.NO_SUCH_ARTIFACT,
            Code.EXPIRED_ARTIFACT,
            Code.RANGE_NOT_SATISFIABLE,
            Code.NATS_AWAY,
        ),
    )
)

_UPLOAD: Final = {JSON: _ref("UploadView")}
_ON_UPLOAD: Final = (
    Code.INVALID_ID,
    Code.UNKNOWN_MEMBER,
    Code.UNKNOWN_UPLOAD,
    Code.EXPIRED_ARTIFACT,
    Code.NATS_AWAY,
)
UPLOAD: Final = _opt(Operation(answer="How far it is", content=_UPLOAD, codes=_ON_UPLOAD))
PUT_UPLOAD: Final = _opt(
    Operation(
        answer="Complete: an artifact that a submission may name",
        status=201,
        content=_UPLOAD,
        bodies={"*/*": {"type": "string", "format": "binary"}},
        parameters=(
            Parameter("Upload-Offset", "header", "where the body begins in the whole; 0 if it is missing"),
            Parameter("Upload-Complete", "header", "`?0`: more follows", {"enum": ["?0", "?1"]}),
            Parameter("filename", "query", "what the recording is called, with the last part"),
        ),
        also={200: "Stored, and more is to follow; or it was complete already"},
        codes=(
            Code.INVALID_ID,
            Code.UNKNOWN_MEMBER,
            Code.WRONG_TYPE,
            Code.WRONG_OFFSET,
            Code.EXPIRED_ARTIFACT,
            Code.BODY_TOO_LARGE,
            Code.UNSUPPORTED_AUDIO,
            Code.BROKEN_AUDIO,
            Code.STORAGE_FULL,
            Code.NATS_AWAY,
            Code.OUTCOME_UNKNOWN,
        ),
    )
)
DELETE_UPLOAD: Final = _opt(
    Operation(answer="Removed", status=204, codes=(*_ON_UPLOAD, Code.UPLOAD_IN_USE, Code.OUTCOME_UNKNOWN))
)

BACKENDS: Final = _opt(
    Operation(
        answer="The backends, by name",
        content={JSON: _ref("Fleet")},
        codes=(Code.UNKNOWN_MEMBER, Code.NATS_AWAY),
    )
)
BACKEND: Final = _opt(
    Operation(
        answer="The backend",
        content={JSON: _ref("BackendView")},
        codes=(Code.UNKNOWN_BACKEND, Code.UNKNOWN_MEMBER, Code.NATS_AWAY),
    )
)
_BODY: Final = (Code.MALFORMED, Code.UNKNOWN_MEMBER, Code.WRONG_TYPE, Code.OUT_OF_RANGE)
_WRITES: Final = (*_BODY, Code.BODY_TOO_LARGE, Code.NATS_AWAY, Code.OUTCOME_UNKNOWN)
_BACKEND_VIEW: Final = {JSON: _ref("BackendView")}
ADD_BACKEND: Final = _opt(
    Operation(
        answer="The backend, added",
        status=201,
        content=_BACKEND_VIEW,
        bodies={JSON: _ref("Addition")},
        also={200: "It has announced itself again"},
        codes=(*_WRITES, Code.MISSING_MEMBER, Code.CONFLICTING_MEMBERS, Code.BACKEND_EXISTS),
    )
)
CHANGE_BACKEND: Final = _opt(
    Operation(
        answer="The backend, changed",
        content=_BACKEND_VIEW,
        bodies={JSON: _ref("Change")},
        codes=(*_WRITES, Code.CONFLICTING_MEMBERS, Code.UNKNOWN_BACKEND),
    )
)
REMOVE_BACKEND: Final = _opt(
    Operation(
        answer="The backend as it was",
        content=_BACKEND_VIEW,
        codes=(
            Code.UNKNOWN_MEMBER,
            Code.UNKNOWN_BACKEND,
            Code.BACKEND_IN_USE,
            Code.NATS_AWAY,
            Code.OUTCOME_UNKNOWN,
        ),
    )
)
_MODEL: Final = {"type": ["string", "null"], "description": "only this queue; `any` is what names no model"}
_PAUSES: Final[dict[str, Any]] = {  # Any: members of Operation
    "answer": "The pauses of the kind",
    "content": {JSON: _ref("Pauses")},
    "codes": (*_WRITES, Code.UNKNOWN_KIND),
}
PAUSE: Final = _opt(
    Operation(
        **_PAUSES,
        bodies={
            JSON: {
                "type": "object",
                "properties": {"model": _MODEL, "reason": {"type": ["string", "null"]}},
            }
        },
    )
)
RESUME: Final = _opt(
    Operation(**_PAUSES, bodies={JSON: {"type": "object", "properties": {"model": _MODEL}}})
)
QUEUES: Final = _opt(
    Operation(
        answer="The queues, by kind and model",
        content={JSON: {"anyOf": [_ref("Queues"), _ref("PastQueues")]}},
        parameters=_PAST,
        codes=(Code.UNKNOWN_MEMBER, Code.OUT_OF_RANGE, Code.CONFLICTING_MEMBERS, Code.READ_MODEL_AWAY),
    )
)


def describe(handlers: Sequence[HTTPRouteHandler], version: str) -> bytes:
    """Give the whole document, encoded."""
    app = Litestar(list(handlers), openapi_config=OpenAPIConfig("Taskfold", version), logging_config=None)
    document: dict[str, Any] = app.openapi_schema.to_schema()
    _, components = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    components["TaskDocument"] = _shown(components["Document"])
    document["components"] = {"schemas": components}
    for route in app.routes:
        if isinstance(route, HTTPRoute) and route.path_format in document["paths"]:
            for handler in route.route_handlers:
                for method in handler.http_methods:
                    described = document["paths"][route.path_format].get(method.lower())
                    if described is not None and _OPERATION in handler.opt:
                        seen = (_SEEN,) if method in READ else ()
                        _complete(described, handler, handler.opt[_OPERATION], seen)
    return msgspec.json.encode(document)


def _complete(
    described: dict[str, Any],  # Any: JSON
    handler: HTTPRouteHandler,
    operation: Operation,
    more: Sequence[Parameter],
) -> None:
    """Put into Litestar's description what Litestar cannot see."""
    described["summary"] = handler.fn.__doc__
    described.setdefault("parameters", []).extend(
        {
            "name": p.name,
            "in": p.place,
            "description": p.description,
            "schema": dict(p.schema),
            "required": False,
        }
        for p in (*operation.parameters, *more)
    )
    if operation.bodies:
        content = {media_type: {"schema": schema} for media_type, schema in operation.bodies.items()}
        described["requestBody"] = {"content": content}
    content = {media_type: {"schema": schema} for media_type, schema in operation.content.items()}
    answers: dict[str, Any] = {str(operation.status): {"description": operation.answer, "content": content}}
    for status, meaning in operation.also.items():
        document = (
            content
            if operation.content in (_BACKEND_VIEW, _UPLOAD)
            else {JSON: {"schema": _ref("TaskDocument")}}
        )
        shown = document if status == 200 else {}  # noqa: PLR2004 - HTTP's OK
        answers[str(status)] = {"description": meaning, "content": shown}
    problems: dict[int, list[str]] = {}
    for code in (*operation.codes, Code.INTERNAL):
        problems.setdefault(HTTP_STATUS[code], []).append(code)
    for problem_status, codes in sorted(problems.items()):
        answers[str(problem_status)] = {
            "description": f"Refused: {', '.join(codes)}",
            "content": {PROBLEM: {"schema": _ref("Problem")}},
        }
    described["responses"] = answers


def _shown(document: dict[str, Any]) -> dict[str, Any]:  # Any: JSON Schema
    """Add the members that are put in front of a stored document."""
    progress = {"anyOf": [_ref("ProgressView"), {"type": "null"}]}
    queue = {"anyOf": [_ref("Standing"), {"type": "null"}]}
    return {
        **document,
        "title": "TaskDocument",
        "properties": {"progress": progress, "queue": queue, **document["properties"]},
    }
