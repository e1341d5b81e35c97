"""A study over a space of named parameters, for those who own the loop: suggest, evaluate, observe."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

from l2o.errors import UserError
from l2o.host.arguments import assignment, whole_number
from l2o.host.log import Format
from l2o.host.loop import Loop, Trial
from l2o.host.policy import Policy, Prediction
from l2o.host.proposals import Named
from l2o.host.view import NamedView
from l2o.optformer.optformer import OptFormerConfig
from l2o.optformer.prompt import prompt
from l2o.record import ALGORITHMS, Record, RecordedTrial
from l2o.space.searchspace import SearchSpace
from l2o.space.values import as_json, plain_category


class Study(Loop):
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
        are read as they are now, and are not kept in the log.
      guesses: assignments of the space to suggest first.
      known: pairs of an assignment and its value, from evaluations made before. They are the first trials.
      path: a file that gets everything as it comes, and from which the same call goes on after a kill as if there had
        been none. Whatever `observe` or `fail` was told is on the disk when they return. Trials that were suggested
        without an answer are suggested again first.

    Attributes:
      space, name, metric, goal, budget: as given.
      proposal_seconds: what the optimizer itself took, compilation included.

    Raises:
      UserError: bad input, or a log that is damaged, in use, or of another study.

    >>> import l2o
    >>> study = l2o.Study({"x": (-5.0, 5.0), "kind": ["a", "b"]}, optimizer="random", goal="maximize")
    >>> for _ in range(20):
    ...     trial = study.suggest()
    ...     study.observe(trial, -abs(trial.parameters["x"]))
    >>> study.best.value > -1
    True
    """

    OWNER, POINT = "study", "an assignment"

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
        super().__init__(optimizer, budget, seed, guesses, known, maximize=goal == "maximize")
        algorithm = self._source.name if self._source.name in ALGORITHMS else "unknown"
        self._about = Record(self.space, name, metric, goal, algorithm)
        self._policy: Policy | None = None
        if isinstance(self._source.optimizer, OptFormerConfig) and self._source.loaded is not None:
            self._policy = Policy(self._source.loaded)
            prompt(self._about)  # refuses too many parameters
        else:
            self._plan_with(NamedView(self.space, self._seed))
        self._earlier = self._records(earlier)
        about = {
            "space": [{"name": name, **fields} for name, fields in self.space.to_dict().items()],
            "name": self.name,
            "metric": self.metric,
            "goal": self.goal,
            "budget": None if self._policy else self.budget,
        }
        self._begin(path, about, named_format(self.space))

    def _checked(self, what: str, given: Any) -> dict[str, Any]:
        del what
        return assignment(self.space, given)

    def _is_point(self, given: Any) -> bool:
        return isinstance(given, Mapping)

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

    @overload
    def suggest(self, count: Literal[1] = 1) -> Trial: ...

    @overload
    def suggest(self, count: int) -> list[Trial]: ...

    def suggest(self, count: int = 1) -> Trial | list[Trial]:
        """The next trial to evaluate, or several.

        Args:
          count: how many trials, that somebody evaluates side by side.

        Returns:
          A trial, or of several a list.

        Raises:
          RuntimeError: the optimizer proposed something that is not finite.
          UserError: the log cannot be written. Nothing has changed then, and the same trial comes when it can.
        """
        count = whole_number("count", count, 1, 10_000)
        found = self._next(count)
        return found[0] if count == 1 else found

    def _proposed(self, count: int) -> list[dict[str, Any]]:
        if self._policy is None:
            return super()._proposed(count)
        return self._policy.suggest(self.record, count, seed=self._seed, earlier=self._earlier)

    @property
    def record(self) -> Record:
        """The study as data, for `l2o.Policy` and for `earlier` of other studies."""
        trials = [RecordedTrial(trial.parameters, trial.value, trial.state) for trial in self._trials]
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

    def __repr__(self) -> str:
        states = [trial.state for trial in self._trials]
        best = "none" if self.best is None else self.best.value
        others = "".join(f", {states.count(s)} {s}" for s in ("pending", "infeasible") if s in states)
        about = f"{self.name!r}, " if self.name else ""
        return f"Study({about}{self._source.name}, {self.goal}, {len(states)} trials{others}, best {best})"


def named_format(space: SearchSpace) -> Format:
    """How the log of a study over a space is written; a category that is a tuple is `{"tuple": [...]}` in it."""

    def encode(parameters: dict[str, Any]) -> dict[str, Any]:
        return {name: as_json(value) for name, value in parameters.items()}

    def decode(given: Any) -> dict[str, Any] | None:
        try:
            found = assignment(space, {name: plain_category(value) for name, value in given.items()})
        except (UserError, AttributeError):
            return None
        return found if encode(found) == given else None

    return Format("l2o-study", "study", "l2o.Study", "parameters", several=True, encode=encode, decode=decode)


def _space(space: Any) -> SearchSpace:
    if isinstance(space, SearchSpace):
        return space
    if isinstance(space, Mapping) and any(type(each).__module__.startswith("optuna.") for each in space.values()):
        return SearchSpace.from_optuna(space)
    return SearchSpace.from_dict(space)
