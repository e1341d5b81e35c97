"""Suggestions of any black-box optimizer to somebody who owns the loop, from the steps of the run so far."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from l2o.host.proposals import Proposer, Source, Ticket
from l2o.host.view import View


class Asked(NamedTuple):
    """Trials were suggested together.

    Attributes:
      number: of the first one.
      assignments: what is evaluated in each.
      own: whether a person chose them, and not the optimizer.
    """

    number: int
    assignments: Sequence[Any]
    own: bool = False


class Told(NamedTuple):
    """A trial got a value to minimise; NaN where it failed."""

    number: int
    value: float


Step = Asked | Told


class Suggester:
    """What an optimizer would try next, from where the steps of a run have left it.

    It depends on the steps alone, however they came about: as they happened, or read from a file. So what fails before
    it has become a step changes nothing.

    Args:
      source: the optimizer.
      view: how it sees the space.
      budget: evaluations that are planned.
      seed: of all randomness.
    """

    def __init__(self, source: Source, view: View, budget: int, seed: int):
        self._view = view
        self._arguments = source, view.space, budget, seed
        self.forget()

    def forget(self) -> None:
        """Begin again from the steps. To be called when a suggestion could not become a step."""
        self._proposer: Proposer | None = None
        self._tickets: dict[int, Ticket] = {}
        self._replayed = 0

    def suggest(self, steps: Sequence[Step], number: int, count: int) -> list[Any]:
        """Assignments for new trials.

        Args:
          steps: all of the run; those of earlier calls come first.
          number: of the first new trial.
          count: of new trials.

        Raises:
          RuntimeError: the optimizer proposed something that is not finite.
          UserError: it does not take such spaces.
        """
        try:
            if self._proposer is None:  # late, so that nothing is compiled for a finished run
                self._proposer = Proposer(*self._arguments)
            for step in steps[self._replayed :]:
                self._replay(self._proposer, step)
            self._replayed = len(steps)
            tickets = [self._ticket(self._proposer, n) for n in range(number, number + count)]
        except BaseException:  # after Ctrl-C, too
            self.forget()
            raise
        return [self._view.assignment(ticket.x, n) for n, ticket in enumerate(tickets, number)]

    def _ticket(self, proposer: Proposer, number: int) -> Ticket:
        if number not in self._tickets:
            self._tickets[number] = proposer.propose()
        return self._tickets[number]

    def _replay(self, proposer: Proposer, step: Step) -> None:
        if isinstance(step, Told):
            proposer.tell(self._tickets.pop(step.number), step.value)
            return
        for number, assignment in enumerate(step.assignments, step.number):
            if step.own:
                self._tickets[number] = proposer.place(self._view.point(assignment))
                continue
            ticket, evaluated = self._ticket(proposer, number), self._view.point(assignment)
            proposed = self._view.point(self._view.assignment(ticket.x, number))
            if not np.array_equal(proposed, evaluated):  # from another machine: what was evaluated counts
                proposer.replace(ticket, evaluated)
