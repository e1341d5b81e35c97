"""Searches that change one coordinate of a good point: hill climbing and regularized evolution.

Both as they made the data of Chen et al. (2022). A mutation chooses a coordinate at random and gives it another value,
uniform in the unit interval. In two ways it wastes no evaluation: coordinates with a single value are not chosen, and a
whole number or category always changes.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field

from l2o.core import BaselineConfig, Optimizer
from l2o.registry import register
from l2o.space.domain import Space
from l2o.space.moves import other_values
from l2o.wrappers.flat import finite_or_infinity, over_flat_points


def mutate(key: PRNGKeyArray, space: Space, x: Float[Array, "d"]) -> Float[Array, "d"]:
    """The point with one coordinate changed; see the file's first lines."""
    which_key, value_key = jax.random.split(key)
    which = jax.random.categorical(which_key, jnp.where(space.levels == 1, -jnp.inf, 0.0))
    return jnp.where(jnp.arange(x.size) == which, other_values(value_key, space, x), x)


class Climb(NamedTuple):
    """State of hill climbing.

    Attributes:
      space: a mixed one.
      best: the point that is mutated.
      value: its value, +inf before the first success.
    """

    space: Space
    best: Float[Array, "d"]
    value: Float[Array, ""]


@register
class HillClimbingConfig(BaselineConfig):
    """Hill climbing: a mutation of the best point takes its place where its value is lower; a tie is no improvement.

    Until an evaluation has succeeded, the points are random.
    """

    kind: Literal["hill_climbing"] = "hill_climbing"

    def build(self) -> Optimizer:
        def init(key, problem):
            del key
            return Climb(problem.space, problem.start, jnp.full((), jnp.inf, jnp.float32))

        def ask(key, state):
            first_key, next_key = jax.random.split(key)
            begun = jnp.isfinite(state.value)
            x = jnp.where(begun, mutate(next_key, state.space, state.best), state.space.sample(first_key))
            return x[None], state

        def tell(key, state, x, evaluation):
            del key
            values = finite_or_infinity(evaluation.value.astype(jnp.float32))
            lowest = jnp.argmin(values)
            better = values[lowest] < state.value
            best = jnp.where(better, x[lowest], state.best)
            return state._replace(best=best, value=jnp.where(better, values[lowest], state.value))

        return over_flat_points(self.kind, Optimizer(init, ask, tell))


class AgedPopulation(NamedTuple):
    """State of regularized evolution.

    Attributes:
      space: a mixed one.
      x: members, each in the place of the one that died for it.
      value: their values, +inf of a failed one.
      born: members told so far; `born` modulo the population's size is the place of the oldest.
    """

    space: Space
    x: Float[Array, "n d"]
    value: Float[Array, "n"]
    born: Int[Array, ""]


@register
class RegularizedEvolutionConfig(BaselineConfig):
    """Regularized evolution (Real et al. 2019, algorithm 1): parents win a tournament, and the oldest member dies.

    The first population is random. Members enter a tournament independently, so that one may do so twice; of equals,
    the one that entered first wins.

    Attributes:
      population_size: members that are alive.
      tournament_size: members of which the best is mutated.
    """

    kind: Literal["regularized_evolution"] = "regularized_evolution"
    population_size: int = Field(default=25, ge=1, le=10_000)
    tournament_size: int = Field(default=5, ge=1)

    def build(self) -> Optimizer:
        def init(key, problem):
            del key
            x = jnp.zeros((self.population_size, problem.start.size), problem.start.dtype)
            return AgedPopulation(
                problem.space, x, jnp.full(self.population_size, jnp.inf, jnp.float32), jnp.zeros((), jnp.int32)
            )

        def ask(key, state):
            first_key, entry_key, next_key = jax.random.split(key, 3)
            entered = jax.random.randint(entry_key, (self.tournament_size,), 0, self.population_size)
            parent = entered[jnp.argmin(state.value[entered])]
            child = mutate(next_key, state.space, state.x[parent])
            x = jnp.where(state.born < self.population_size, state.space.sample(first_key), child)
            return x[None], state

        def tell(key, state, x, evaluation):
            del key
            values = finite_or_infinity(evaluation.value.astype(jnp.float32))
            place = (state.born + jnp.arange(values.size)) % self.population_size
            # of more births than members, the last ones
            place, x, values = (a[-self.population_size :] for a in (place, x, values))
            born = state.born + evaluation.value.size
            return AgedPopulation(state.space, state.x.at[place].set(x), state.value.at[place].set(values), born)

        return over_flat_points(self.kind, Optimizer(init, ask, tell))
