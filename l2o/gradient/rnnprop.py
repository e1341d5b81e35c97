"""RNNprop (Lv, Jiang and Li 2017, "Learning gradient descent: better generalization and longer horizons").

The network sees what Adam and RMSprop would do, `m / sqrt(v)` and `g / sqrt(v)`, instead of the gradient itself, so its
input keeps its scale whatever the scale of the loss; and its output passes a tanh, so no step is larger than
`output_scale`:

    m_{t+1} = beta m_t + (1 - beta) g_t,   v_{t+1} = beta v_t + (1 - beta) g_t^2,   both corrected for their zero start
    z_{t+1}, h_{t+1} = LSTM(ELU(W [g / sqrt(v); m / sqrt(v)] + b), h_t)
    x_{t+1} = x_t + output_scale tanh(w . z_{t+1})
"""

import functools
from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from pydantic import Field

from l2o.core import LearnedOptimizer, OptimizerConfig, Theta
from l2o.gradient.coordinates import leafwise, nothing
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
    """Every tree mirrors the parameters; complex leaves have an axis of two in front of their shape, integers a zero.

    Attributes:
      m: first moment of the gradient, leaves [*shape].
      v: second moment, leaves [*shape].
      layers: (h, c) of each layer, leaves [hidden, *shape].
      age: updates made.
    """

    m: Any
    v: Any
    layers: tuple[tuple[Any, Any], ...]
    age: Int[Array, ""]


def rnnprop(config: RNNpropConfig) -> LearnedOptimizer:
    """Build RNNprop. Works on any pytree, also if it is sharded, scalars and empty leaves included."""

    def network(inputs: Float[Array, "2 *shape"], layers: Any) -> tuple[Float[Array, "*shape"], Any]:
        x, new = jax.nn.elu(dense("input", inputs, config.hidden)), []
        for number, state in enumerate(layers):
            x, state = cell(x, state, f"lstm_{number}")
            new.append(state)
        return config.output_scale * jnp.tanh(dense("output", x, 1)[0]), tuple(new)

    transformed = hk.without_apply_rng(hk.transform(network))

    def start(params: Any) -> RNNpropState:
        def zeros(*front: int) -> Any:
            return jax.tree.map(lambda leaf: nothing(leaf, *front), params)

        layers = tuple((zeros(config.hidden), zeros(config.hidden)) for _ in range(config.layers))
        return RNNpropState(zeros(), zeros(), layers, jnp.zeros((), jnp.int32))

    def init(key) -> Theta:
        return transformed.init(key, jnp.zeros((2, 1)), start(jnp.zeros(1)).layers)

    @jax.jit  # leaves of one shape are traced once
    def step(theta: Theta, age: Int[Array, ""], g: Float[Array, "*shape"], m: Any, v: Any, *parts: Any) -> Any:
        m, v = config.decay * m + (1 - config.decay) * g, config.decay * v + (1 - config.decay) * g**2
        correction = 1 - config.decay ** age.astype(g.dtype)
        root = jnp.sqrt(v / correction) + EPSILON
        inputs = jnp.stack([g / root, m / correction / root])
        output, layers = transformed.apply(theta, inputs, tuple(zip(parts[::2], parts[1::2], strict=True)))
        return output, m, v, *(part for pair in layers for part in pair)

    def native(theta: Theta, horizon: Any = None) -> optax.GradientTransformationExtraArgs:
        del horizon

        def update(updates, state, params=None, **extra):
            del params, extra
            age, parts = state.age + 1, (part for pair in state.layers for part in pair)
            one = functools.partial(step, theta, age)
            output, m, v, *parts = leafwise(one, updates, state.m, state.v, *parts)
            return output, RNNpropState(m, v, tuple(zip(parts[::2], parts[1::2], strict=True)), age)

        return optax.GradientTransformationExtraArgs(start, update)

    return gradient_based(init, native)
