"""Suggestions of any black-box optimizer for a study of named parameters."""

import math
from typing import Any

import numpy as np

from l2o.interop.proposals import Proposer, Source, Ticket
from l2o.searchspace import SearchSpace


class Suggester:
    """What an optimizer would try next, from where the events of a study have left it.

    Args:
      source: the optimizer.
      space: of the study.
      goal: "minimize" or "maximize".
      budget: evaluations that are planned.
      seed: of all randomness.

    Raises:
      UserError: single precision cannot hold the space.
    """

    def __init__(self, source: Source, space: SearchSpace, goal: str, budget: int, seed: int):
        self._space = space
        self._arguments = source, space.space, budget, seed
        self._sign = -1 if goal == "maximize" else 1
        self._forget()

    def _forget(self) -> None:
        self._proposer: Proposer | None = None
        self._tickets: dict[int, Ticket] = {}
        self._replayed = 0

    def suggest(self, events: list[dict[str, Any]], number: int, count: int) -> list[dict[str, Any]]:
        """Assignments for new trials.

        Args:
          events: all of the study, as `l2o.interop.studylog` says; those of earlier calls come first.
          number: of the first new trial.
          count: of new trials.

        Raises:
          RuntimeError: the optimizer proposed something that is not finite.
          UserError: it does not take such spaces.
        """
        try:
            if self._proposer is None:  # late, so that nothing is compiled for a finished study
                self._proposer = Proposer(*self._arguments)
            for event in events[self._replayed :]:
                self._replay(self._proposer, event)
            self._replayed = len(events)
            tickets = [self._ticket(self._proposer, n) for n in range(number, number + count)]
        except BaseException:  # after Ctrl-C, too, it is made again from the events
            self._forget()
            raise
        return [self._space.from_point(ticket.x) for ticket in tickets]

    def _ticket(self, proposer: Proposer, number: int) -> Ticket:
        if number not in self._tickets:
            self._tickets[number] = proposer.propose()
        return self._tickets[number]

    def _replay(self, proposer: Proposer, event: dict[str, Any]) -> None:
        if "told" in event:
            value = math.nan if event["value"] is None else self._sign * event["value"]
            proposer.tell(self._tickets.pop(event["told"]), value)
            return
        for number, parameters in enumerate(event["parameters"], event["asked"]):
            ticket, x = self._ticket(proposer, number), self._space.to_point(parameters)
            if not np.array_equal(x, ticket.x):  # from another machine: what was evaluated counts
                proposer.replace(ticket, x)
