"""Every setting, in one struct. One rule: environment over TOML over default, and nothing unknown.

A field ``api_port`` is ``TASKFOLD_API_PORT`` in the environment and ``api_port`` in ``taskfold.toml``.
The urls of the GPUs keep the names that people know: ``IMAGE_GEN_URL_1``, ``WHISPER_URL`` and so on.
"""

import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from schemas import workflow
from schemas.errors import Code, RejectedError, TaskfoldError
from schemas.ids import BackendId
from schemas.registry import Backend, WorkflowAt, from_url
from schemas.requests import Kind
from schemas.workflow import Workflow

PREFIX: Final = "TASKFOLD_"
# Set around a process rather than for it: where the file is, where the user's side finds the api.
_NOT_SETTINGS: Final = frozenset({"TASKFOLD_CONFIG", "TASKFOLD_URL"})
_VARIABLES: Final = {"image": "IMAGE_GEN_URL", "speech": "WHISPER_URL"}
_URLS: Final = re.compile(r"(IMAGE_GEN|WHISPER)_URL(?:_([1-9][0-9]*))?")

_RETENTIONS: Final = ("picture_days", "transcript_days", "upload_days")

Balancing = Literal[
    "least_expected_completion",
    "least_outstanding",
    "round_robin",
    "weighted",
    "user_affinity",
    "random",
]
Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
Number = Annotated[str, Meta(pattern="^[1-9][0-9]*$")]


class SettingsError(TaskfoldError):
    """A setting is wrong; the text names it and what is allowed, on one line."""


def read_workflow(path: str) -> Workflow:
    """Read a ComfyUI workflow; RejectedError says what is wrong with the file."""
    try:
        return workflow.read(Path(path).read_bytes())
    except OSError as error:
        raise RejectedError(Code.OUT_OF_RANGE, f"cannot be read: {error.strerror}") from None


def unread(_path: str) -> None:
    """Leave the file of a workflow alone: only whoever registers the backend needs it."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The effective settings of one process."""

    api_host: Annotated[str, Meta(description="address the api listens on")] = "127.0.0.1"
    api_port: Annotated[int, Meta(ge=0, le=65535, description="0 takes a free port and prints it")] = 8080
    nats_url: Annotated[str | None, Meta(description="a NATS server to use; none: `up` starts one")] = None
    nats_port: Annotated[int, Meta(ge=0, le=65535, description="of the embedded server; 0: a free one")] = (
        4222
    )
    nats_max_file_gib: Annotated[int, Meta(ge=1, description="room for JetStream, embedded server")] = 16
    nats_sync: Annotated[
        Literal["always", "default"], Meta(description="fsync of the embedded server: always, default")
    ] = "always"
    data_dir: Annotated[str, Meta(description="store, read model, logs; nothing is written elsewhere")] = (
        "data"
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="the least that is logged")
    ] = "info"
    log_format: Annotated[Literal["text", "json"], Meta(description="form of a log line")] = "text"

    lanes: Annotated[int, Meta(ge=1, le=64, description="lanes of each (kind, model, priority)")] = 8
    max_age_days: Annotated[float, Meta(ge=3, description="how long the log keeps an event")] = 14.0
    artifact_gib: Annotated[float, Meta(gt=0, description="room for results and uploads")] = 6.0
    replicas: Annotated[Literal[1, 3, 5], Meta(description="servers that hold each stream")] = 1

    queue_limit: Annotated[int, Meta(ge=1, description="most waiting tasks of a kind")] = 1000
    tenant_queue_limit: Annotated[
        Count | None, Meta(description="most waiting tasks of a kind of one tenant; none: no limit")
    ] = None
    tenant_running_limit: Annotated[
        Count | None, Meta(description="most tasks of one tenant that run at once; none: no limit")
    ] = None
    max_upload_mib: Annotated[int, Meta(ge=1, description="largest recording")] = 100
    upload_days: Annotated[
        Positive | None, Meta(description="how long recordings are kept; none: as long as the log")
    ] = None
    upload_idle_s: Annotated[
        Positive, Meta(description="an unfinished upload is given up after so long without a byte")
    ] = 86_400.0
    start_deadline_s: Annotated[Positive, Meta(description="a task not started by then expires")] = 86_400.0
    deadline_s: Annotated[Positive, Meta(description="a task not finished by then expires")] = 172_800.0
    run_timeout_s: Annotated[Positive, Meta(description="longest time of one attempt")] = 600.0
    max_attempts: Annotated[int, Meta(ge=1, le=20, description="tries until a task fails")] = 3
    trust_tenant_header: Annotated[bool, Meta(description="take the tenant from a proxy's header")] = False
    submit_timeout_s: Annotated[Positive, Meta(description="wait of a submission for NATS")] = 2.0
    sse_heartbeat_s: Annotated[
        Positive, Meta(description="between signs of life on a stream of events")
    ] = 15.0
    sse_buffer_kib: Annotated[Count, Meta(description="unread by one client until it is dropped")] = 256
    sse_coalesce_s: Annotated[float, Meta(ge=0, description="events of so long go out together")] = 0.1
    sweep_interval_s: Annotated[Positive, Meta(description="between looks for expired tasks")] = 1.0

    keep_tasks_days: Annotated[Positive, Meta(description="how long finished tasks can be looked at")] = (
        90.0
    )
    snapshot_interval_h: Annotated[
        float, Meta(ge=0, description="between copies of the read model; 0: none are made")
    ] = 24.0

    balancing: Annotated[Balancing, Meta(description="how tasks find a GPU")] = "least_expected_completion"
    balancing_image: Annotated[Balancing | None, Meta(description="the same, for images alone")] = None
    balancing_speech: Annotated[Balancing | None, Meta(description="the same, for speech alone")] = None
    priority: Annotated[
        Literal["strict", "weighted"],
        Meta(description="high goes first, or priorities share GPU time 9 : 3 : 1"),
    ] = "strict"
    ageing_s: Annotated[
        Positive, Meta(description="strict: what has waited so long goes as the next higher priority")
    ] = 300.0
    model_load_s: Annotated[
        float, Meta(ge=0, description="time to load a model, until a load was seen")
    ] = 15.0
    circuit_failures: Annotated[
        Count, Meta(description="failures in a row by which a GPU's circuit opens")
    ] = 5
    circuit_open_s: Annotated[Positive, Meta(description="first time that it stays open, then doubled")] = (
        5.0
    )
    stuck_after_s: Annotated[
        Positive, Meta(description="a stopped call that has not ended by then: its GPU is stuck")
    ] = 900.0
    lease_s: Annotated[Positive, Meta(description="a slot not renewed for so long is taken over")] = 15.0
    drain_grace_s: Annotated[float, Meta(ge=0, description="for running tasks when a dispatcher stops")] = (
        25.0
    )
    unknown_run_s: Annotated[float, Meta(gt=0, description="taken for an attempt nothing is known of")] = (
        60.0
    )
    retry_base_s: Annotated[Positive, Meta(description="most before the second attempt, then doubled")] = (
        1.0
    )
    retry_cap_s: Annotated[Positive, Meta(description="most before any attempt")] = 60.0
    probe_idle_s: Annotated[Positive, Meta(description="between probes of an idle GPU")] = 5.0
    probe_busy_s: Annotated[Positive, Meta(description="between probes of a busy GPU")] = 15.0
    probe_timeout_s: Annotated[Positive, Meta(description="longest time of a probe")] = 2.0
    picture_days: Annotated[
        Positive | None, Meta(description="how long pictures are kept; none: as long as the log")
    ] = None
    transcript_days: Annotated[
        Positive | None, Meta(description="how long transcripts are kept; none: as long as the log")
    ] = None

    simulated_gpus: Annotated[int, Meta(ge=0, le=64, description="by `up`, where no url is set")] = 3
    simulated_step_ms: Annotated[float, Meta(ge=0, description="a step at 512 x 512")] = 40.0

    image_gen_urls: Annotated[
        dict[Number, str], Meta(description="image GPUs by number; IMAGE_GEN_URL_1 and so on")
    ] = {}
    whisper_urls: Annotated[
        dict[Number, str], Meta(description="speech servers by number; WHISPER_URL_1 and so on")
    ] = {}

    @property
    def bus_url(self) -> str:
        """Where NATS is for a process of its own: the url given, else the embedded server's."""
        return self.nats_url or f"nats://127.0.0.1:{self.nats_port}"

    def policy_of(self, kind: str) -> str:
        """Name the policy by which tasks of a kind find a GPU."""
        own = {Kind.IMAGE: self.balancing_image, Kind.SPEECH: self.balancing_speech}
        return own.get(Kind(kind)) or self.balancing

    def keeps_results(self, kind: str) -> timedelta | None:
        """Say how long the results of a kind are kept, None for as long as the log."""
        own = {Kind.IMAGE: self.picture_days, Kind.SPEECH: self.transcript_days}
        return _days(own[Kind(kind)])

    @property
    def keeps_uploads(self) -> timedelta | None:
        return _days(self.upload_days)

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir).absolute()

    @property
    def readmodel_path(self) -> Path:
        return self.data_path / "readmodel.db"

    def backends(self, workflow_at: WorkflowAt = read_workflow) -> list[Backend]:
        """Give the configured GPUs, ``image-1`` …, with their workflows, whose files are read now.

        SettingsError names the variable that is wrong.
        """
        try:
            return [
                from_url(BackendId(f"{prefix}-{number}"), url, kind, workflow_at)
                for prefix, kind, urls in (
                    ("image", Kind.IMAGE, self.image_gen_urls),
                    ("speech", Kind.SPEECH, self.whisper_urls),
                )
                for number, url in sorted(urls.items(), key=lambda item: int(item[0]))
            ]
        except RejectedError as error:
            kind, _, number = str(error.member).partition("-")
            reason = error.detail.removeprefix(f"{error.member}: ")
            raise SettingsError(masked(f"{_VARIABLES[kind]}_{number}: {reason}")) from None


def load(env: Mapping[str, str], config: Path | None = None) -> Settings:
    """Merge defaults, the TOML file and the environment; SettingsError names the setting that is wrong."""
    raw = {**_from_toml(config), **_from_environment(env)}
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    for name, value in raw.items():
        if name not in fields:
            raise SettingsError(f"unknown setting {name}; see `taskfold config`")
        try:
            msgspec.convert(value, fields[name].type, strict=False)
        except msgspec.ValidationError as error:
            raise SettingsError(f"{name}: {error}, got {value!r}") from None
    settings = msgspec.convert(raw, Settings, strict=False)
    settings.backends(unread)
    for name in _RETENTIONS:
        if (days := getattr(settings, name)) and days > settings.max_age_days:
            raise SettingsError(
                f"{name}: at most max_age_days, which is {settings.max_age_days:g}, got {days:g}"
            )
    if (days := settings.keep_tasks_days) < settings.max_age_days:
        raise SettingsError(
            f"keep_tasks_days: at least max_age_days, which is {settings.max_age_days:g}, got {days:g}"
        )
    return settings


def _days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def meaning(setting: str) -> str:
    """Say what a setting is for, in a few words."""
    annotation = Settings.__annotations__[setting]
    said: str = next(note.description for note in annotation.__metadata__ if note.description)
    return said


def sources(env: Mapping[str, str], config: Path | None = None) -> dict[str, str]:
    """Say where the value of each setting comes from: default, the file, or environment."""
    return {
        **dict.fromkeys((field.name for field in msgspec.structs.fields(Settings)), "default"),
        **dict.fromkeys(_from_toml(config), str(config)),
        **dict.fromkeys(_from_environment(env), "environment"),
    }


def masked(text: str) -> str:
    """Hide the secrets that urls carry: keys in their query, passwords before their host."""
    return re.sub(r"(://)[^/\s'\"]+@", r"\1***@", re.sub(r"(api_key=)[^&\s'\",;]+", r"\1***", text))


def _from_toml(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        return tomllib.loads(config.read_text())
    except OSError as error:
        raise SettingsError(f"cannot read {config}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{config}: {error}") from None


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    raw: dict[str, Any] = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in env.items()
        if name.startswith(PREFIX) and name not in _NOT_SETTINGS
    }
    for variable, url in env.items():
        if not url or not (match := _URLS.fullmatch(variable)):
            continue
        name = f"{match[1].lower()}_urls"
        urls = raw.setdefault(name, {})
        if not isinstance(urls, dict):
            raise SettingsError(f"{PREFIX}{name.upper()} and {match[1]}_URL are both set; use the latter")
        number = match[2] or "1"
        if number in urls:
            raise SettingsError(f"{match[1]}_URL and {match[1]}_URL_1 are both set; they name the same GPU")
        urls[number] = url
    return raw
