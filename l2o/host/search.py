"""Ask and observe: the search of a box by any black-box optimizer, for those who own the loop."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l2o.errors import UserError
from l2o.host.arguments import listed, real_number, whole_number
from l2o.host.proposals import Named, source
from l2o.host.searchlog import SearchLog
from l2o.host.suggester import Asked, Step, Suggester, Told
from l2o.host.view import BoxView


@dataclass(eq=False)
class Trial:
    """One evaluation.

    Attributes:
      number: counted from 0, in the order of asking.
      x: the point, float64, shape [d]; read-only.
      value: what was observed; NaN while it is open, and where it failed.
      error: why it failed, None where it did not.
      seconds: how long it took, None where nobody said.
      known: whether its value was known before, so that it was no evaluation of this run.
    """

    number: int
    x: np.ndarray
    value: float = math.nan
    error: str | None = None
    seconds: float | None = None
    known: bool = False


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
      history: trials in the order in which their values came, known ones included.
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
      guesses: points to evaluate first, each [d] within the bounds. They count as evaluations.
      known: pairs of a point and its value, from evaluations made before. The optimizer is told them first; they do not
        count as evaluations.

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
        guesses: Iterable[Any] = (),
        known: Iterable[tuple[Any, Any]] = (),
    ):
        self._low, self._high = _box(bounds)
        self.budget = whole_number("budget", budget, 1, 2**31 - 1)
        self._seed = whole_number("seed", seed, 0, 2**32 - 1)
        self._guesses = [self._inside(f"guesses[{i}]", x) for i, x in enumerate(listed("guesses", guesses))]
        self._known = [self._pair(f"known[{i}]", each) for i, each in enumerate(listed("known", known))]
        self._source = source(optimizer)
        self._suggester = Suggester(self._source, BoxView(self._low, self._high), self.budget, self._seed)
        self.history: list[Trial] = []
        self.proposal_seconds = 0.0
        self._best: Trial | None = None
        self._trials: list[Trial] = []
        self._open: dict[int, Trial] = {}
        self._steps: list[Step] = []
        self._guessed = 0
        self._log = None if log is None else SearchLog(log, self._header())
        for event in self._log.events if self._log else ():
            self._happened(event)
        self._again = list(self._open.values())  # asked for by a run that was killed before it knew the value
        try:
            for x, value in self._known[sum(trial.known for trial in self._trials) :]:
                self.observe(x, value)
        except BaseException:
            self.close()
            raise

    def _header(self) -> dict[str, Any]:
        header = {
            "bounds": np.stack([self._low, self._high], axis=1).tolist(),
            "optimizer": self._source.name,
            "identity": self._source.identity,
            "budget": self.budget,
            "seed": self._seed,
        }
        if self._guesses:
            header["guesses"] = [x.tolist() for x in self._guesses]
        if self._known:
            header["known"] = [[x.tolist(), value if math.isfinite(value) else None] for x, value in self._known]
        return header

    def _write(self, event: dict[str, Any]) -> None:
        if self._log:
            self._log.write(event)
        self._happened(event)

    def _happened(self, event: dict[str, Any]) -> None:
        """All that changes a search; the same for what happens and for what is read from its log."""
        if "told" in event:
            trial = self._open.pop(event["told"])
        else:
            added = "added" in event
            x = np.array(event["x"], np.float64)
            x.flags.writeable = False
            trial = Trial(len(self._trials), x, known=added)
            own = added or event.get("guess", False)
            self._guessed += own and not added
            self._trials.append(trial)
            self._steps.append(Asked(trial.number, [x], own))
            if not added:
                self._open[trial.number] = trial
                return
        value = math.nan if event["value"] is None else float(event["value"])
        trial.value, trial.error, trial.seconds = value, event["error"], event["seconds"]
        self._steps.append(Told(trial.number, value))
        self.history.append(trial)
        if trial.error is None and (self._best is None or value < self._best.value):
            self._best = trial

    @property
    def evaluations(self) -> int:
        """How many have been made; what was known before does not count."""
        return sum(not trial.known for trial in self.history)

    def ask(self) -> Trial:
        """The next point to evaluate.

        Raises:
          RuntimeError: the optimizer proposed something that is not finite.
          UserError: the log cannot be written. Nothing has changed then, and the same point comes when it can.
        """
        while self._again:
            trial = self._again.pop(0)
            if trial.number in self._open:
                return trial
        number = len(self._trials)
        if self._guessed < len(self._guesses):
            event = {"asked": number, "x": self._guesses[self._guessed].tolist(), "guess": True}
        else:
            start = time.perf_counter()
            x = self._suggester.suggest(self._steps, number, 1)[0]
            self.proposal_seconds += time.perf_counter() - start
            event = {"asked": number, "x": x.tolist()}
        try:
            self._write(event)
        except BaseException:
            self._suggester.forget()
            raise
        return self._trials[number]

    def observe(self, trial: Any, value: Any, *, error: str | None = None, seconds: float | None = None) -> None:
        """Say what the evaluation of a trial gave. With a log, it is on the disk when this returns.

        Args:
          trial: what `ask` returned, or a copy of it from another process, or its number; or any point [d] within the
            bounds, whose value is known from elsewhere and which becomes a trial of its own.
          value: a real number; NaN or an infinity says that the evaluation failed.
          error: why it failed; then the value does not count.
          seconds: how long it took, for the history.

        Raises:
          UserError: the value is not a real number, or the trial has one already; or the log cannot be written, and
            then nothing has changed.
        """
        event = self._told(trial)
        value = math.nan if error is not None else real_number(value)
        if error is None and not math.isfinite(value):
            error = f"the value is {value}"
        self._write(event | {"value": None if error else value, "error": error, "seconds": seconds})

    def _told(self, trial: Any) -> dict[str, Any]:
        """The beginning of the event."""
        if isinstance(trial, Trial):
            same = self._trials[trial.number : trial.number + 1]
            if not same or not np.array_equal(same[0].x, trial.x):
                raise UserError("observe takes a trial that this search asked for, found one of another search")
            trial = trial.number
        if not isinstance(trial, int | np.integer) or isinstance(trial, bool):
            return {"added": len(self._trials), "x": self._inside("the point", trial).tolist()}
        if not 0 <= trial < len(self._trials):
            raise UserError(f"observe: there is no trial {trial}, expected a number below {len(self._trials)}")
        if trial not in self._open:
            raise UserError(f"observe takes a trial once, and trial {trial} has a value or an error already")
        return {"told": int(trial)}

    def _inside(self, what: str, x: Any) -> np.ndarray:
        try:
            point = np.asarray(x, np.float64)
        except (TypeError, ValueError):
            point = np.zeros(0)
        if point.shape != self._low.shape or not ((self._low <= point) & (point <= self._high)).all():
            raise UserError(f"{what} is {x!r:.80}: expected a number within the bounds for each dimension")
        return point

    def _pair(self, what: str, pair: Any) -> tuple[np.ndarray, float]:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise UserError(f"{what} is {pair!r:.80}: expected a pair of a point and its value")
        return self._inside(f"the point of {what}", pair[0]), real_number(pair[1])

    @property
    def best(self) -> Trial | None:
        """The trial with the smallest value, the first of equals; None where none has succeeded."""
        return self._best

    def result(self) -> Result:
        """What has been found so far."""
        best, n = self._best, self.evaluations
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
