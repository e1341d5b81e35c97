"""Suggestions of any black-box optimizer to somebody who owns the loop, from the events of the run so far."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from l2o.host.log import Added, Event, Told
from l2o.host.proposals import Proposer, Source, Ticket
from l2o.host.view import View


class Suggester:
    """What an optimizer would try next, from where the events of a run have left it.

    It depends on the events alone, however they came about: as they happened, or read from a file. So what fails before
    it has become an event changes nothing.

    Args:
      source: the optimizer.
      view: how it sees the space.
      budget: evaluations that are planned.
      seed: of all randomness.
      sign: what values are multiplied by, so that the least is the best: 1, or -1.
    """

    def __init__(self, source: Source, view: View, budget: int, seed: int, sign: float = 1.0):
        self._view, self._sign = view, sign
        self._arguments = source, view.space, budget, seed
        self.forget()

    def forget(self) -> None:
        """Begin again from the events. To be called when a suggestion could not become one."""
        self._proposer: Proposer | None = None
        self._tickets: dict[int, Ticket] = {}
        self._replayed = 0

    def suggest(self, events: Sequence[Event], number: int, count: int) -> list[Any]:
        """What is to be evaluated in new trials.

        Args:
          events: all of the run; those of earlier calls come first.
          number: of the first new trial.
          count: of new trials.

        Raises:
          RuntimeError: the optimizer proposed something that is not finite.
          UserError: it does not take such spaces.
        """
        try:
            if self._proposer is None:  # late, so that nothing is compiled for a finished run
                self._proposer = Proposer(*self._arguments)
            for event in events[self._replayed :]:
                self._replay(self._proposer, event)
            self._replayed = len(events)
            tickets = [self._ticket(self._proposer, n) for n in range(number, number + count)]
        except BaseException:  # after Ctrl-C, too
            self.forget()
            raise
        return [self._view.assignment(ticket.x, n) for n, ticket in enumerate(tickets, number)]

    @property
    def expects(self) -> bool:
        """Whether the optimizer takes into account what is in progress; known after the first suggestion."""
        return self._proposer is not None and self._proposer.expects

    def branch(self, pending: Sequence[Any]) -> "Suggester":
        """A copy to be asked for suggestions, which change nothing here, as if these and no others were in progress.

        Raises:
          RuntimeError: nothing was suggested yet.
        """
        if self._proposer is None:
            raise RuntimeError("a branch is of a suggester that has suggested something")
        found = copy.copy(self)
        found._proposer = self._proposer.branch([self._view.point(point) for point in pending])
        found._tickets = dict(self._tickets)
        return found

    def _ticket(self, proposer: Proposer, number: int) -> Ticket:
        if number not in self._tickets:
            self._tickets[number] = proposer.propose()
        return self._tickets[number]

    def _replay(self, proposer: Proposer, event: Event) -> None:
        if isinstance(event, Added):
            self._tickets[event.number] = proposer.place(self._view.point(event.point))
        if isinstance(event, Added | Told):
            value = math.nan if event.value is None else self._sign * event.value
            proposer.tell(self._tickets.pop(event.number), value)
            return
        for number, point in enumerate(event.points, event.number):
            if event.own:
                self._tickets[number] = proposer.place(self._view.point(point))
                continue
            ticket, evaluated = self._ticket(proposer, number), self._view.point(point)
            proposed = self._view.point(self._view.assignment(ticket.x, number))
            if not np.array_equal(proposed, evaluated):  # from another machine: what was evaluated counts
                proposer.replace(ticket, evaluated)
