"""Ask and observe: the search of a box by any black-box optimizer, for those who own the loop."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l2o.errors import UserError
from l2o.host.arguments import one_path
from l2o.host.log import Format, is_number
from l2o.host.loop import Loop, Trial
from l2o.host.proposals import Named
from l2o.host.view import BoxView


@dataclass(eq=False)
class Result:
    """What a run found, with the names of `scipy.optimize.OptimizeResult`.

    Attributes:
      x: the best point, None where all evaluations failed.
      fun: its value, NaN where all evaluations failed.
      nfev: evaluations made, failed ones and those of an earlier run of the log included; what was known before is not.
      success: whether an evaluation succeeded.
      status: 0 the budget is spent, 1 the callback stopped the run, 2 all evaluations failed, 3 not finished.
      message: the same in words.
      history: trials in the order in which their values came, known ones included and pending ones left out.
      optimizer: its name.
      proposal_seconds: what the optimizer itself took, compilation included.
    """

    x: np.ndarray | None
    fun: float
    nfev: int
    success: bool
    status: int
    message: str
    history: list[Trial] = field(repr=False)
    optimizer: str
    proposal_seconds: float

    def __str__(self) -> str:
        rows = [(name, getattr(self, name)) for name in self.__dataclass_fields__ if name != "history"]
        return "\n".join(f"{name:>16}: {value}" for name, value in rows)


class Search(Loop):
    """Ask for points and observe their values, in a loop of one's own. `l2o.minimize` is that loop.

    Results may come in any order, some of them never, and more points may be asked for than the budget says.
    One thread at a time may call it.

    Args:
      bounds: (low, high) for each dimension; for a range over decades, search its logarithm.
      optimizer: a shipped name, a directory, the kind of a baseline such as "random", or an optimizer itself.
      budget: evaluations that the run will have; the optimizer may plan with it.
      seed: decides all randomness.
      path: a file that gets everything as it comes, and from which the same search goes on: points that were asked for
        without an answer are asked for again first. Needs the same arguments, the budget among them, because
        the optimizer plans with it. An optimizer without a name is not compared.
      log: another name of `path`.
      guesses: points to evaluate first, each [d] within the bounds. They count as evaluations.
      known: pairs of a point and its value, from evaluations made before. The optimizer is told them first; they do not
        count as evaluations.

    Attributes:
      budget: as given.
      proposal_seconds: what the optimizer itself took, compilation included.

    Raises:
      UserError: bad input, or a log that is damaged, in use, or of another search.

    >>> import l2o
    >>> search = l2o.Search([(-5, 10), (0, 15)], optimizer="random", budget=20, seed=0)
    >>> for _ in range(20):
    ...     trial = search.ask()
    ...     search.observe(trial, (trial.x**2).sum())
    >>> search.best.value < 60
    True
    """

    OWNER, POINT = "search", "a point"

    def __init__(
        self,
        bounds: Sequence[Any] | np.ndarray,
        optimizer: Named = "rnn",
        *,
        budget: int = 100,
        seed: int = 0,
        path: str | Path | None = None,
        log: str | Path | None = None,
        guesses: Iterable[Any] = (),
        known: Iterable[tuple[Any, Any]] = (),
    ):
        self._low, self._high = _box(bounds)
        super().__init__(optimizer, budget, seed, guesses, known)
        self._plan_with(BoxView(self._low, self._high))
        about = {"bounds": np.stack([self._low, self._high], axis=1).tolist(), "budget": self.budget}
        self._begin(one_path(path, log), about, box_format(self._low.size))

    def _checked(self, what: str, given: Any) -> np.ndarray:
        try:
            point = np.array(given, np.float64)
        except (TypeError, ValueError):
            point = np.zeros(0)
        if point.shape != self._low.shape or not ((self._low <= point) & (point <= self._high)).all():
            raise UserError(f"{what} is {given!r:.80}: expected a number within the bounds for each dimension")
        return _read_only(point)

    def _is_point(self, given: Any) -> bool:
        return not isinstance(given, Trial | int | np.integer) or isinstance(given, bool)

    def _proposed(self, count: int) -> list[np.ndarray]:
        return [_read_only(point) for point in super()._proposed(count)]

    def ask(self) -> Trial:
        """The next point to evaluate.

        Raises:
          RuntimeError: the optimizer proposed something that is not finite.
          UserError: the log cannot be written. Nothing has changed then, and the same point comes when it can.
        """
        return self._next(1)[0]

    def result(self) -> Result:
        """What has been found so far."""
        best, n = self.best, self.evaluations
        status = 0 if n >= self.budget else 3
        message = "the budget is spent" if status == 0 else f"{n} of {self.budget} evaluations made"
        if n and best is None:
            status = 2 if status == 0 else status
            message = f"{message}: all {n} failed, the last one with {self._told[-1].error}"
        return Result(
            x=None if best is None else best.x.copy(),
            fun=math.nan if best is None or best.value is None else best.value,
            nfev=n,
            success=best is not None,
            status=status,
            message=message,
            history=self._told,
            optimizer=self._source.name,
            proposal_seconds=self.proposal_seconds,
        )


def box_format(dimensions: int) -> Format:
    """How the log of a search of so many dimensions is written."""

    def decode(x: Any) -> np.ndarray | None:
        fits = isinstance(x, list) and len(x) == dimensions and all(map(is_number, x))
        return _read_only(np.array(x, np.float64)) if fits else None

    return Format(
        "l2o-search", "search", "l2o.minimize", "x", several=False, encode=lambda x: x.tolist(), decode=decode
    )


def _read_only(point: np.ndarray) -> np.ndarray:
    point.flags.writeable = False
    return point


def _box(bounds: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        box: np.ndarray = np.asarray(list(bounds))
    except (TypeError, ValueError):
        box = np.zeros(0, object)
    if box.ndim != 2 or box.shape[1] != 2 or not len(box) or box.dtype.kind not in "iuf":
        raise UserError(f"bounds are {bounds!r:.80}: expected a pair (low, high) of numbers for each dimension")
    box = box.astype(np.float64)
    for i, (low, high) in enumerate(box.tolist()):
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(f"bounds[{i}] is ({low}, {high}): expected finite numbers with low < high")
    return box[:, 0].copy(), box[:, 1].copy()
