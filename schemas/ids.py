"""Names of things: task ids, backend ids, model slugs. One rule: an id is checked where it comes in."""

import hashlib
import re
from typing import NewType

from schemas.errors import Code, RejectedError

TaskId = NewType("TaskId", str)
BackendId = NewType("BackendId", str)
ArtifactId = NewType("ArtifactId", str)
EventId = NewType("EventId", str)
UploadId = NewType("UploadId", str)
BatchId = NewType("BatchId", str)

ANY_MODEL = "any"

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_UNSAFE = re.compile(r"[^a-z0-9_]+")
_ARTIFACT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


def parse_task_id(text: str, member: str = "task_id") -> TaskId:
    """Accept a canonical lower-case UUID; anything else is RejectedError(invalid_id)."""
    return TaskId(_uuid(text, member))


def parse_upload_id(text: str) -> UploadId:
    """Accept a canonical lower-case UUID of the client's; anything else is RejectedError(invalid_id)."""
    return UploadId(_uuid(text, "upload_id"))


def _uuid(text: str, member: str) -> str:
    if not _UUID.fullmatch(text):
        raise RejectedError(
            Code.INVALID_ID,
            f"{member} is a UUID in lower case, as 0199d4e8-7c1a-7000-8000-0123456789ab",
            member=member,
        )
    return text


def parse_batch_id(text: str, member: str = "batch_id") -> BatchId:
    """Accept a canonical lower-case UUID; anything else is RejectedError(invalid_id)."""
    return BatchId(parse_task_id(text, member))


def parse_artifact_id(text: str) -> ArtifactId | None:
    """Accept what could be an artifact's name; None for anything that never is one."""
    return ArtifactId(text) if _ARTIFACT.fullmatch(text) else None


def derived_task_id(tenant: str, key: str) -> TaskId:
    """Give the one id that a tenant's Idempotency-Key stands for."""
    return TaskId(derived_uuid(f"{len(tenant)}:{tenant}:{key}"))


def derived_batch_id(tenant: str, key: str) -> BatchId:
    """Give the one id that a tenant's Idempotency-Key stands for where tasks are submitted together."""
    return BatchId(derived_uuid(f"batch:{len(tenant)}:{tenant}:{key}"))


def batch_task_id(batch_id: BatchId, place: int) -> TaskId:
    """Give the id of a task in a batch, so that who knows the batch finds its tasks in the log."""
    return TaskId(derived_uuid(f"{batch_id}:{place}"))


def derived_uuid(text: str) -> str:
    """Give the one UUID that a text stands for: of version 8 (RFC 9562), in lower case."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def slug(model: str) -> str:
    """Spell a model's name as one token of a subject: ``Qwen/Qwen-Image`` → ``qwen-qwen-image``."""
    return _UNSAFE.sub("-", model.lower()).strip("-") or ANY_MODEL


def artifact_id(task_id: TaskId, attempt: int, number: int) -> ArtifactId:
    return ArtifactId(f"{task_id}-{attempt}-{number}")


def upload_artifact_id(upload_id: UploadId) -> ArtifactId:
    """Give the name of the artifact that an upload becomes."""
    return ArtifactId(f"upload-{upload_id}")
