"""Random networks: perceptrons of random depth, width, activation, scale and sparsity.

As the prior of Bayesian neural networks of Müller et al., "PFNs4BO" (2023), and the networks of Hollmann et al.,
"TabPFN" (2023). Depth and width are masks, so that all draws have the same shapes.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field, model_validator

from l2o.registry import register
from tasks.priors.base import Positive, PriorConfig, chosen, normals, ratio, uniforms, whole

ACTIVATIONS = (jnp.tanh, jax.nn.relu, jnp.sin, lambda x: jnp.exp(-(x**2)), jnp.sign)


@register
class BNNPriorConfig(PriorConfig):
    """Perceptrons with random weights; units of a network draw from its own mixture of activations.

    Attributes:
      depths: fewest and most hidden layers.
      widths: fewest and most units of a layer; a network draws the logarithm of its width.
      reach: ends of the log-uniform distribution of the scale of the first layer.
      gain: the same of each other layer; with about 1.5, units keep their variance, with more they fold the space.
      bias: standard deviation of biases.
    """

    kind: Literal["bnn_prior"] = "bnn_prior"
    depths: tuple[int, int] = Field(default=(1, 4), strict=False)
    widths: tuple[int, int] = Field(default=(4, 32), strict=False)
    reach: tuple[Positive, Positive] = Field(default=(1.5, 15.0), strict=False)
    gain: tuple[Positive, Positive] = Field(default=(0.7, 2.5), strict=False)
    bias: float = Field(default=0.5, ge=0)

    @model_validator(mode="after")
    def _check_network(self):
        for name, least, most in (("depths", 1, 16), ("widths", 1, 512), ("reach", 0, 1e3), ("gain", 0, 1e3)):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(f"{name}: found {[low, high]}, expected the lower end first, from {least} to {most}")
        return self

    def draw(self, key):
        layers, most, d = self.depths[1], self.widths[1], self.dimension
        normal_key, uniform_key = jax.random.split(key)
        first, others, bias, last, weight, logits = normals(
            normal_key, (most, d, self.slots), (layers - 1, most, most), (layers, most), (most,), (d,),
            (len(ACTIVATIONS),),
        )  # fmt: skip
        depth, width, reach, gain, share, reads, activation = uniforms(
            uniform_key, (), (), (), (layers - 1,), (), (most, d), (most,)
        )
        width = jnp.round(ratio(width, self.widths))
        # parameters weigh differently, and units read a random part of them
        weight = ratio(reach, self.reach) * jnp.exp(weight) / jnp.linalg.norm(jnp.exp(weight))
        first = first * jnp.where(reads < 1 / d + (1 - 1 / d) * share, weight[None], 0.0)[:, :, None]
        gain = ratio(gain, self.gain) / jnp.sqrt(width)
        unit = jnp.arange(most) < width
        return Network(
            first.reshape(most, -1),
            gain[:, None, None] * others,
            self.bias * bias,
            jnp.where(unit, last / jnp.sqrt(width), 0.0),
            chosen(activation, jnp.exp(2 * logits)),
            unit,
            whole(depth, *self.depths),
        )

    def value(self, function, z):
        hidden = function.activate(function.first @ (z - 0.5) + function.bias[0])
        for i in range(self.depths[1] - 1):
            deeper = function.activate(function.others[i] @ hidden + function.bias[i + 1])
            hidden = jnp.where(i + 1 < function.depth, deeper, hidden)
        return function.last @ hidden


class Network(NamedTuple):
    """A perceptron.

    Attributes:
      first: weights of the first layer.
      others: of the following ones, of which `depth - 1` are in use.
      bias: of all layers.
      last: of the output.
      activation: of each unit, the number of one of `ACTIVATIONS`.
      unit: which units are there.
      depth: number of hidden layers.
    """

    first: Float[Array, "w size"]
    others: Float[Array, "l w w"]
    bias: Float[Array, "layers w"]
    last: Float[Array, "w"]
    activation: Int[Array, "w"]
    unit: Bool[Array, "w"]
    depth: Int[Array, ""]

    def activate(self, x: Float[Array, "w"]) -> Float[Array, "w"]:
        """Outputs of a layer; of units that are not there, 0."""
        chosen = jax.lax.select_n(self.activation, *(activation(x) for activation in ACTIVATIONS))
        return jnp.where(self.unit, chosen, 0.0)
