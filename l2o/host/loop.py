"""What all loops of one's own share: trials that are asked for and told, and a log that a killed run goes on from."""

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from l2o.errors import UserError
from l2o.host.arguments import listed, real_number, whole_number
from l2o.host.log import Added, Asked, Event, Format, Log, Told
from l2o.host.proposals import Named, source
from l2o.host.suggester import Suggester
from l2o.host.view import View


@dataclass(eq=False, repr=False)
class Trial:
    """One evaluation of a `Search` or a `Study`.

    Attributes:
      number: counted from 0, in the order of asking.
      value: what was observed; None while it is pending, and where it failed.
      error: why it failed; None where it did not.
      seconds: how long it took; None where nobody said.
      known: whether a person evaluated it unasked, so that it was no evaluation of this run.
    """

    number: int
    _point: Any
    value: float | None = None
    error: str | None = None
    seconds: float | None = None
    known: bool = False

    @property
    def x(self) -> np.ndarray:
        """The point to evaluate in a `Search`, float64, shape [d]; read-only."""
        if not isinstance(self._point, np.ndarray):
            raise AttributeError("a trial of named parameters has no x: take its parameters")
        return self._point

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters to evaluate in a `Study`, by name; a copy."""
        if not isinstance(self._point, dict):
            raise AttributeError("a trial of a box has no parameters: take its x")
        return copy.deepcopy(self._point)

    @property
    def state(self) -> str:
        """ "pending", "complete", or "infeasible" where the evaluation failed."""
        if self.error is not None:
            return "infeasible"
        return "pending" if self.value is None else "complete"

    def __repr__(self) -> str:
        outcome = "" if self.state == "pending" else f" ({self.value if self.error is None else self.error})"
        point = self._point.tolist() if isinstance(self._point, np.ndarray) else self._point
        return f"<trial {self.number}, {self.state}{outcome}: {point}>"


class Loop(ABC):
    """A loop that a person owns, of trials that are asked for, evaluated and told in any order.

    All that changes it is an event. Each is written to the log, if there is one, before it counts; a loop that is
    opened again goes through those of its log.

    Args:
      optimizer: see `l2o.Search`.
      budget: evaluations that are planned.
      seed: decides all randomness.
      guesses: points to evaluate first.
      known: pairs of a point and its value, from evaluations made before.
      maximize: whether the greatest value is the best.

    Attributes:
      budget: as given.
      proposal_seconds: what the optimizer itself took, compilation included.

    Raises:
      UserError: bad input.
    """

    OWNER: ClassVar[str]  # what a person calls it
    POINT: ClassVar[str]  # and what is evaluated

    def __init__(
        self, optimizer: Named, budget: int, seed: int, guesses: Iterable[Any], known: Iterable[tuple[Any, Any]],
        maximize: bool = False,
    ):  # fmt: skip
        self._source = source(optimizer)
        self.budget = whole_number("budget", budget, 1, 2**31 - 1)
        self._seed = whole_number("seed", seed, 0, 2**32 - 1)
        self._guesses = [self._checked(f"guesses[{i}]", each) for i, each in enumerate(listed("guesses", guesses))]
        self._known = [self._pair(f"known[{i}]", each) for i, each in enumerate(listed("known", known))]
        self._sign = -1.0 if maximize else 1.0
        self._suggester: Suggester | None = None
        self._log: Log | None = None
        self.proposal_seconds = 0.0
        self._trials: list[Trial] = []
        self._told: list[Trial] = []  # in the order in which their values came
        self._events: list[Event] = []
        self._guessed = 0
        self._best: Trial | None = None
        self._again: list[Trial] = []

    @abstractmethod
    def _checked(self, what: str, given: Any) -> Any:
        """The point that a person gave; a `UserError` where it is none."""

    @abstractmethod
    def _is_point(self, given: Any) -> bool:
        """Whether a person who tells a value means a point, and not a trial or its number."""

    def _pair(self, what: str, pair: Any) -> tuple[Any, float]:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise UserError(f"{what} is {pair!r:.80}: expected a pair of {self.POINT} and its value")
        return self._checked(f"the point of {what}", pair[0]), real_number(pair[1])

    def _plan_with(self, view: View) -> None:
        """Let the optimizer propose in a space."""
        self._suggester = Suggester(self._source, view, self.budget, self._seed, self._sign)

    def _begin(self, path: str | Path | None, about: dict[str, Any], form: Format) -> None:
        """Open the log, go through its events, and tell what is known and was not told yet."""
        header = about | {"optimizer": self._source.name, "identity": self._source.identity, "seed": self._seed}
        if self._guesses:
            header["guesses"] = [_as_lists(point) for point in self._guesses]
        if self._known:
            header["known"] = [[_as_lists(x), value if math.isfinite(value) else None] for x, value in self._known]
        self._log = None if path is None else Log(path, header, form)
        for event in self._log.events if self._log else ():
            self._happened(event)
        self._again = list(self._trials)  # those of a run that was killed before it knew their values
        try:
            for point, value in self._known[len(self._trials) :]:  # they come first, so what is there has them
                self.observe(point, value)
        except BaseException:
            self.close()
            raise

    def _write(self, event: Event) -> None:
        if self._log:
            self._log.write(event)
        self._happened(event)

    def _happened(self, event: Event) -> None:
        """All that changes a loop; the same for what happens and for what is read from its log."""
        self._events.append(event)
        if isinstance(event, Asked):
            self._guessed += event.own * len(event.points)
            self._trials += [Trial(number, point) for number, point in enumerate(event.points, event.number)]
            return
        if isinstance(event, Added):
            self._trials.append(Trial(event.number, event.point, known=True))
        trial = self._trials[event.number]
        trial.value, trial.error, trial.seconds = event.value, event.error, event.seconds
        self._told.append(trial)
        if event.value is not None:
            self._best = trial if self._best is None else min(self._best, trial, key=self._rank)

    def _rank(self, trial: Trial) -> tuple[float, int]:
        assert trial.value is not None
        return self._sign * trial.value, trial.number

    def _next(self, count: int) -> list[Trial]:
        """Trials to evaluate: first those that wait for it since a kill, then guesses, then proposals."""
        waiting = [trial for trial in self._again if trial.state == "pending"]
        self._again, number = waiting[count:], len(self._trials)
        missing = count - len(waiting)
        guesses = self._guesses[self._guessed :][: max(missing, 0)]
        try:
            if guesses:
                self._write(Asked(number, guesses, own=True))
            if missing > len(guesses):
                self._propose(missing - len(guesses))
        except BaseException:
            self._again = waiting + self._trials[number:]  # guesses that are written already come next time
            raise
        return waiting[:count] + self._trials[number:]

    def _propose(self, count: int) -> None:
        number, start = len(self._trials), time.perf_counter()
        points = self._proposed(count)
        self.proposal_seconds += time.perf_counter() - start
        try:
            self._write(Asked(number, points))
        except BaseException:
            if self._suggester is not None:
                self._suggester.forget()
            raise

    def _proposed(self, count: int) -> list[Any]:
        """What the optimizer would evaluate next."""
        assert self._suggester is not None
        return self._suggester.suggest(self._events, len(self._trials), count)

    def observe(self, trial: Any, value: Any, *, error: object = None, seconds: float | None = None) -> None:
        """Say what the evaluation of a trial gave. With a log, it is on the disk when this returns.

        Args:
          trial: what was asked for, or a copy of it from another process, or its number; or any point of the space,
            whose value is known from elsewhere and which becomes a trial of its own.
          value: a real number; NaN or an infinity says that the evaluation failed.
          error: why it failed; then the value does not count.
          seconds: how long it took.

        Raises:
          UserError: the value is not a real number, the trial has an outcome already, or it is of another run; or the
            log cannot be written, and then nothing has changed.
        """
        number, found = None if error is not None else real_number(value), error
        if number is not None and not math.isfinite(number):
            number, found = None, f"the value is {number}"
        self._close("observe", trial, number, None if found is None else str(found), seconds)

    def fail(self, trial: Any, error: object = "the evaluation failed", *, seconds: float | None = None) -> None:
        """Say that the evaluation of a trial failed, and perhaps why; see `observe`.

        Raises:
          UserError: the trial has an outcome already, or it is of another run; or the log cannot be written.
        """
        self._close("fail", trial, None, str(error), seconds)

    def _close(self, what: str, trial: Any, value: float | None, error: str | None, seconds: float | None) -> None:
        """Write the outcome of a trial."""
        if self._is_point(trial):
            point = self._checked("the point", trial)
            self._write(Added(len(self._trials), point, value, error, seconds))
            return
        found = self._meant(what, trial)
        if found.state != "pending":
            raise UserError(f"{what}: trial {found.number} is {found.state} already, expected one that is pending")
        self._write(Told(found.number, value, error, seconds))

    def _meant(self, what: str, trial: Any) -> Trial:
        """The trial of this loop that a trial, a copy of it or a number stands for."""
        number = trial.number if isinstance(trial, Trial) else trial
        if not isinstance(number, int | np.integer) or isinstance(number, bool):
            raise UserError(f"{what} takes a trial that this {self.OWNER} asked for, found {trial!r:.80}")
        found = self._trials[int(number)] if 0 <= number < len(self._trials) else None
        if isinstance(trial, Trial) and (found is None or not _same(trial._point, found._point)):
            raise UserError(f"{what} takes a trial that this {self.OWNER} asked for, found one of another {self.OWNER}")
        if found is None:
            raise UserError(f"{what}: there is no trial {number}, expected a number below {len(self._trials)}")
        return found

    @property
    def best(self) -> Trial | None:
        """The trial with the best value, the first of equals; None where none has succeeded."""
        return self._best

    @property
    def history(self) -> list[Trial]:
        """All trials by number, pending and failed ones included."""
        return list(self._trials)

    @property
    def evaluations(self) -> int:
        """How many have been made; what a person evaluated unasked does not count."""
        return sum(not trial.known for trial in self._told)

    def close(self) -> None:
        """Close the log, if there is one, which lets another process have it."""
        if self._log:
            self._log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _as_lists(point: Any) -> Any:
    """A point as it stands in the first line of a log, where a tuple is a list."""
    return point.tolist() if isinstance(point, np.ndarray) else point


def _same(a: Any, b: Any) -> bool:
    """Whether two points are the same, those of another kind of loop among them."""
    return type(a) is type(b) and (np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b)
