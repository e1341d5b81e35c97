"""Which thread makes which shard of recorded studies, and how long that will take."""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Part(NamedTuple):
    """What is in one shard: studies of one teacher in one dimension.

    Attributes:
      number: of the shard.
      teacher: index in the config.
      dimension: of the tasks.
      counts: studies of each family of that dimension.
      batch: studies of a call, the same for all shards of a teacher and dimension, so that they are one program.
    """

    number: int
    teacher: int
    dimension: int
    counts: tuple[int, ...]
    batch: int


class Queue:
    """Shards to be made, for several threads: each stays with one program as long as it can, as compiling is slow."""

    def __init__(self, parts: Sequence[Part]):
        self._lock = threading.Lock()
        self._groups: dict[tuple[int, int], list[Part]] = {}
        for part in parts:
            self._groups.setdefault((part.dimension, part.teacher), []).append(part)
        self._free = list(self._groups)

    def take(self, last: Part | None) -> Part | None:
        """The next shard for whom has made `last`; None when there is no other."""
        with self._lock:
            own = self._groups[last.dimension, last.teacher] if last else None
            if not own and self._free:
                own = self._groups[self._free.pop(0)]
            own = own or max(self._groups.values(), key=len, default=None)
            return own.pop(0) if own else None

    def left(self) -> Iterator[Part]:
        """What nobody has taken yet."""
        with self._lock:
            return iter([part for group in self._groups.values() for part in group])


class Clock:
    """Progress. Teachers differ in speed by orders of magnitude, so the time left is counted teacher by teacher."""

    def __init__(self, names: Sequence[str], queue: Queue):
        self.names, self.queue, self.begun = names, queue, time.monotonic()
        self.spent: dict[int, list[float]] = {}  # by teacher: seconds and studies

    def row(self, part: Part, seconds: float) -> dict[str, Any]:
        """What a shard that took so many seconds of one device says."""
        studies = sum(part.counts)
        spent = self.spent.setdefault(part.teacher, [0.0, 0])
        spent[0], spent[1] = spent[0] + seconds, spent[1] + studies
        usual = sum(s for s, _ in self.spent.values()) / sum(n for _, n in self.spent.values())
        rates = {i: s / n for i, (s, n) in self.spent.items()}
        ahead = sum(sum(p.counts) * rates.get(p.teacher, usual) for p in self.queue.left())
        side_by_side = sum(s for s, _ in self.spent.values()) / max(time.monotonic() - self.begun, 1e-9)
        return {
            "shard": f"{self.names[part.teacher]} d={part.dimension}", "per_second": studies / seconds,
            "seconds_left": ahead / max(side_by_side, 1.0),
        }  # fmt: skip
