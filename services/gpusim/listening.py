"""Speech jobs: the model is loaded once, then each recording is decoded and heard on the GPU.

All of it is done in threads, so that the server answers meanwhile as far as its profile does.
"""

import asyncio
import hashlib
import threading
from collections.abc import Callable

from msgspec import Struct

from services.gpusim.gpu import Gpu
from services.gpusim.model import Job
from services.gpusim.speech import Recognizer, SpeechUnavailableError, Waveform
from services.gpusim.transcript import Transcript

GARBAGE = b"\x00\xff<html>"
"""What a spoiled job gives in place of JSON."""

LOADING = "loading model"


class Recording(Struct, frozen=True, kw_only=True):
    """A decoded file; `digest` is the SHA-256 of the file."""

    waveform: Waveform
    digest: str


class Ears:
    """The real model behind the one GPU of a simulated server."""

    def __init__(self, gpu: Gpu, load: Callable[[], Recognizer]) -> None:
        self._gpu = gpu
        self._load = load
        self._recognizer: Recognizer | None = None
        self._tried = asyncio.Event()
        self._excuse = LOADING

    @property
    def excuse(self) -> str | None:
        """Why nothing can be heard yet, or ever; None when all is well."""
        return self._excuse if self._recognizer is None else None

    async def load(self) -> None:
        """Load the model, or find out why there is none."""
        try:
            self._recognizer = await asyncio.to_thread(self._load)
        except SpeechUnavailableError as error:
            self._excuse = str(error)
        self._tried.set()

    async def decode(self, content: bytes) -> Recording:
        """Decode a file once the model is there, which takes no GPU.

        Raises AudioError, or SpeechUnavailableError when there is no model.
        """
        waveform = await asyncio.to_thread((await self._loaded()).decode, content)
        return Recording(waveform=waveform, digest=hashlib.sha256(content).hexdigest())

    async def hear(
        self, job: Job, recording: Recording, *, prompt: str | None, temperature: float, words: bool
    ) -> Transcript | None:
        """Run an admitted job to its end; None when the result must be garbage.

        Raises JobFailedError. When cancelled, it leaves the GPU at once.
        """
        recognizer, stopped = await self._loaded(), threading.Event()
        async with self._gpu.turn(job) as turn:
            await turn.stumble()
            try:
                transcript = await asyncio.to_thread(
                    recognizer.transcribe,
                    recording.waveform,
                    stopped,
                    prompt=prompt,
                    temperature=temperature,
                    words=words,
                )
            finally:
                stopped.set()  # a thread cannot be cancelled
            await turn.drag()
            return None if turn.spoiled else transcript

    async def _loaded(self) -> Recognizer:
        await self._tried.wait()
        if self._recognizer is None:
            raise SpeechUnavailableError(self._excuse)
        return self._recognizer
