"""Between this project's contract and Optuna."""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from l2o.core import HostOptimizer
from l2o.errors import UserError
from l2o.lift.coordinates import coordinates, flatten
from l2o.space.domain import Space


def need_optuna() -> Any:
    """The package.

    Raises:
      UserError: it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise UserError("this optimizer is Optuna's, which is not installed: pip install optuna") from None
    return optuna


@contextlib.contextmanager
def silent(level: int = logging.ERROR) -> Iterator[None]:
    """Context in which Optuna says nothing below a level; afterwards it says what it did before."""
    need_optuna().logging.get_verbosity()  # sets its logger up
    logger = logging.getLogger("optuna")
    before = logger.level
    logger.setLevel(max(before, level))
    try:
        yield
    finally:
        logger.setLevel(before)


@dataclasses.dataclass(eq=False)
class OptunaState:
    """An Optuna study, which changes in place.

    Attributes:
      study: with one parameter for each coordinate, named x0, x1, ...
      space: with bounds.
      open: trials asked for and not told yet, each with its point as the caller has it.
    """

    study: Any
    space: Space
    open: list[tuple[Any, np.ndarray]]

    @functools.cached_property
    def distributions(self) -> dict[str, Any]:
        """The distributions of the coordinates, by name: of floats in a box, and of every kind in a mixed space."""
        return {f"x{i}": distribution for i, distribution in enumerate(_distributions(self.space))}

    def params(self, point: np.ndarray) -> dict[str, int | float]:
        """The parameters of a point."""
        kinds = self.distributions.items()
        is_float = need_optuna().distributions.FloatDistribution
        return {
            name: float(value) if isinstance(kind, is_float) else round(float(value))
            for (name, kind), value in zip(kinds, point, strict=True)
        }


def from_optuna(make: Callable[[int], Any], name: str = "an Optuna sampler") -> HostOptimizer:
    """Lift an Optuna sampler to an optimizer for host loops.

    The study inside the state changes in place, so a state that was asked or told is spent. Points may be told in any
    order, also points that were never asked for. In a mixed space the sampler is told of whole numbers, logarithmic
    scales and categories as such, the latter and listed values by their indices.

    Args:
      make: `seed -> sampler`; the seed, below 2^31, is drawn from the key of `init`, and the other keys are not used.
      name: for messages.
    """

    def init(key, problem):
        optuna = need_optuna()
        if problem.space.is_free:
            raise UserError(f"{name} needs a space with bounds, and this problem has none")
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        with silent():  # it tells of every study, and this one is nobody's business
            study = optuna.create_study(sampler=make(seed))
        return OptunaState(study, problem.space, [])

    def ask(key, state):
        del key
        trial = state.study.ask(state.distributions)
        like, unravel = ravel_pytree(state.space.low)
        values = np.asarray([trial.params[f"x{i}"] for i in range(like.size)])
        x = state.space.project(unravel(jnp.asarray(values, like.dtype)))  # in single precision one may round outwards
        state.open.append((trial, flatten(x)))
        return jax.tree.map(lambda a: a[None], x), state

    def tell(key, state, x, evaluation):
        del key
        for i, value in enumerate(np.asarray(evaluation.value, float)):
            report(state, flatten(jax.tree.map(lambda a, i=i: a[i], x)), float(value))
        return state

    return HostOptimizer(init, ask, tell)


def _distributions(space: Space) -> list[Any]:
    """The distribution of each coordinate."""
    kinds, found = need_optuna().distributions, []
    for each in coordinates(space):
        if each.kind == "category":
            found.append(kinds.CategoricalDistribution(range(round(each.high) + 1)))
        elif each.kind == "integer":
            found.append(kinds.IntDistribution(round(each.low), round(each.high), log=each.log))
        else:
            found.append(kinds.FloatDistribution(each.low, each.high, log=each.log))
    return found


def report(state: OptunaState, point: np.ndarray, value: float) -> None:
    """Enter the value of a point; a value that is not finite is a failed trial."""
    optuna = need_optuna()
    outcome = optuna.trial.TrialState.COMPLETE if math.isfinite(value) else optuna.trial.TrialState.FAIL
    told = value if math.isfinite(value) else None
    for i, (trial, asked) in enumerate(state.open):
        if np.array_equal(asked, point):
            state.study.tell(trial, told, state=outcome)
            del state.open[i]
            return
    params, kinds = state.params(point), state.distributions
    state.study.add_trial(optuna.trial.create_trial(state=outcome, value=told, params=params, distributions=kinds))
