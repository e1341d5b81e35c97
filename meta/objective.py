"""Running meta-losses over a history: what it means for an optimizer to be good."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from pydantic import Field

from l2o.core import Carry, Evaluation, Objective, Trajectory
from l2o.errors import UserError
from l2o.gp import Posterior, expected_improvement, log_expected_improvement
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


@register
class ObservedImprovementConfig(ObjectiveConfig):
    """`sum_t min(f(x_t) - min_{i < t} f(x_i), 0)`: Chen et al. (2017); it needs no model."""

    kind: Literal["observed_improvement"] = "observed_improvement"

    def build(self):
        def step(best, t, x, evaluation):
            value = self.value(evaluation)
            seen = jnp.isfinite(best)
            gain = jnp.where(seen, jnp.minimum(value - jnp.where(seen, best, 0.0), 0.0), 0.0)
            return jnp.minimum(best, value), gain

        return Objective(lambda task: jnp.full((), jnp.inf), step)


@register
class ExpectedImprovementConfig(ObjectiveConfig):
    """`- sum_t EI(x_t | y_{1:t-1})` under the prior that the task was drawn from: Chen et al. (2017).

    Of several queries in a round, each is scored given those before it. The first query of a run has nothing to improve
    on and scores 0. Each query is differentiated as it stands to those before it, which are constants: the derivative
    through the whole posterior overflows where queries crowd. For tasks whose info has a "prior".

    Attributes:
      log: take the logarithm of the expected improvement, which in the paper is left as it is.
      max_trials: queries that the posterior has room for; later ones are scored but not remembered.
      nugget: least variance of the noise that the posterior assumes, as a fraction of the prior's variance. Where a
        hundred queries crowd, single precision loses the posterior of fewer.
    """

    kind: Literal["expected_improvement"] = "expected_improvement"
    max_trials: int = Field(default=101, ge=1, le=2000)
    nugget: float = Field(default=1e-3, ge=0, le=1)

    def build(self):
        score = log_expected_improvement if self.log else expected_improvement

        def init(task):
            if "prior" not in task.info:
                raise UserError(
                    "meta.objective: expected_improvement needs tasks with a known prior, such as kind 'gp'"
                )
            prior = task.info["prior"]
            prior = prior._replace(noise=jnp.maximum(prior.noise, self.nugget * prior.variance))
            return Posterior.empty(prior, self.max_trials), jnp.full((), jnp.inf)

        def one(carry, query):
            posterior, best = jax.lax.stop_gradient(carry)
            x, value = query
            x, _ = ravel_pytree(x)
            seen = jnp.isfinite(best)
            mean, variance = posterior.predict(x[None])
            gain = score(mean[0], variance[0], jnp.where(seen, best, 0.0))
            return (posterior.observe(x, value), jnp.minimum(best, value)), jnp.where(seen, -gain, 0.0)

        def step(carry, t, x, evaluation):
            carry, gains = jax.lax.scan(one, carry, (x, evaluation.value))
            return carry, jnp.sum(gains)

        return Objective(init, step, queries=True)


@register
class RegretConfig(ObjectiveConfig):
    """`sum_t discount^(horizon - t) (min_{i <= t} f(x_i) - f_opt)`: the discounted regret of TV et al. (2019).

    For tasks whose info has an "f_opt".

    Attributes:
      log: take the natural logarithm of the regret plus `floor`.
      discount: 1 weighs all steps alike, smaller values look at the end of the run.
    """

    kind: Literal["regret"] = "regret"
    discount: float = Field(default=0.98, gt=0, le=1)

    def build(self):
        def init(task):
            if "f_opt" not in task.info:
                raise UserError(
                    "meta.objective: regret needs tasks with a known optimum, such as kind 'gp' with optimum = true"
                )
            return jnp.full((), jnp.inf), jnp.asarray(task.info["f_opt"]), jnp.asarray(task.problem.horizon)

        def step(carry, t, x, evaluation):
            best, lowest, horizon = carry
            judged = evaluation.value if evaluation.judged is None else evaluation.judged
            best = jnp.minimum(best, jnp.min(judged))
            regret = jnp.maximum(best - lowest, 0.0)
            regret = jnp.log(regret + self.floor) if self.log else regret
            return (best, lowest, horizon), self.discount ** jnp.maximum(horizon - t, 0) * regret

        return Objective(init, step)


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
