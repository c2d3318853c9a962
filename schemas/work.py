"""How much work a task is, whoever does it: the unit in which speeds are learned and shares are counted.

The one rule: only what the submission says counts, so that every process gives the same figure.
"""

from typing import Final

from schemas.requests import AnySubmission, ImageSubmission, SpeechSubmission

_MEGA: Final = 1_000_000
_BYTES_PER_UNIT: Final = 320_000


def units(submission: AnySubmission) -> float:
    """Measure a task: megapixel steps of a picture, ten seconds of plain 16 kHz sound of a recording."""
    match submission:
        case ImageSubmission(request=request):
            return request.width * request.height * request.steps * request.n / _MEGA
        case SpeechSubmission(audio_bytes=audio_bytes):
            return max(1.0, audio_bytes / _BYTES_PER_UNIT)
