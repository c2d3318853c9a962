"""Logs. The one rule: a line is an event with fields (``task.started``), never prose."""

import logging
import sys
from typing import Any

import msgspec
import structlog


def configure(process: str, level: str, log_format: str) -> None:
    """Send structlog and the standard library's loggers to standard error, as text or JSON lines."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if log_format == "json":
        renderer: structlog.typing.Processor = structlog.processors.JSONRenderer(serializer=_json)
        shared.append(structlog.processors.format_exc_info)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=28)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


def _json(fields: dict[str, Any], **_: Any) -> str:  # Any: whatever is logged
    return msgspec.json.encode(fields, enc_hook=str).decode()


class _Forward(logging.Handler):
    """Passes what libraries log on to structlog, so that there is one stream of one form."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.name, message=record.getMessage())
