"""Adam on an estimated meta-gradient."""

from typing import Literal

import jax.numpy as jnp
import optax
from pydantic import Field

from l2o.registry import register
from meta.estimator.base import over_parts
from meta.learner.base import Learner, LearnerConfig, share, specs
from meta.parallel import AXIS, DIVIDED, divide, mesh


@register
class AdamLearnerConfig(LearnerConfig):
    """Adam on the estimated meta-gradient.

    Attributes:
      learning_rate: peak meta learning rate, positive.
      schedule: "cosine" decays to a hundredth of the peak over the training, "constant" does not.
      warmup: meta-steps of linear warm-up from zero.
      clip: largest global norm of the meta-gradient, positive.
      clip_parts: largest norm of the meta-gradient of one family of a mixture, as a multiple of the median over its
        families, so that no kind of tasks drowns the others; no bound when left out. Each device counts its own runs.
    """

    kind: Literal["adam"] = "adam"
    learning_rate: float = Field(default=3e-3, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = Field(default=0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    clip_parts: float | None = Field(default=None, gt=0)

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

    def build(self, learned, objective, estimator, horizon, tasks, steps, devices=1, parts=1):
        if estimator is None:
            raise ValueError("adam needs an estimator of the meta-gradient")
        transformation = self.transformation(steps)
        whole = estimator.build(learned, objective, horizon, share(tasks, parts), AXIS)
        chosen = mesh(devices, whole.runs)
        divided = divide(over_parts(whole, parts, self.clip_parts), chosen)

        def init(key, family, theta):
            return self.begin(theta, transformation.init(theta), divided.init(key, theta, family))

        def step(state, family):
            gradient, runs, loss = divided.estimate(state.theta, state.estimator, family)
            norm = optax.tree.norm(gradient)
            updates, optimizer = transformation.update(gradient, state.optimizer, state.theta)
            theta = optax.apply_updates(state.theta, updates)
            ok = jnp.isfinite(norm) & jnp.isfinite(loss)
            return self.advance(state, ok, theta, optimizer, runs), {"meta_loss": loss, "gradient_norm": norm}

        return Learner(init, step, specs(estimator=DIVIDED), chosen)
