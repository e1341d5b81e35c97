"""Running meta-losses over a history: what it means for an optimizer to be good."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from l2o.core import Carry, Evaluation, Objective, Trajectory
from l2o.registry import Config, register


class ObjectiveConfig(Config):
    """Room of the objectives. The value of a query round is the smallest of its n values (or judged values).

    Attributes:
      log: take the natural logarithm of the values, so that late, small losses count as much as early ones.
      floor: values are clipped from below here before the logarithm; positive.
    """

    kind: str
    log: bool = False
    floor: float = Field(default=1e-8, gt=0)

    def value(self, evaluation: Evaluation) -> Float[Array, ""]:
        """The scalar that a round of queries contributes."""
        value = jnp.min(evaluation.value if evaluation.judged is None else evaluation.judged)
        return jnp.log(jnp.maximum(value, self.floor)) if self.log else value

    def build(self) -> Objective:
        """The running meta-loss."""
        raise TypeError(f"{type(self).__name__} does not define build()")


@register
class SumConfig(ObjectiveConfig):
    """`sum_t f(x_t)`: Andrychowicz et al. (2016), equation 3 with w_t = 1."""

    kind: Literal["sum"] = "sum"

    def build(self):
        return Objective(lambda task: (), lambda carry, t, x, evaluation: (carry, self.value(evaluation)))


@register
class WeightedSumConfig(ObjectiveConfig):
    """`sum_t w_t f(x_t)` with `w_t = (power + 1) (t / horizon)^power`, whose mean over a long run is 1.

    Attributes:
      power: 0 weighs all steps alike; larger values look at the end of the run.
    """

    kind: Literal["weighted_sum"] = "weighted_sum"
    power: float = Field(default=1.0, ge=0)

    def build(self):
        def init(task):
            return jnp.asarray(task.problem.horizon)

        def step(horizon, t, x, evaluation):
            weight = (self.power + 1) * (t / horizon) ** self.power
            return horizon, weight * self.value(evaluation)

        return Objective(init, step)


@register
class FinalConfig(ObjectiveConfig):
    """`f(x_T)`: the value after the last update of the run, and nothing else."""

    kind: Literal["final"] = "final"

    def build(self):
        def init(task):
            return jnp.asarray(task.problem.horizon)

        def step(horizon, t, x, evaluation):
            return horizon, jnp.where(t == horizon, self.value(evaluation), 0.0)

        return Objective(init, step)


@register
class BestConfig(ObjectiveConfig):
    """`sum_t min_{i <= t} f(x_i)`: the area under the curve of the best value so far."""

    kind: Literal["best"] = "best"

    def build(self):
        def step(best, t, x, evaluation):
            best = jnp.minimum(best, self.value(evaluation))
            return best, best

        return Objective(lambda task: jnp.full((), jnp.inf), step)


def accumulate(
    objective: Objective, carry: Carry, trajectory: Trajectory, offset: Array | int = 0
) -> tuple[Carry, Float[Array, "T"]]:
    """Run an objective over a piece of trajectory that starts after `offset` updates; losses past the horizon are 0."""

    def step(carry, inputs):
        t, x, evaluation, mask = inputs
        carry, loss = objective.step(carry, t, x, evaluation)
        return carry, jnp.where(mask, loss, 0.0)

    steps = jnp.arange(trajectory.mask.shape[0]) + offset
    return jax.lax.scan(step, carry, (steps, trajectory.x, trajectory.evaluation, trajectory.mask))
