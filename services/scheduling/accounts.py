"""The accounts of keys that share GPU seconds: what each has had, and where a newcomer begins. Pure.

The one rule: who had no work begins level with those that compete with it, or a charge behind them. So no
time without work is ever credited.
"""

from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

from services.scheduling.ranked import Ranked

_MOST_LAG_S: Final = 60.0
_SLACK_S: Final = 15.0
"""So much later are they drawn up, so that not every charge has all of them drawn up again."""
_MOST_IDLE: Final = 1024
_LASTING: Final = 0.9

_Key = TypeVar("_Key", bound=Hashable)


class Accounts(Generic[_Key]):
    """Seconds charged to keys that compete, of one kind of GPU.

    ``group`` names what a key has in common with those that compete with it for the same GPUs. ``moved``
    are those whose account has changed, until the reader clears it. Nothing takes longer where there are
    more of them, but what moves all.
    """

    def __init__(self, group: Callable[[_Key], Any]) -> None:  # Any: whatever has an order and a hash
        self._group = group
        self._working: dict[Hashable, Ranked[_Key]] = {}
        self._groups: Ranked[Hashable] = Ranked()  # by the least account of each
        self._idle: Ranked[_Key] = Ranked()
        self._last: dict[_Key, float] = {}
        self._dear_s = 0.0
        self.moved: set[_Key] = set()

    def __len__(self) -> int:
        """Count the accounts that are kept."""
        return len(self._idle) + sum(map(len, self._working.values()))

    def of(self, key: _Key) -> float:
        return self._kept(key).get(key)

    def charge(self, key: _Key, seconds: float) -> None:
        self._put(self._kept(key), key, self.of(key) + seconds)
        self._last[key] = seconds
        self._dear_s = max(seconds, self._dear_s * _LASTING)
        self._tidy()

    def correct(self, key: _Key, seconds: float, true_s: float) -> None:
        kept = self._kept(key)
        if key in kept:
            self._put(kept, key, kept.get(key) + seconds)
            self._last[key] = true_s
            self._tidy()

    def admit(self, came: Collection[_Key], gone: Iterable[_Key]) -> None:
        """Take in who has work now and had none, and who has none any more."""
        for key in gone:
            kept, group = self._kept(key), self._group(key)
            spent = kept.get(key)
            kept.drop(key)
            self._rank(group)
            self._put(self._idle, key, spent)
        if self._groups:
            floor = self._groups[0][0]
        else:
            floor = min((self._idle.get(key) for key in came if key in self._idle), default=0.0)
        for key, spent in [(key, self._beginning(key, floor)) for key in came]:
            self._idle.drop(key)
            self._put(self._working.setdefault(self._group(key), Ranked()), key, spent)
        self._tidy()

    def _beginning(self, key: _Key, floor: float) -> float:
        least = self._groups.get(self._group(key), floor)
        return min(max(self._idle.get(key), least), least + self._last.get(key, 0.0))

    def _kept(self, key: _Key) -> Ranked[_Key]:
        working = self._working.get(self._group(key))
        return working if working is not None and key in working else self._idle

    def _put(self, kept: Ranked[_Key], key: _Key, spent: float) -> None:
        kept.put(key, spent)
        if kept is not self._idle:
            self._rank(self._group(key))
        self.moved.add(key)

    def _rank(self, group: Hashable) -> None:
        if working := self._working[group]:
            self._groups.put(group, working[0][0])
        else:
            self._groups.drop(group)
            del self._working[group]

    def _tidy(self) -> None:
        """Draw up who has fallen behind, and forget who has no work and would begin like any other."""
        if self._groups:
            self._draw_up()
        while self._idle:
            spent, key = self._idle[0]
            if len(self._idle) <= _MOST_IDLE and not (self._groups and spent <= self._groups[0][0]):
                return
            self._idle.drop(key)
            self._last.pop(key, None)

    def _draw_up(self) -> None:
        """Keep groups within sight of each other, differences inside a group as they are.

        Who finds no GPU, or slower ones, falls behind the others; what can run on the GPUs of both would be
        held to the account of the one and take the other's place for as long as the two are apart.
        """
        near = self._groups[-1][0] - _MOST_LAG_S - 2 * self._dear_s
        if self._groups[0][0] >= near - _SLACK_S:
            return
        while self._groups[0][0] < near:
            least, group = self._groups[0]
            for spent, key in self._working[group].copy():
                self._put(self._working[group], key, spent - least + near)
