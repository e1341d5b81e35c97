"""Ask and observe: the search of a box by any black-box optimizer, for those who own the loop."""

import math
import numbers
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l2o.errors import UserError
from l2o.interop.proposals import Named, Proposer, Ticket, source, unit_cube
from l2o.interop.searchlog import SearchLog


@dataclass(eq=False)
class Trial:
    """One evaluation.

    Attributes:
      number: counted from 0, in the order of asking.
      x: the point, float64, shape [d]; read-only.
      value: what was observed; NaN while it is open, and where it failed.
      error: why it failed, None where it did not.
      seconds: how long it took, None where nobody said.
    """

    number: int
    x: np.ndarray
    value: float = math.nan
    error: str | None = None
    seconds: float | None = None


@dataclass(eq=False)
class Result:
    """What a run found, with the names of `scipy.optimize.OptimizeResult`.

    Attributes:
      x: the best point, None where all evaluations failed.
      fun: its value, NaN where all evaluations failed.
      nfev: evaluations made, failed ones and those of an earlier run of the log included.
      success: whether an evaluation succeeded.
      status: 0 the budget is spent, 1 the callback stopped the run, 2 all evaluations failed, 3 not finished.
      message: the same in words.
      history: evaluations in the order in which their values came.
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


class Search:
    """Ask for points and observe their values, in a loop of one's own. `l2o.minimize` is that loop.

    Results may come in any order, some of them never, and more points may be asked for than the budget says.
    One thread at a time may call it.

    Args:
      bounds: (low, high) for each dimension; for a range over decades, search its logarithm.
      optimizer: a shipped name, a directory, the kind of a baseline such as "random", or an optimizer itself.
      budget: evaluations that the run will have; the optimizer may plan with it.
      seed: decides all randomness.
      log: a file that gets everything as it comes, and from which the same search goes on: points that were asked for
        without an answer are asked for again first. Needs the same arguments, the budget among them, because
        the optimizer plans with it. An optimizer without a name is not compared.

    Attributes:
      budget: as given.
      history: trials with a value or an error, in the order in which they came.

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

    def __init__(
        self,
        bounds: Sequence[Any] | np.ndarray,
        optimizer: Named = "rnn",
        *,
        budget: int = 100,
        seed: int = 0,
        log: str | Path | None = None,
    ):
        self._low, self._high = _box(bounds)
        self.budget = whole_number("budget", budget, 1, 2**31 - 1)
        self._seed = whole_number("seed", seed, 0, 2**32 - 1)
        self._source = source(optimizer)
        self.history: list[Trial] = []
        self.proposal_seconds = 0.0
        self._best: Trial | None = None
        self._open: dict[int, Trial] = {}
        self._tickets: dict[int, Ticket] = {}
        self._asked = 0
        self._proposer: Proposer | None = None
        self._log = None if log is None else SearchLog(log, self._header())
        for event in self._log.events if self._log else ():
            self._recall(event)
        self._again = deque(self._open.values())  # asked for by a run that was killed before it knew the value

    def _header(self) -> dict[str, Any]:
        return {
            "bounds": np.stack([self._low, self._high], axis=1).tolist(),
            "optimizer": self._source.name,
            "identity": self._source.identity,
            "budget": self.budget,
            "seed": self._seed,
        }

    def _recall(self, event: dict[str, Any]) -> None:
        if "asked" in event:
            self._opened(np.array(event["x"], np.float64))
        else:
            value = math.nan if event["value"] is None else float(event["value"])
            self._closed(self._open[event["told"]], value, event["error"], event["seconds"])

    def _opened(self, x: np.ndarray) -> Trial:
        x.flags.writeable = False
        trial = self._open[self._asked] = Trial(self._asked, x)
        self._asked += 1
        return trial

    def _closed(self, trial: Trial, value: float, error: str | None, seconds: float | None) -> None:
        trial.value, trial.error, trial.seconds = value, error, seconds
        del self._open[trial.number]
        self.history.append(trial)
        if error is None and (self._best is None or value < self._best.value):
            self._best = trial

    def _started(self) -> Proposer:
        """The optimizer, where the log left it. Late, so that a finished log compiles nothing."""
        if self._proposer is None:
            proposer = Proposer(self._source, unit_cube(self._low.size), self.budget, self._seed)
            for event in self._log.events if self._log else ():
                if "asked" in event:
                    ticket = self._tickets[event["asked"]] = proposer.propose()
                    x = np.array(event["x"], np.float64)
                    if not np.array_equal(self._point(ticket), x):  # from another machine: what was evaluated counts
                        proposer.replace(ticket, (x - self._low) / (self._high - self._low))
                else:
                    proposer.tell(self._tickets.pop(event["told"]), _told(event["value"]))
            self._proposer = proposer
        return self._proposer

    def _point(self, ticket: Ticket) -> np.ndarray:
        """In float64, and exact at both ends, so that a box of any size loses nothing."""
        u = ticket.x.astype(np.float64)
        return np.clip(self._low * (1 - u) + self._high * u, self._low, self._high)

    def ask(self) -> Trial:
        """The next point to evaluate.

        Raises:
          RuntimeError: the optimizer proposed something that is not finite.
        """
        if self._again:
            return self._again.popleft()
        start = time.perf_counter()
        ticket = self._started().propose()
        self.proposal_seconds += time.perf_counter() - start
        self._tickets[self._asked] = ticket
        x = self._point(ticket)
        if self._log:
            self._log.write({"asked": self._asked, "x": x.tolist()})
        return self._opened(x)

    def observe(self, trial: Trial, value: Any, *, error: str | None = None, seconds: float | None = None) -> None:
        """Say what the evaluation of a trial gave.

        Args:
          trial: what `ask` returned.
          value: a real number; NaN or an infinity says that the evaluation failed.
          error: why it failed; then the value does not count.
          seconds: how long it took, for the history.

        Raises:
          UserError: the value is not a real number, or the trial has one already.
        """
        if not isinstance(trial, Trial) or self._open.get(trial.number) is not trial:
            raise UserError("observe takes a trial that this search asked for, once")
        value = math.nan if error is not None else real_number(value)
        if error is None and not math.isfinite(value):
            error = f"the value is {value}"
        start = time.perf_counter()
        proposer = self._started()
        proposer.tell(self._tickets.pop(trial.number), _told(None if error else value))
        self.proposal_seconds += time.perf_counter() - start
        self._closed(trial, math.nan if error else value, error, seconds)
        if self._log:
            told = {"told": trial.number, "value": None if error else value, "error": error, "seconds": seconds}
            self._log.write(told)

    @property
    def best(self) -> Trial | None:
        """The trial with the smallest value, the first of equals; None where none has succeeded."""
        return self._best

    def result(self) -> Result:
        """What has been found so far."""
        best, n = self._best, len(self.history)
        status = 0 if n >= self.budget else 3
        message = "the budget is spent" if status == 0 else f"{n} of {self.budget} evaluations made"
        if n and best is None:
            status = 2 if status == 0 else status
            message = f"{message}: all {n} failed, the last one with {self.history[-1].error}"
        return Result(
            x=None if best is None else best.x.copy(),
            fun=math.nan if best is None else best.value,
            nfev=n,
            success=best is not None,
            status=status,
            message=message,
            history=self.history,
            optimizer=self._source.name,
            proposal_seconds=self.proposal_seconds,
        )

    def close(self) -> None:
        """Close the log, if there is one."""
        if self._log:
            self._log.close()

    def __enter__(self) -> "Search":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _told(value: float | None) -> float:
    return math.nan if value is None else value


def real_number(value: Any) -> float:
    """The value of an evaluation as a float.

    Raises:
      UserError: it is not one real number.
    """
    if type(value) is float:
        return value
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    shape = getattr(value, "shape", None)  # an array of one number, whoever made it
    if shape is not None and math.prod(shape) == 1 and hasattr(value, "item"):
        one = value.item()
        if isinstance(one, numbers.Real):
            return float(one)
    found = f"an array of shape {tuple(shape)}" if shape else f"{type(value).__name__} {value!r:.80}"
    raise UserError(f"the value of an evaluation must be one real number, found {found}")


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """The value as an int.

    Raises:
      UserError: it is none, or outside of its range.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{name} is {value!r}: expected a whole number from {low} to {high}")
    return int(value)


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
