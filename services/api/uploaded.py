"""The document of an upload.

The one rule: members that do not apply yet are null.
"""

from msgspec import Struct

from schemas.ids import ArtifactId, UploadId


class UploadView(Struct, frozen=True, kw_only=True):
    """``offset`` in bytes: where it goes on. From ``artifact_id`` on null until it is ``complete``."""

    upload_id: UploadId
    offset: int
    complete: bool
    expires_at: str | None
    artifact_id: ArtifactId | None = None
    url: str | None = None
    media_type: str | None = None
    sha256: str | None = None
    filename: str | None = None
