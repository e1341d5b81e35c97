"""RNNprop (Lv, Jiang and Li 2017, "Learning gradient descent: better generalization and longer horizons").

The network sees what Adam and RMSprop would do, `m / sqrt(v)` and `g / sqrt(v)`, instead of the gradient itself, so its
input keeps its scale whatever the scale of the loss; and its output passes a tanh, so no step is larger than
`output_scale`:

    m_{t+1} = beta m_t + (1 - beta) g_t,   v_{t+1} = beta v_t + (1 - beta) g_t^2,   both corrected for their zero start
    z_{t+1}, h_{t+1} = LSTM(ELU(W [g / sqrt(v); m / sqrt(v)] + b), h_t)
    x_{t+1} = x_t + output_scale tanh(w . z_{t+1})
"""

from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from pydantic import Field

from l2o.core import LearnedOptimizer, OptimizerConfig, Theta
from l2o.gradient.coordinates import merge, split
from l2o.layers import cell, dense
from l2o.lift.optax import gradient_based
from l2o.registry import register

EPSILON = 1e-8  # keeps the input zero where the gradient always was


@register
class RNNpropConfig(OptimizerConfig):
    """RNNprop: a coordinatewise LSTM on Adam's and RMSprop's steps.

    Attributes:
      layers: stacked LSTM layers, at least 1.
      hidden: units per layer and of the dense layer before them, at least 1. The state is 8 * layers * hidden + 8
        bytes per parameter.
      decay: of the gradient's first two moments.
      output_scale: the largest step, in units of the parameters; positive.
    """

    kind: Literal["rnnprop"] = "rnnprop"
    layers: int = Field(default=2, ge=1, le=16)
    hidden: int = Field(default=20, ge=1, le=1024)
    decay: float = Field(default=0.95, ge=0, lt=1)
    output_scale: float = Field(default=0.1, gt=0)

    def build(self) -> LearnedOptimizer:
        return rnnprop(self)


class RNNpropState(NamedTuple):
    """Moments [n] of the gradient over all n coordinates, (h, c) [hidden, n] of each layer, and the updates made."""

    m: Float[Array, "n"]
    v: Float[Array, "n"]
    layers: tuple[tuple[Float[Array, "hidden n"], Float[Array, "hidden n"]], ...]
    age: Int[Array, ""]


def rnnprop(config: RNNpropConfig) -> LearnedOptimizer:
    """Build RNNprop. Works on any pytree, scalars and empty leaves included."""

    def network(inputs: Float[Array, "2 n"], layers: Any) -> tuple[Float[Array, "n"], Any]:
        x, new = jax.nn.elu(dense("input", inputs, config.hidden)), []
        for number, state in enumerate(layers):
            x, state = cell(x, state, f"lstm_{number}")
            new.append(state)
        return config.output_scale * jnp.tanh(dense("output", x, 1)[0]), tuple(new)

    transformed = hk.without_apply_rng(hk.transform(network))

    def zeros(vector: Float[Array, "n"]) -> RNNpropState:
        def nothing(*rows: int) -> Array:
            return jnp.zeros((*rows, vector.size), vector.dtype)

        layers = tuple((nothing(config.hidden), nothing(config.hidden)) for _ in range(config.layers))
        return RNNpropState(nothing(), nothing(), layers, jnp.zeros((), jnp.int32))

    def init(key) -> Theta:
        return transformed.init(key, jnp.zeros((2, 1)), zeros(jnp.zeros(1)).layers)

    def native(theta: Theta, horizon: Any = None) -> optax.GradientTransformationExtraArgs:
        del horizon

        def update(updates, state, params=None, **extra):
            del params, extra
            g = merge(updates)
            m = config.decay * state.m + (1 - config.decay) * g
            v = config.decay * state.v + (1 - config.decay) * g**2
            age = state.age + 1
            correction = 1 - config.decay ** age.astype(g.dtype)
            root = jnp.sqrt(v / correction) + EPSILON
            output, layers = transformed.apply(theta, jnp.stack([g / root, m / correction / root]), state.layers)
            return split(output, updates), RNNpropState(m, v, layers, age)

        return optax.GradientTransformationExtraArgs(lambda params: zeros(merge(params)), update)

    return gradient_based(init, native)
