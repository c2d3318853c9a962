"""Keys in the order of a number each has, which may change at any time. Pure."""

import itertools
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

_Key = TypeVar("_Key", bound=Any)
"""Any: whatever has an order and a hash."""


class Ranked(Generic[_Key]):
    """The least number first, equals by key. A list kept in order: moving it costs less than comparing."""

    __slots__ = ("_numbers", "_order")

    def __init__(self) -> None:
        self._numbers: dict[_Key, float] = {}
        self._order: list[tuple[float, _Key]] = []

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, key: _Key) -> bool:
        return key in self._numbers

    def __getitem__(self, index: int) -> tuple[float, _Key]:
        """Give number and key of one by its place. Raises IndexError."""
        return self._order[index]

    def __iter__(self) -> Iterator[tuple[float, _Key]]:
        """Give number and key of each, as long as nothing changes."""
        return iter(self._order)

    def drop_up_to(self, number: float) -> list[_Key]:
        """Forget all with that number or a lesser one, and give them."""
        keys = [key for _, key in itertools.takewhile(lambda entry: entry[0] <= number, self._order)]
        for key in keys:
            self.drop(key)
        return keys

    def copy(self) -> list[tuple[float, _Key]]:
        """Give number and key of each."""
        return self._order.copy()

    def get(self, key: _Key, default: float = 0.0) -> float:
        return self._numbers.get(key, default)

    def put(self, key: _Key, number: float) -> None:
        """Take in a key, or its new number."""
        self.drop(key)
        self._numbers[key] = number
        insort(self._order, (number, key))

    def drop(self, key: _Key) -> None:
        """Forget a key, if it is known."""
        number = self._numbers.pop(key, None)
        if number is not None:
            del self._order[bisect_left(self._order, (number, key))]
