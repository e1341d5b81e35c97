"""A study as data: a search space, what it is called, and the trials that were made."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from l2o.errors import UserError
from l2o.optformer.vocabulary import ALGORITHMS, MARKS
from l2o.space.parameter import check_text, plain
from l2o.space.searchspace import SearchSpace

GOALS = ("minimize", "maximize")
STATES = ("complete", *MARKS)


class RecordedTrial(NamedTuple):
    """One evaluation.

    Attributes:
      parameters: an assignment of the study's space.
      value: of the metric, as it was measured; None unless complete.
      state: "complete", "infeasible" (it failed) or "pending" (in progress).
    """

    parameters: dict[str, Any]
    value: float | None = None
    state: str = "complete"


@dataclass(frozen=True)
class Record:
    """A study; bad input is refused with a `UserError`.

    Attributes:
      space: of the parameters.
      name: of the study; may be empty.
      metric: name of what is measured; may be empty.
      goal: "minimize" or "maximize" the metric.
      algorithm: that proposed the trials, one of `vocabulary.ALGORITHMS`.
      trials: in the order in which they were proposed; their parameters are checked when they are used.
    """

    space: SearchSpace
    name: str = ""
    metric: str = ""
    goal: str = "minimize"
    algorithm: str = "unknown"
    trials: Sequence[RecordedTrial] = ()

    def __post_init__(self):
        plain_trials = tuple(trial._replace(value=plain(trial.value)) for trial in self.trials)
        object.__setattr__(self, "trials", plain_trials)
        for what, found, known in (("goal", self.goal, GOALS), ("algorithm", self.algorithm, ALGORITHMS)):
            if found not in known:
                raise UserError(f"the {what} of a study is {found!r:.80}: expected one of {', '.join(known)}")
        for what, text in (("name", self.name), ("metric", self.metric)):
            try:
                check_text(f"the {what} of a study", text)
            except ValueError as error:
                raise UserError(str(error)) from None
        for i, trial in enumerate(self.trials):
            if trial.state not in STATES:
                raise UserError(f"trial {i} is {trial.state!r:.80}: expected one of {', '.join(STATES)}")
            measured = isinstance(trial.value, int | float) and abs(trial.value) <= sys.float_info.max
            if measured if trial.state != "complete" else not measured:
                expected = "a finite number" if trial.state == "complete" else "None"
                raise UserError(f"trial {i} is {trial.state} with value {trial.value!r:.80}: expected {expected}")


class Scale(NamedTuple):
    """How the values of a metric become bins.

    Attributes:
      low: the value at 0 in the unit interval; a real number.
      high: the value at 1, different from low or, where there is one value only, the same: it is then in the middle.
      bins: equal shares of the unit interval.

    >>> Scale(0.0, 1.0, 10).bin(0.25), Scale(1.0, 0.0, 10).bin(0.25), Scale(0.0, 1.0, 10).value(2)
    (2, 7, 0.25)
    """

    low: float
    high: float
    bins: int

    @classmethod
    def of(cls, y_range: Any, bins: int, flip: bool = False) -> "Scale":
        """The scale of a range (low, high); flipped, high is at 0.

        Raises:
          UserError: it is not one of finite numbers with low at most high, and a width that is finite.
        """
        try:
            low, high = (float(a) for a in y_range)
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        if not (low <= high and math.isfinite(high - low)):
            raise UserError(f"the range of a metric is {y_range!r:.80}: expected finite numbers, low and high")
        return cls(high, low, bins) if flip else cls(low, high, bins)

    def bin(self, value: float | int) -> int:
        """Of a value; those outside of the range are in the first or the last."""
        width = self.high - self.low
        unit = (value - self.low) / width if width else 0.5
        return min(math.floor(min(max(unit, 0.0), 1.0) * self.bins), self.bins - 1)

    def value(self, bin: int) -> float:
        """In the middle of a bin."""
        return self.low + (bin + 0.5) / self.bins * (self.high - self.low)
