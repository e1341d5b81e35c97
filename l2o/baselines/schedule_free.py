"""Schedule-free AdamW (Defazio et al. 2024, https://arxiv.org/abs/2405.15682) through optax."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import schedule_free_adamw, schedule_free_eval_params
from pydantic import Field

from l2o.baselines.optax import TunedConfig
from l2o.registry import register


class AverageAtEndState(NamedTuple):
    """How many updates there were, and the state of the schedule-free rule."""

    count: Any
    inner: Any


def average_at_end(tx: optax.GradientTransformation, horizon: Any) -> optax.GradientTransformationExtraArgs:
    """A schedule-free rule whose last update leads to its averaged point, where the run then stays.

    Such a rule takes gradients at one point and is judged at another, the average. This project evaluates an optimizer
    at the one point that it asks for. With the horizon known, both can be had: every update but the last is that of
    the rule, and what is measured after the last is the average.

    Args:
      tx: what `optax.contrib.schedule_free` or one of its shortcuts returns.
      horizon: how many updates the run has, at least 1; may be traced. Later updates are zero.

    >>> tx = average_at_end(schedule_free_adamw(0.1), horizon=100)
    """
    tx = optax.with_extra_args_support(tx)

    def init(params):
        return AverageAtEndState(jnp.zeros((), jnp.int32), tx.init(params))

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("average_at_end needs the parameters: update(updates, state, params)")
        count = optax.safe_increment(state.count)
        moves, inner = tx.update(updates, state.inner, params, **extra)
        average = schedule_free_eval_params(inner, optax.apply_updates(params, moves))

        def chosen(move, end, start):
            last = jnp.where(count == horizon, end - start, 0)
            return jnp.where(count < horizon, move, last).astype(move.dtype)

        return jax.tree.map(chosen, moves, average, params), AverageAtEndState(count, inner)

    return optax.GradientTransformationExtraArgs(init, update)


@register
class ScheduleFreeConfig(TunedConfig):
    """Schedule-free AdamW (Defazio et al. 2024), judged at its averaged point at the end of a run.

    Before the end, the values of a run are those of the points where gradients are taken.

    Attributes:
      b1: how close these points are to the average, above 0.
      b2: decay of the second moment.
      weight_decay: multiplied by the learning rate.
      schedule: "warmup" lets the rate rise from zero over the first twentieth of the horizon, rounded down, as the
        authors advise; "constant" does not.
    """

    kind: Literal["schedule_free"] = "schedule_free"
    b1: float = Field(default=0.9, gt=0, lt=1)
    b2: float = Field(default=0.999, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "warmup"] = "constant"

    def transformation(self, learning_rate):
        rate: Any = learning_rate  # which may be a schedule, against what optax says of its type
        return schedule_free_adamw(rate, b1=self.b1, b2=self.b2, weight_decay=self.weight_decay)

    def over(self, learning_rate, horizon):
        def warmed_up(count):
            warmup = horizon // 20
            return learning_rate * jnp.where(count < warmup, count / jnp.maximum(warmup, 1), 1)

        rule = self.transformation(learning_rate if self.schedule == "constant" else warmed_up)
        return average_at_end(rule, horizon)
