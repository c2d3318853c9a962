"""Streams and consumers on the server: made when they lack, compared when they are there.

The one rule: everything here may run any number of times, from any number of processes at once.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

from schemas.subjects import TASK_EVENTS, TASKS, Lane, lane_of_filter
from services.bus.connection import ApiError, Bus, Msg, status
from services.bus.stored import from_direct_get

STREAM_NOT_FOUND: Final = 10059
STREAM_NAME_TAKEN: Final = 10058
CONSUMER_EXISTS: Final = frozenset({10148, 10105, 10013})
CONSUMER_NOT_FOUND: Final = 10014
_BACK: Final = 32
_EVENT: Final = TASK_EVENTS.removesuffix(">")


class StreamInfo(Struct, frozen=True):
    """``created`` is the stream's identity: another value is another stream."""

    created: str
    first: int
    last: int


async def ensure_stream(bus: Bus, wanted: dict[str, Any]) -> str | None:
    """Create a stream, or change what differs; give one line on what was done, None for nothing."""
    name = wanted["name"]
    try:
        info = await bus.api(f"STREAM.INFO.{name}")
    except ApiError as error:
        if error.code != STREAM_NOT_FOUND:
            raise
        try:
            await bus.api(f"STREAM.CREATE.{name}", wanted)
        except ApiError as taken:
            if taken.code != STREAM_NAME_TAKEN:
                raise
            return await ensure_stream(bus, wanted)
        return f"created {name}"
    config: dict[str, Any] = info["config"]
    differs = sorted(key for key, value in wanted.items() if config.get(key, _unset(value)) != value)
    if not differs:
        return None
    await bus.api(f"STREAM.UPDATE.{name}", {**config, **wanted})
    return f"changed {name}: {', '.join(differs)}"


def _unset(value: Any) -> Any:  # Any: JSON
    """Say what a member that the server left out is equal to: the zero value of its type."""
    return type(value)()


async def stream_info(bus: Bus, name: str) -> StreamInfo:
    info = await bus.api(f"STREAM.INFO.{name}")
    state = info["state"]
    return StreamInfo(info["created"], state["first_seq"], state["last_seq"])


async def last_event(bus: Bus) -> int:
    """Give the sequence of the log's last event, 0 for none; a schedule behind it is no event.

    Looked for from the end, where it nearly always is: the server finds the last message of a subject in a
    time that grows with the number of subjects.
    """
    last = (await stream_info(bus, TASKS)).last
    for sequence in range(last, max(0, last - _BACK), -1):
        answer = await _direct(bus, {"seq": sequence})
        if not status(answer) and from_direct_get(answer).subject.startswith(_EVENT):
            return sequence
    answer = await _direct(bus, {"last_by_subj": TASK_EVENTS})
    return 0 if status(answer) else from_direct_get(answer).sequence


async def _direct(bus: Bus, wanted: dict[str, Any]) -> Msg:  # Any: JSON
    return await bus.request(f"$JS.API.DIRECT.GET.{TASKS}", msgspec.json.encode(wanted))


async def storage_share(bus: Bus) -> float:
    """Give the used share of the account's file storage, 0 to 1; 0 where it has no limit."""
    info = await bus.api("INFO")
    limit = info["limits"]["max_storage"]
    return float(info["storage"]) / limit if limit > 0 else 0.0


async def ensure_lane(bus: Bus, lane: Lane) -> None:
    """Create a lane's consumer; that it exists already is as good."""
    body = {"stream_name": TASKS, "config": lane.consumer, "action": "create"}
    try:
        await bus.api(f"CONSUMER.CREATE.{TASKS}.{lane.name}.{lane.filter}", body)
    except ApiError as error:
        if error.code not in CONSUMER_EXISTS:
            raise


class Depth(Struct, frozen=True):
    """``waiting``: tickets nobody has pulled. ``given``: pulled and not acked, redeliverable or not.

    ``delivered`` counts every delivery so far.
    """

    waiting: int
    given: int
    delivered: int = 0


class _Config(Struct):
    filter_subject: str = ""


class _Delivered(Struct):
    consumer_seq: int


class _Consumer(Struct):
    config: _Config
    delivered: _Delivered
    num_pending: int
    num_ack_pending: int


class _Page(Struct):
    total: int
    consumers: tuple[_Consumer, ...] | None


_decode_page: Final = msgspec.json.Decoder(_Page).decode


async def lane_depths(bus: Bus) -> dict[Lane, Depth]:
    """Read every lane's depth; one request for 256 of them."""
    depths: dict[Lane, Depth] = {}
    offset, total = 0, 1
    while offset < total:
        page = _decode_page(await bus.api_answer(f"CONSUMER.LIST.{TASKS}", {"offset": offset}))
        consumers = page.consumers or ()
        for info in consumers:
            lane = lane_of_filter(info.config.filter_subject)
            if lane is not None:
                depths[lane] = Depth(info.num_pending, info.num_ack_pending, info.delivered.consumer_seq)
        total = page.total
        offset += len(consumers) or total
    return depths
