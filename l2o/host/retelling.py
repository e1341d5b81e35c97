"""Suggestions of any black-box optimizer in a study that somebody else keeps, from the list of its trials.

Whoever keeps the study may have any number of workers, so that trials end in any order. What has ended is told once, in
the order in which it ended; a history that is no longer one of those told begins anew.
"""

from typing import Any, NamedTuple

import numpy as np

from l2o.core import HostOptimizer
from l2o.host.log import Added, Asked, Event, Told
from l2o.host.proposals import Source
from l2o.host.suggester import Suggester
from l2o.host.view import NamedView
from l2o.record import Record, RecordedTrial
from l2o.space.searchspace import SearchSpace

KEPT = 8  # histories that go on: a pruner in brackets shows each of these as a study


class _Told(NamedTuple):
    """An optimizer that was told trials.

    Attributes:
      space: of the trials.
      goal: of the study.
      trials: told so far.
      events: the same, as the suggester reads them: each was asked for when the one before had ended.
      suggester: what was told them.
    """

    space: SearchSpace
    goal: str
    trials: list[RecordedTrial]
    events: list[Event]
    suggester: Suggester


class Retelling:
    """What an optimizer would try next in a study.

    It depends on the trials of the study alone. An optimizer with a model takes trials in progress into account, as if
    they had come out as it expects. One without is told nothing of them, and gives every trial another of its
    proposals. One that runs on the host is told everything anew for each suggestion.

    Args:
      source: the optimizer.
      budget: evaluations that are planned, for optimizers that plan.
      seed: of all randomness, 0 to 2^31 - 1.
    """

    def __init__(self, source: Source, budget: int, seed: int):
        self._source, self._budget, self._seed = source, budget, seed
        self._kept: list[_Told] = []  # the one that was used last comes last

    def suggest(self, record: Record, number: int, before: int = 0) -> dict[str, Any]:
        """What to try next, an assignment.

        Args:
          record: the study, in the order in which its trials ended.
          number: of the trial that this is for.
          before: trials in progress that began earlier, also those of which nothing else is known.

        Raises:
          RuntimeError: the optimizer proposed something that is not finite.
          UserError: it does not take such a space.
        """
        done = [trial for trial in record.trials if trial.state != "pending"]
        if isinstance(self._source.optimizer, HostOptimizer):
            seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0]) >> 1
            events = [Added(i, each.parameters, each.value, None) for i, each in enumerate(done)]
            return self._suggester(record, seed).suggest(events, len(done), 1)[0]
        told = self._told(record, done)
        for i, each in enumerate(done[len(told.trials) :], len(told.trials)):
            told.events.extend([Asked(i, [each.parameters]), Told(i, each.value, None)])
            told.trials.append(each)
        following = told.suggester.suggest(told.events, len(done), 1)[0]
        pending = [trial.parameters for trial in record.trials if trial.state == "pending"]
        if not pending and not before:
            return following
        branch = told.suggester.branch(pending)
        if branch.expects:  # those that are not known are taken to be what it would have proposed for them
            unknown = max(before - len(pending), 0)
            return branch.suggest(told.events, len(done) + 1, unknown + 1)[-1]
        return branch.suggest(told.events, len(done), before + 1)[-1]

    def _told(self, record: Record, done: list[RecordedTrial]) -> _Told:
        """An optimizer that was told as many of these as possible, and nothing else."""
        fitting = [
            told
            for told in self._kept
            if (told.space, told.goal) == (record.space, record.goal) and told.trials == done[: len(told.trials)]
        ]
        found = max(fitting, key=lambda told: len(told.trials), default=None)
        if found is None:
            found = _Told(record.space, record.goal, [], [], self._suggester(record, self._seed))
        self._kept = [*(told for told in self._kept if told is not found), found][-KEPT:]
        return found

    def _suggester(self, record: Record, seed: int) -> Suggester:
        sign = -1.0 if record.goal == "maximize" else 1.0
        return Suggester(self._source, NamedView(record.space, seed), self._budget, seed, sign)
