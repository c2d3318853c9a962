"""Submissions as people make them: few tenants do most, and few words are in most prompts. Pure.

The one rule: what is drawn depends on the seed and the number of the task alone.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from schemas.ids import EventId, TaskId
from schemas.requests import (
    AnySubmission,
    ImageRequest,
    ImageSubmission,
    Priority,
    SpeechRequest,
    SpeechSubmission,
)

T = TypeVar("T")

COMMON_WORD: Final = "light"
TWO_WORDS: Final = "soft light"
RARE_WORD: Final = "axolotl"
RARE_TAG: Final = "needle"
TENANTS: Final = ("studio", "atelier", "press", "archive", "radio", "school", "museum", "lab")
USERS: Final = tuple(f"user-{number}" for number in range(20))
TAGS: Final = tuple(f"project-{number}" for number in range(30))
IMAGE_MODELS: Final = ("sdxl", "flux-dev", "qwen-image", "sd-1.5", "playground-v2", None)
SPEECH_MODELS: Final = ("whisper-large-v3", "whisper-small")
SIDES: Final = (512, 768, 1024, 1024, 1280)
_LIFE: Final = timedelta(days=30)
"""Far enough that nothing expires while it is measured."""

_FIRST_WORDS: Final = (  # noqa: SIM905 - a hundred quotes read worse
    "a of with in light the soft at fox snow morning red portrait old forest mountain painting blue "
    "river street night rain city golden garden house woman man cat dog tree sky sea wind stone window "
    "photograph detailed cinematic watercolour quiet misty ancient bright shadow lantern harbour bridge "
    "child winter summer autumn spring market train station desert island tower field flower bird horse"
).split()
_SYLLABLES: Final = "ba co di fu ga he jo ki lu ma ne po ri sa tu ve wo xa yo zi lan mor".split()  # noqa: SIM905 - as above
_VOCABULARY: Final = 20_000
_DRAWN: Final = 1 << 16


def _word(rank: int) -> str:
    if rank < len(_FIRST_WORDS):
        return _FIRST_WORDS[rank]
    parts = []
    while rank:
        rank, index = divmod(rank, len(_SYLLABLES))
        parts.append(_SYLLABLES[index])
    return "".join(parts)


def _words() -> tuple[str, ...]:
    """Give as many words as there are draws: the n-th of the vocabulary in one place of n."""
    shares = [1 / (rank + 2) for rank in range(_VOCABULARY)]
    scale = _DRAWN / sum(shares)
    table: list[str] = []
    reached = 0.0
    for rank, share in enumerate(shares):
        reached += share * scale
        table += [_word(rank)] * (round(reached) - len(table))
    return tuple(table)


_WORDS: Final = _words()


class Draws:
    """The lots of one task, drawn one after the other."""

    __slots__ = ("_at", "_bytes")

    def __init__(self, seed: int, number: int) -> None:
        self._bytes = hashlib.shake_128(f"{seed}:{number}".encode()).digest(320)
        self._at = 0

    def number(self) -> int:
        """Draw a number of 16 bits."""
        at = self._at
        self._at = at + 2
        return self._bytes[at] << 8 | self._bytes[at + 1]

    def share(self) -> float:
        return self.number() / _DRAWN

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.number() * len(choices) >> 16]

    def among_the_first(self, choices: Sequence[T]) -> T:
        """Draw the first half three times as often as the second."""
        return choices[int(self.share() ** 2 * len(choices))]

    def text(self, least: int, most: int) -> str:
        count = least + (self.number() * (most - least + 1) >> 16)
        return " ".join([_WORDS[self.number()] for _ in range(count)])

    def hex(self, digits: int) -> str:
        at = self._at
        self._at = at + digits // 2
        return self._bytes[at : self._at].hex()


def task_id(draws: Draws, at: datetime) -> TaskId:
    return TaskId(_uuid(draws.hex(20), at))


def event_id(own: TaskId, step: int, at: datetime) -> EventId:
    """Give the id of a task's event, whose time comes first as in every UUID of version 7."""
    return EventId(_uuid(f"{step:03x}{own[19:23]}{own[24:]}0", at))


def _uuid(digits: str, at: datetime) -> str:
    milliseconds = f"{int(at.timestamp() * 1000):012x}"
    return (
        f"{milliseconds[:8]}-{milliseconds[8:]}-7{digits[:3]}-"
        f"{'89ab'[int(digits[3], 16) & 3]}{digits[4:7]}-{digits[7:19]}"
    )


def submission(draws: Draws, at: datetime, *, rare: bool) -> AnySubmission:
    """Make up what somebody submits at that time; ``rare``: with the rare word and the rare tag."""
    tags = {draws.among_the_first(TAGS) for _ in range(draws.one_of((0, 1, 2, 3)))}
    members: dict[str, Any] = {  # Any: members of several types
        "priority": draws.one_of((Priority.HIGH, *[Priority.NORMAL] * 6, Priority.LOW)),
        "tenant": draws.among_the_first(TENANTS),
        "user": draws.among_the_first(USERS),
        "tags": tuple(sorted(tags | {RARE_TAG} if rare else tags)),
        "metadata": {"order": draws.number()},
        "fingerprint": draws.hex(64),
        "start_deadline": at + _LIFE,
        "deadline": at + _LIFE,
    }
    prompt = draws.text(8, 24) + (f" {RARE_WORD}" if rare else "")
    if draws.share() < 0.8:
        return ImageSubmission(request=_image(draws, prompt), **members)
    request = SpeechRequest(
        artifact=f"upload-{draws.hex(32)}",
        model=draws.one_of(SPEECH_MODELS),
        language=draws.one_of(("en", "de", "fr")),
        prompt=prompt,
    )
    return SpeechSubmission(request=request, audio_bytes=draws.number() * 200, **members)


def later(made: AnySubmission) -> AnySubmission:
    """Make it wait for a moment that comes after everything that is measured."""
    assert made.deadline is not None
    begin = made.deadline + _LIFE
    return replace(made, not_before=begin, start_deadline=begin + _LIFE, deadline=begin + _LIFE)


def _image(draws: Draws, prompt: str) -> ImageRequest:
    return ImageRequest(
        prompt=prompt,
        negative_prompt="blurry, low quality",
        model=draws.among_the_first(IMAGE_MODELS),
        width=draws.one_of(SIDES),
        height=draws.one_of(SIDES),
        steps=draws.one_of((4, 20, 20, 28, 50)),
        seed=draws.number(),
        guidance=draws.one_of((1.0, 4.5, 7.0)),
    )
