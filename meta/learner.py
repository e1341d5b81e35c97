"""The gradient learner: an estimator of the meta-gradient, and optax on theta."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field

from l2o.core import Theta
from l2o.registry import Config
from meta.estimator.base import Estimator
from tasks.family import TaskFamily


class LearnerState(NamedTuple):
    """Everything that training changes; saved whole in every checkpoint.

    Attributes:
      theta: meta-parameters.
      average: exponential moving average of theta, what is validated and shipped.
      optimizer: optax state on theta.
      estimator: state of the estimator.
      step: meta-updates attempted.
      skipped: meta-updates left out because their gradient was not finite.
      failing: length of the present streak of skipped updates.
    """

    theta: Theta
    average: Theta
    optimizer: Any
    estimator: Any
    step: Int[Array, ""]
    skipped: Int[Array, ""]
    failing: Int[Array, ""]


class Learner(NamedTuple):
    """`init(key, family, theta) -> LearnerState`; `step(state, family) -> (LearnerState, metrics)`."""

    init: Callable[..., LearnerState]
    step: Callable[[LearnerState, TaskFamily], tuple[LearnerState, dict[str, Float[Array, ""]]]]


class LearnerConfig(Config):
    """Adam on theta.

    Attributes:
      learning_rate: peak meta learning rate, positive.
      schedule: "cosine" decays to a hundredth of the peak over the training, "constant" does not.
      warmup: meta-steps of linear warm-up from zero.
      clip: largest global norm of the meta-gradient, positive.
      average: decay of the moving average of theta per meta-step, in [0, 1); 0 keeps theta itself. The average
        follows faster in the first steps, as (1 + step) / (10 + step) while that is smaller.
    """

    learning_rate: float = Field(default=3e-3, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = Field(default=0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    average: float = Field(default=0.99, ge=0, lt=1)

    def transformation(self, steps: int) -> optax.GradientTransformation:
        """The optax transformation for a training of that many meta-steps."""
        if self.schedule == "cosine":
            decay = max(steps, self.warmup + 1)
            rate = optax.warmup_cosine_decay_schedule(
                0.0 if self.warmup else self.learning_rate, self.learning_rate, self.warmup, decay,
                self.learning_rate / 100,
            )  # fmt: skip
        else:
            rate = optax.join_schedules(
                [optax.linear_schedule(0.0, self.learning_rate, max(self.warmup, 1)),
                 optax.constant_schedule(self.learning_rate)],
                [self.warmup],
            )  # fmt: skip
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.adam(rate))

    def build(self, estimator: Estimator, steps: int) -> Learner:
        """The learner for a training of that many meta-steps."""
        transformation = self.transformation(steps)

        def init(key: PRNGKeyArray, family: TaskFamily, theta: Theta) -> LearnerState:
            zero = jnp.zeros((), jnp.int32)
            return LearnerState(
                theta, jax.tree.map(jnp.copy, theta), transformation.init(theta),
                estimator.init(key, theta, family), zero, zero, zero,
            )  # fmt: skip

        def step(state: LearnerState, family: TaskFamily):
            gradient, estimator_state, loss = estimator.estimate(state.theta, state.estimator, family)
            norm = optax.tree.norm(gradient)
            ok = jnp.isfinite(norm)
            updates, optimizer = transformation.update(gradient, state.optimizer, state.theta)
            theta = optax.apply_updates(state.theta, updates)
            count = state.step.astype(jnp.float32)
            decay = jnp.minimum(self.average, (1 + count) / (10 + count))
            average = optax.incremental_update(theta, state.average, 1 - decay)
            new = LearnerState(
                theta, average, optimizer, estimator_state,
                step=state.step + 1, skipped=state.skipped, failing=jnp.zeros_like(state.failing),
            )  # fmt: skip
            skip = state._replace(
                estimator=estimator_state, step=state.step + 1, skipped=state.skipped + 1, failing=state.failing + 1
            )
            new = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, skip)
            return new, {"meta_loss": loss, "gradient_norm": norm}

        return Learner(init, step)
