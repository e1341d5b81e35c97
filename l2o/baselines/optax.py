"""The classical gradient optimizers, as `Optimizer`s through optax. One class per rule."""

from typing import Any, Literal

import jax
import optax
from pydantic import Field

from l2o.core import BaselineConfig, Optimizer
from l2o.interop.optax import from_optax
from l2o.registry import register


class TunedConfig(BaselineConfig):
    """A rule whose learning rate a study tunes when the config leaves it out.

    Attributes:
      learning_rate: step size, positive; None to have it tuned.
    """

    learning_rate: float | None = Field(default=None, gt=0)

    def transformation(self, learning_rate: float | jax.Array) -> optax.GradientTransformation:
        """The rule at a learning rate, which may be traced."""
        raise TypeError(f"{type(self).__name__} does not define transformation()")

    def build(self, learning_rate: Any = None) -> Optimizer:
        """The optimizer, at the given learning rate or at the configured one.

        Raises:
          ValueError: neither is set.
        """
        rate = self.learning_rate if learning_rate is None else learning_rate
        if rate is None:
            raise ValueError(f"{self.kind} needs a learning_rate, or a study that tunes it")
        return from_optax(self.transformation(rate))


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
