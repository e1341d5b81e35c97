"""Learned evolution strategies as evosax algorithms: init, ask and tell as evosax's users know them.

It imports evosax, so it is imported where it is needed.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from evosax.algorithms.distribution_based import base as distribution
from evosax.algorithms.population_based import base as population_
from flax import struct
from jaxtyping import Array, Float

from l2o.core import Evaluation, Optimizer, OptimizerConfig, Problem, Theta
from l2o.errors import UserError
from l2o.evolution.population import EvolutionStrategyConfig, StrategyState
from l2o.space.domain import Space, X

jitted = functools.partial(jax.jit, static_argnames=("self",))
FREE = Space.free()


def to_evosax(
    config: OptimizerConfig, theta: Theta, solution: X, population_size: int | None = None, **options: Any
) -> "LearnedDistribution | LearnedPopulation":
    """An evosax algorithm, see `l2o.Loaded.evosax`."""
    if not isinstance(config, EvolutionStrategyConfig):
        raise TypeError(f"a {config.kind!r} optimizer does not ask for a population at a time: it has no evosax form")
    size = config.population_size if population_size is None else population_size
    if size < 2:
        raise UserError(f"population_size is {size}, expected at least 2")
    config = config.model_copy(update={"population_size": size})
    start = Problem(FREE, jnp.zeros(1))
    _, run = jax.eval_shape(config.build().bind(theta).init, jax.random.key(0), start)
    algorithm = LearnedDistribution if hasattr(run.inner, "mean") else LearnedPopulation
    return algorithm(config, theta, solution, **options)


@struct.dataclass
class Params(distribution.Params):
    """Hyperparameters: the initial standard deviation, and theta."""

    std_init: float | Float[Array, ""]
    params: Theta


@struct.dataclass
class DistributionState(distribution.State):
    """State of a strategy that samples around a mean; `run` is ours without what stands beside it."""

    std: Float[Array, "..."]
    run: StrategyState


@struct.dataclass
class PopulationState(population_.State):
    """State of a strategy that keeps a population; `run` is ours without what stands beside it."""

    std: Float[Array, "n"]
    run: StrategyState


class _Learned:
    """What both forms share. Fields of evosax's state rule: who replaces one of them changes the run."""

    config: EvolutionStrategyConfig
    theta: Theta
    fields: dict[str, str]  # of evosax's state, and what ours calls them

    @property
    def _default_params(self) -> Params:
        return Params(std_init=1.0, params=self.theta)

    def _optimizer(self, params: Params) -> Optimizer:
        return self.config.build().bind(params.params)

    def _begin(self, key: Array, start: Float[Array, "d"], params: Params) -> StrategyState:
        return self._optimizer(params).init(key, Problem(FREE, start, params.std_init))[1]

    def _join(self, state: Any) -> tuple[Space, StrategyState]:
        theirs = {ours: getattr(state, name) for name, ours in self.fields.items()}
        return FREE, state.run._replace(inner=state.run.inner._replace(**theirs))

    def _split(self, run: StrategyState) -> dict[str, Any]:
        theirs = {name: getattr(run.inner, ours) for name, ours in self.fields.items()}
        return theirs | {"run": run._replace(inner=run.inner._replace(**dict.fromkeys(self.fields.values())))}

    def _ask(self, key: Array, state: Any, params: Params) -> tuple[Float[Array, "n d"], Any]:
        x, (_, run) = self._optimizer(params).ask(key, self._join(state))
        return x, state.replace(**self._split(run))

    def _tell(self, key: Array, population: Float[Array, "n d"], fitness: Array, state: Any, params: Params) -> Any:
        _, run = self._optimizer(params).tell(key, self._join(state), population, Evaluation(fitness))
        return state.replace(**self._split(run))


def _archive(start: Float[Array, "d"]) -> dict[str, Array]:
    """evosax's own fields before the first generation."""
    return {
        "best_solution": jnp.full_like(start, jnp.nan),
        "best_fitness": jnp.full((), jnp.inf, start.dtype),
        "generation_counter": jnp.zeros((), jnp.int32),
    }


class LearnedDistribution(_Learned, distribution.DistributionBasedAlgorithm):
    """A learned strategy that samples around a mean: `init(key, mean, params)`."""

    fields = {"mean": "mean", "std": "sigma"}

    def __init__(self, config: EvolutionStrategyConfig, theta: Theta, solution: X, **options: Any):
        self.config, self.theta = config, theta
        super().__init__(config.population_size, solution, **options)

    @jitted
    def init(self, key: Array, mean: X, params: Params) -> DistributionState:
        """Begin at a mean, with `params.std_init` in all directions."""
        start = self._ravel_solution(mean)
        return DistributionState(**_archive(start), **self._split(self._begin(key, start, params)))


class LearnedPopulation(_Learned, population_.PopulationBasedAlgorithm):
    """A learned strategy that keeps a population: `init(key, population, fitness, params)`."""

    fields = {"population": "population", "fitness": "fitness", "std": "sigma"}

    def __init__(self, config: EvolutionStrategyConfig, theta: Theta, solution: X, **options: Any):
        self.config, self.theta = config, theta
        super().__init__(config.population_size, solution, **options)

    def _init(self, key: Array, params: Params) -> PopulationState:
        start = jnp.zeros_like(self.solution_flat)
        return PopulationState(**_archive(start), **self._split(self._begin(key, start, params)))

    @jitted
    def init(self, key: Array, population: X, fitness: Float[Array, "n"], params: Params) -> PopulationState:
        """Begin with a population that was evaluated."""
        init_key, tell_key = jax.random.split(key)
        state = super().init(init_key, population, fitness, params)  # evosax's archive, and its shaping of fitness
        return self._tell(tell_key, state.population, state.fitness, state, params)
