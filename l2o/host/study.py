"""A study over a space of named parameters, for those who own the loop: suggest, evaluate, observe."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from l2o.errors import UserError
from l2o.host.arguments import listed, real_number, whole_number
from l2o.host.policy import Policy, Prediction
from l2o.host.proposals import Named, source
from l2o.host.studylog import StudyLog, assignment
from l2o.host.suggester import Asked, Step, Suggester, Told
from l2o.host.view import NamedView
from l2o.optformer.optformer import OptFormerConfig
from l2o.optformer.prompt import prompt
from l2o.record import ALGORITHMS, Record, RecordedTrial
from l2o.space.searchspace import SearchSpace


@dataclass(eq=False, repr=False)
class StudyTrial:
    """One evaluation.

    Attributes:
      number: counted from 0, in the order of suggestion.
      value: what was observed; None while it is pending, and where it failed.
      error: why it failed, None where it did not.
    """

    number: int
    _parameters: dict[str, Any]
    value: float | None = None
    error: str | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What to evaluate, by name; a copy."""
        return copy.deepcopy(self._parameters)

    @property
    def state(self) -> str:
        """ "pending", "complete", or "infeasible" where the evaluation failed."""
        if self.error is not None:
            return "infeasible"
        return "pending" if self.value is None else "complete"

    def __repr__(self) -> str:
        outcome = "" if self.state == "pending" else f" ({self.value if self.error is None else self.error})"
        return f"<trial {self.number}, {self.state}{outcome}: {self._parameters}>"


class Study:
    """The tuning of named parameters: ask for suggestions, evaluate them, and say what came of it.

    Values may come in any order, some of them never. One thread at a time may call it.

    Args:
      space: an `l2o.SearchSpace`, a dictionary that `SearchSpace.from_dict` takes, or one of Optuna's distributions.
      optimizer: "optformer" or another trained one of its kind, which reads names and predicts; or anything else that
        `l2o.minimize` takes, which sees the kinds and scales of the parameters.
      name: of the study, for an optimizer that reads it; so is the name of the metric.
      metric: what is measured.
      goal: "minimize" or "maximize" it.
      seed: decides all randomness: the same calls give the same suggestions.
      budget: evaluations that are planned, for optimizers that plan; an optformer does not.
      earlier: finished studies of the same space, as `Study` or `Record`, that an optformer reads before this one. They
        are read as they are now, and are not kept in the file.
      guesses: assignments of the space to suggest first.
      known: pairs of an assignment and its value, from evaluations made before. They are the first trials.
      path: a file that gets everything as it comes, and from which the same call goes on after a kill as if there had
        been none. Whatever `observe` or `fail` was told is on the disk when they return. Trials that were suggested
        without an answer are suggested again first.

    Attributes:
      space, name, metric, goal: as given.

    Raises:
      UserError: bad input, or a file that is damaged, in use, or of another study.

    >>> import l2o
    >>> study = l2o.Study({"x": (-5.0, 5.0), "kind": ["a", "b"]}, optimizer="random", goal="maximize")
    >>> for _ in range(20):
    ...     trial = study.suggest()
    ...     study.observe(trial, -abs(trial.parameters["x"]))
    >>> study.best.value > -1
    True
    """

    def __init__(
        self,
        space: SearchSpace | Mapping[str, Any],
        optimizer: Named = "optformer",
        *,
        name: str = "",
        metric: str = "",
        goal: Literal["minimize", "maximize"] = "minimize",
        seed: int = 0,
        budget: int = 100,
        earlier: "Sequence[Study | Record]" = (),
        guesses: Iterable[Mapping[str, Any]] = (),
        known: Iterable[tuple[Mapping[str, Any], Any]] = (),
        path: str | Path | None = None,
    ):
        self.space = _space(space)
        for what, text in (("name", name), ("metric", metric)):
            if not isinstance(text, str):
                raise UserError(f"the {what} of a study is {text!r:.80}: expected a string")
        self.name, self.metric, self.goal = name, metric, goal
        self._source = source(optimizer)
        algorithm = self._source.name if self._source.name in ALGORITHMS else "unknown"
        self._about = Record(self.space, name, metric, goal, algorithm)
        self._seed = whole_number("seed", seed, 0, 2**32 - 1)
        budget = whole_number("budget", budget, 1, 2**31 - 1)
        self._policy: Policy | None = None
        if isinstance(self._source.optimizer, OptFormerConfig) and self._source.loaded is not None:
            self._policy = Policy(self._source.loaded)
            prompt(self._about)  # refuses too many parameters
        else:
            self._suggester = Suggester(self._source, NamedView(self.space, self._seed), budget, self._seed)
        self._earlier = self._records(earlier)
        self._guesses = [assignment(self.space, guess) for guess in listed("guesses", guesses)]
        self._known = [self._pair(i, pair) for i, pair in enumerate(listed("known", known))]
        self._trials: list[StudyTrial] = []
        self._steps: list[Step] = []
        self._guessed = 0
        self._log = None if path is None else StudyLog(path, self._header(budget), self.space)
        for event in self._log.events if self._log else ():
            self._happened(event)
        self._again = list(self._trials)  # those of a run that was killed before it knew their values
        try:
            for parameters, value in self._known[len(self._trials) :]:  # they come first, so what is there has them
                self.observe(parameters, value)
        except BaseException:
            self.close()
            raise

    def _pair(self, i: int, pair: Any) -> tuple[dict[str, Any], float]:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise UserError(f"known[{i}] is {pair!r:.80}: expected a pair of an assignment and its value")
        return assignment(self.space, pair[0]), real_number(pair[1])

    def _header(self, budget: int) -> dict[str, Any]:
        own: dict[str, Any] = {"guesses": self._guesses} if self._guesses else {}
        if self._known:
            own["known"] = [[p, value if math.isfinite(value) else None] for p, value in self._known]
        return own | {
            "space": [{"name": name, **fields} for name, fields in self.space.to_dict().items()],
            "name": self.name,
            "metric": self.metric,
            "goal": self.goal,
            "optimizer": self._source.name,
            "identity": self._source.identity,
            "budget": None if self._policy else budget,
            "seed": self._seed,
        }

    def _records(self, earlier: Any) -> list[Record]:
        if not isinstance(earlier, Iterable):
            raise UserError(f"earlier is {earlier!r:.80}: expected a list of studies")
        records = [each.record if isinstance(each, Study) else each for each in earlier]
        if records and self._policy is None:
            raise UserError(f"{self._source.name} reads no earlier studies: an optimizer of kind 'optformer' does")
        for i, record in enumerate(records):
            if not isinstance(record, Record):
                raise UserError(f"earlier[{i}] is {record!r:.80}: expected a study")
            if record.space != self.space:
                raise UserError(f"earlier[{i}] has another space: expected the parameters of this study")
        return records

    def _write(self, event: dict[str, Any]) -> None:
        if self._log:
            self._log.write(event)
        self._happened(event)

    def _happened(self, event: dict[str, Any]) -> None:
        """All that changes a study; the same for what happens and for what is read from its file."""
        if "asked" in event:
            own, number = event.get("guess", False), event["asked"]
            self._guessed += own * len(event["parameters"])
            self._trials += [StudyTrial(n, p) for n, p in enumerate(event["parameters"], number)]
            self._steps.append(Asked(number, event["parameters"], own))
            return
        if "added" in event:
            number, parameters = event["added"], event["parameters"]
            self._trials.append(StudyTrial(number, parameters))
            self._steps.append(Asked(number, [parameters], own=True))
        else:
            number = event["told"]
        trial = self._trials[number]
        trial.value, trial.error = event["value"], event["error"]
        sign = -1.0 if self.goal == "maximize" else 1.0
        self._steps.append(Told(number, math.nan if trial.value is None else sign * trial.value))

    @overload
    def suggest(self, count: Literal[1] = 1) -> StudyTrial: ...

    @overload
    def suggest(self, count: int) -> list[StudyTrial]: ...

    def suggest(self, count: int = 1) -> StudyTrial | list[StudyTrial]:
        """What to evaluate next.

        Args:
          count: how many trials, that somebody evaluates side by side.

        Returns:
          A trial, or of several a list.

        Raises:
          RuntimeError: the optimizer proposed something that is not finite.
          UserError: the file cannot be written. Nothing has changed then, and the same trial comes when it can.
        """
        count = whole_number("count", count, 1, 10_000)
        waiting = [trial for trial in self._again if trial.state == "pending"]
        found = waiting[:count] + self._new(count - len(waiting))
        self._again = waiting[count:]
        return found[0] if count == 1 else found

    def _new(self, count: int) -> list[StudyTrial]:
        number = len(self._trials)
        guesses = self._guesses[self._guessed :][: max(count, 0)]
        if guesses:
            self._write({"asked": number, "parameters": guesses, "guess": True})
        count -= len(guesses)
        if count > 0:
            self._propose(count)
        return self._trials[number:]

    def _propose(self, count: int) -> None:
        number = len(self._trials)
        if self._policy is not None:
            found = self._policy.suggest(self.record, count, seed=self._seed, earlier=self._earlier)
            self._write({"asked": number, "parameters": found})
            return
        found = self._suggester.suggest(self._steps, number, count)
        try:
            self._write({"asked": number, "parameters": found})
        except BaseException:
            self._suggester.forget()
            raise

    def observe(self, trial: StudyTrial | int | np.integer | Mapping[str, Any], value: Any) -> None:
        """Say what the evaluation of a trial gave. With a file, it is on the disk when this returns.

        Args:
          trial: what `suggest` returned, or a copy of it from another process, or its number; or any assignment of the
            space, whose value is known from elsewhere and which becomes a trial of its own.
          value: of the metric; a real number. NaN or an infinity says that the evaluation failed.

        Raises:
          UserError: the value is not a real number, the trial has an outcome already, or it is of another study; or the
            file cannot be written, and then nothing has changed.
        """
        value = real_number(value)
        if math.isfinite(value):
            self._close("observe", trial, value, None)
        else:
            self._close("observe", trial, None, f"the value is {value}")

    def fail(
        self, trial: StudyTrial | int | np.integer | Mapping[str, Any], error: object = "the evaluation failed"
    ) -> None:
        """Say that the evaluation of a trial failed, and perhaps why.

        Raises:
          UserError: the trial has an outcome already, or it is of another study; or the file cannot be written.
        """
        self._close("fail", trial, None, str(error))

    def _close(self, what: str, trial: Any, value: float | None, error: str | None) -> None:
        outcome = {"value": value, "error": error}
        if isinstance(trial, Mapping):
            parameters = assignment(self.space, trial)
            self._write({"added": len(self._trials), "parameters": parameters, **outcome})
            return
        trial = self._own(what, trial)
        if trial.state != "pending":
            raise UserError(f"{what}: trial {trial.number} is {trial.state} already, expected one that is pending")
        self._write({"told": trial.number, **outcome})

    def _own(self, what: str, trial: Any) -> StudyTrial:
        """The trial that is meant."""
        number = trial.number if isinstance(trial, StudyTrial) else trial
        if not isinstance(number, int | np.integer) or isinstance(number, bool):
            raise UserError(f"{what} takes a trial that this study suggested, found {trial!r:.80}")
        if not 0 <= number < len(self._trials):
            raise UserError(f"{what}: there is no trial {number}, expected a number below {len(self._trials)}")
        found = self._trials[int(number)]
        if isinstance(trial, StudyTrial) and trial.parameters != found.parameters:
            raise UserError(f"{what} takes a trial that this study suggested, found {trial!r:.80}")
        return found

    @property
    def best(self) -> StudyTrial | None:
        """The trial with the best value, the first of equals; None where none has succeeded."""
        complete = [(trial.value, trial) for trial in self._trials if trial.value is not None]
        choose = max if self.goal == "maximize" else min  # both take the first of equals
        return choose(complete, key=lambda pair: pair[0], default=(None, None))[1]

    @property
    def history(self) -> list[StudyTrial]:
        """All trials by number, pending and failed ones included."""
        return list(self._trials)

    @property
    def record(self) -> Record:
        """The study as data, for `l2o.optformer`."""
        trials = [RecordedTrial(t.parameters, t.value, t.state) for t in self._trials]
        return replace(self._about, trials=trials)

    def predict(self, points: Iterable[Mapping[str, Any]]) -> list[Prediction]:
        """What an optformer believes the values of these assignments to be, given all trials so far.

        Raises:
          UserError: the optimizer has no such beliefs, or a point is no assignment of the space.
        """
        if self._policy is None:
            raise UserError(f"{self._source.name} predicts nothing: an optimizer of kind 'optformer' does")
        if isinstance(points, Mapping) or not isinstance(points, Iterable):
            raise UserError(f"points are {points!r:.80}: expected a list of dictionaries")
        found = [assignment(self.space, point) for point in points]
        return self._policy.predict(self.record, found, earlier=self._earlier)

    def close(self) -> None:
        """Close the file, if there is one, which lets another process have it."""
        if self._log:
            self._log.close()

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __repr__(self) -> str:
        states = [trial.state for trial in self._trials]
        best = "none" if self.best is None else self.best.value
        others = "".join(f", {states.count(s)} {s}" for s in ("pending", "infeasible") if s in states)
        about = f"{self.name!r}, " if self.name else ""
        return f"Study({about}{self._source.name}, {self.goal}, {len(states)} trials{others}, best {best})"


def _space(space: Any) -> SearchSpace:
    if isinstance(space, SearchSpace):
        return space
    if isinstance(space, Mapping) and any(type(each).__module__.startswith("optuna.") for each in space.values()):
        return SearchSpace.from_optuna(space)
    return SearchSpace.from_dict(space)
