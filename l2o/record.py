"""A study as data: a search space, what it is called, and the trials that were made."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from l2o.errors import UserError
from l2o.space.searchspace import SearchSpace
from l2o.space.values import check_text, plain

GOALS = ("minimize", "maximize")
MARKS = ("infeasible", "pending")  # in place of a value: a failed evaluation, and one still in progress
STATES = ("complete", *MARKS)
Algorithm = Literal[
    "unknown", "random", "grid", "shuffled_grid", "hill_climbing", "regularized_evolution", "eagle",
    "evolution_strategy", "gp_ucb",
]  # fmt: skip
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)


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
      algorithm: that proposed the trials, one of `ALGORITHMS`.
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
