"""AdamW with a warm-up and a cosine, as learners by likelihood use it."""

import jax
import optax
from pydantic import Field

from meta.learner.base import LearnerConfig


class AdamWConfig(LearnerConfig):
    """What learners by likelihood share.

    Attributes:
      learning_rate: peak, positive.
      warmup: meta-steps of linear warm-up from zero, before a cosine decay to a hundredth of the peak.
      weight_decay: of the matrices, in units of the learning rate.
      clip: largest global norm of the gradient, positive.
    """

    average: float = Field(default=0.999, ge=0, lt=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)

    def transformation(self, steps: int) -> optax.GradientTransformation:
        """For a training of so many meta-steps."""
        rate = optax.warmup_cosine_decay_schedule(
            0.0 if self.warmup else self.learning_rate, self.learning_rate, self.warmup,
            max(steps, self.warmup + 1), self.learning_rate / 100,
        )  # fmt: skip
        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.adamw(rate, b2=0.98, weight_decay=self.weight_decay, mask=_matrices),
        )


def _matrices(theta):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, theta)
