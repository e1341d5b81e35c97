"""Points without a plan, for studies that a model of values can learn from: anywhere, or near any earlier one.

Optimizers leave studies in which points lie close together only where values are good. What is recorded here has
clusters everywhere, so that a network cannot take a cluster for a promise.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import Field

from l2o.core import BaselineConfig, Optimizer
from l2o.registry import register
from l2o.space.domain import Space
from l2o.space.moves import near
from l2o.wrappers.flat import finite_or_infinity, over_flat_points


class Scattered(NamedTuple):
    """State of the scatter.

    Attributes:
      space: a mixed one.
      anywhere: probability that a point is uniform.
      greedy: probability that the others are near the best point, and not near any.
      x: points told, the oldest replaced where there is no more room.
      value: theirs, +inf of failed ones.
      told: how many.
    """

    space: Space
    anywhere: Float[Array, ""]
    greedy: Float[Array, ""]
    x: Float[Array, "n d"]
    value: Float[Array, "n"]
    told: Int[Array, ""]


@register
class ScatterConfig(BaselineConfig):
    """Points anywhere, near any earlier point, or near the best one, in shares that are drawn for each run.

    Attributes:
      max_trials: points that it remembers.
    """

    kind: Literal["scatter"] = "scatter"
    max_trials: int = Field(default=128, ge=1, le=65_536)

    def build(self) -> Optimizer:
        def init(key, problem):
            anywhere, greedy = jax.random.uniform(key, (2,))
            x = jnp.zeros((self.max_trials, problem.start.size), problem.start.dtype)
            value = jnp.full(self.max_trials, jnp.inf, jnp.float32)
            return Scattered(problem.space, anywhere, greedy, x, value, jnp.zeros((), jnp.int32))

        def ask(key, state):
            free_key, choice_key, greedy_key, any_key, near_key = jax.random.split(key, 5)
            free = jax.random.bernoulli(choice_key, state.anywhere) | (state.told == 0)
            some = jax.random.randint(any_key, (), 0, jnp.clip(state.told, 1, self.max_trials))
            best = jnp.argmin(state.value)
            parent = state.x[jnp.where(jax.random.bernoulli(greedy_key, state.greedy), best, some)]
            x = jnp.where(free, state.space.sample(free_key), near(near_key, state.space, parent))
            return x[None], state

        def tell(key, state, x, evaluation):
            del key
            values = finite_or_infinity(evaluation.value.astype(jnp.float32))[-self.max_trials :]
            place = (state.told + jnp.arange(values.size)) % self.max_trials
            kept = state.x.at[place].set(x[-self.max_trials :]), state.value.at[place].set(values)
            return state._replace(x=kept[0], value=kept[1], told=state.told + values.size)

        return over_flat_points(self.kind, Optimizer(init, ask, tell))
