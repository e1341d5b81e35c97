"""The classical gradient optimizers, as `Optimizer`s through optax. One class per rule."""

from typing import Any, ClassVar, Literal

import jax
import optax
from pydantic import Field

from l2o.baselines.matrices import MATRICES, Rate, times
from l2o.core import BaselineConfig, Optimizer
from l2o.lift.optax import from_optax
from l2o.registry import register
from l2o.schedules import cosine, warmup_cosine


class TunedConfig(BaselineConfig):
    """A rule whose learning rate a study tunes when the config leaves it out.

    Attributes:
      learning_rate: step size, positive; None to have it tuned.
      schedule: "cosine" lets it fall to zero over the horizon of the run, "warmup_cosine" does so after it has risen
        from zero over the first twentieth of the horizon, rounded down; "constant" keeps it.
    """

    reads_gradients: ClassVar[bool] = True
    tuned: ClassVar[bool] = True

    learning_rate: float | None = Field(default=None, gt=0)
    schedule: Literal["constant", "cosine", "warmup_cosine"] = "constant"

    @property
    def label(self) -> str:
        return self.kind if self.schedule == "constant" else f"{self.kind}-{self.schedule}"

    def transformation(self, learning_rate: Rate) -> optax.GradientTransformation:
        """The rule at a learning rate, which may be traced, or be a schedule."""
        raise TypeError(f"{type(self).__name__} does not define transformation()")

    def scheduled(self, learning_rate: float | jax.Array, factor: optax.Schedule) -> optax.GradientTransformation:
        """The rule at a learning rate that is multiplied by a factor, which depends on the count of updates."""
        return optax.chain(self.transformation(learning_rate), optax.scale_by_schedule(factor))

    def over(self, learning_rate: float | jax.Array, horizon: Any) -> optax.GradientTransformation:
        """The rule at a learning rate, with its schedule over a run of so many updates, which may be traced."""
        if self.schedule == "constant":
            return self.transformation(learning_rate)

        factor = cosine if self.schedule == "cosine" else warmup_cosine
        return self.scheduled(learning_rate, lambda count: factor(count, horizon))

    def build(self, learning_rate: Any = None) -> Optimizer:
        """The optimizer, at the given learning rate or at the configured one.

        Raises:
          ValueError: neither is set.
        """
        rate = self.learning_rate if learning_rate is None else learning_rate
        if rate is None:
            raise ValueError(f"{self.kind} needs a learning_rate, or a study that tunes it")
        return from_optax(lambda horizon: self.over(rate, horizon))


@register
class SGDConfig(TunedConfig):
    """Gradient descent."""

    kind: Literal["sgd"] = "sgd"

    def transformation(self, learning_rate):
        return optax.sgd(learning_rate)


@register
class MomentumConfig(TunedConfig):
    """Heavy-ball momentum (Polyak 1964)."""

    kind: Literal["momentum"] = "momentum"
    momentum: float = Field(default=0.9, ge=0, lt=1)

    def transformation(self, learning_rate):
        return optax.sgd(learning_rate, momentum=self.momentum)


@register
class NAGConfig(TunedConfig):
    """Nesterov's accelerated gradient, in the form of Sutskever et al. (2013)."""

    kind: Literal["nag"] = "nag"
    momentum: float = Field(default=0.9, ge=0, lt=1)

    def transformation(self, learning_rate):
        return optax.sgd(learning_rate, momentum=self.momentum, nesterov=True)


@register
class RMSpropConfig(TunedConfig):
    """RMSprop (Tieleman and Hinton 2012)."""

    kind: Literal["rmsprop"] = "rmsprop"
    decay: float = Field(default=0.9, ge=0, lt=1)

    def transformation(self, learning_rate):
        return optax.rmsprop(learning_rate, decay=self.decay)


@register
class AdamConfig(TunedConfig):
    """Adam (Kingma and Ba 2015)."""

    kind: Literal["adam"] = "adam"
    b1: float = Field(default=0.9, ge=0, lt=1)
    b2: float = Field(default=0.999, ge=0, lt=1)

    def transformation(self, learning_rate):
        return optax.adam(learning_rate, b1=self.b1, b2=self.b2)


@register
class AdamWConfig(TunedConfig):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: float = Field(default=1e-4, ge=0)

    def transformation(self, learning_rate):
        return optax.adamw(learning_rate, weight_decay=self.weight_decay)


@register
class LionConfig(TunedConfig):
    """Lion (Chen et al. 2023)."""

    kind: Literal["lion"] = "lion"
    b1: float = Field(default=0.9, ge=0, lt=1)
    b2: float = Field(default=0.99, ge=0, lt=1)

    def transformation(self, learning_rate):
        return optax.lion(learning_rate, b1=self.b1, b2=self.b2, weight_decay=0.0)


@register
class MuonConfig(TunedConfig):
    """Muon for matrices, Adam for everything else (Jordan et al. 2024).

    Attributes:
      beta: decay of the momentum.
      adam_ratio: Adam's learning rate as a multiple of Muon's, which the author tunes apart.
      matrices: "hidden" leaves embeddings and output layers to Adam where names tell, as the author advises; "all"
        does not.
    """

    kind: Literal["muon"] = "muon"
    beta: float = Field(default=0.95, ge=0, lt=1)
    adam_ratio: float = Field(default=1.0, gt=0)
    matrices: Literal["all", "hidden"] = "all"

    def transformation(self, learning_rate):
        return optax.contrib.muon(
            learning_rate,
            beta=self.beta,
            adam_learning_rate=times(learning_rate, self.adam_ratio),
            muon_weight_dimension_numbers=MATRICES[self.matrices],
        )


@register
class ProdigyConfig(TunedConfig):
    """Prodigy, which estimates its own step size (Mishchenko and Defazio 2023); the learning rate multiplies it."""

    kind: Literal["prodigy"] = "prodigy"

    def transformation(self, learning_rate):
        return optax.contrib.prodigy(learning_rate)
