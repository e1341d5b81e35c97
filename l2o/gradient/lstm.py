"""The coordinatewise LSTM optimizer of Andrychowicz et al. (2016).

"Learning to learn by gradient descent by gradient descent", https://arxiv.org/abs/1606.04474. One small LSTM is
applied to every coordinate with shared weights and a hidden state of its own:

  theta_{t+1} = theta_t + scale * g_t,   (g_t, h_{t+1}) = m(preprocess(grad_t), h_t, phi)      (their section 2.1)
"""

from typing import Any, Literal

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from pydantic import Field

from l2o.core import LearnedOptimizer, OptimizerConfig, Theta
from l2o.gradient.coordinates import leafwise, nothing
from l2o.layers import cell, dense
from l2o.lift.optax import gradient_based
from l2o.registry import register

State = tuple[tuple[Float[Array, "hidden *shape"], Float[Array, "hidden *shape"]], ...]


@register
class LSTMConfig(OptimizerConfig):
    """Coordinatewise LSTM (Andrychowicz et al. 2016).

    Attributes:
      layers: stacked LSTM layers, at least 1.
      hidden: units per layer, at least 1. The state is 8 * layers * hidden bytes per parameter.
      state_dtype: "bfloat16" halves the state; the arithmetic stays in float32.
      preprocessing: "log" for their appendix A, or "none" to feed the raw gradient (their quadratics).
      p: range of the log preprocessing, in nepers: gradients below exp(-p) are treated linearly; positive.
      output_scale: factor on the network's output, in units of the parameters; positive.
    """

    kind: Literal["lstm"] = "lstm"
    layers: int = Field(default=2, ge=1, le=16)
    hidden: int = Field(default=20, ge=1, le=1024)
    state_dtype: Literal["float32", "bfloat16"] = "float32"
    preprocessing: Literal["log", "none"] = "log"
    p: float = Field(default=10.0, gt=0, le=80)
    output_scale: float = Field(default=0.1, gt=0)

    def build(self) -> LearnedOptimizer:
        """The architecture: `init`, `bind` and the native optax transformation."""
        return lstm(self)


def log_and_sign(gradient: Float[Array, "*shape"], p: float) -> Float[Array, "2 *shape"]:
    """Their appendix A: `(log|g| / p, sign g)` where `|g| >= e^-p`, else `(-1, e^p g)`."""
    magnitude = jnp.abs(gradient)
    large = magnitude >= jnp.exp(-p)
    log = jnp.log(jnp.where(large, magnitude, 1.0)) / p
    return jnp.stack([jnp.where(large, log, -1.0), jnp.where(large, jnp.sign(gradient), jnp.exp(p) * gradient)])


def lstm(config: LSTMConfig) -> LearnedOptimizer:
    """Build the coordinatewise LSTM.

    The optax state is, per layer, the pair (h, c) of trees that mirror the parameters, whose leaves are [hidden,
    *shape], or [hidden, 2, *shape] for complex leaves and [] for integers. Works on any pytree, scalars and
    empty leaves included. Parameters and state may be sharded alike.
    """

    def network(gradient: Float[Array, "*shape"], state: State) -> tuple[Float[Array, "*shape"], State]:
        x = log_and_sign(gradient, config.p) if config.preprocessing == "log" else gradient[None]
        new = []
        for layer, layer_state in enumerate(state):
            x, layer_state = cell(x, layer_state, f"lstm_{layer}")
            new.append(layer_state)
        return config.output_scale * dense("output", x, 1)[0], tuple(new)

    transformed = hk.without_apply_rng(hk.transform(network))
    apply = jax.jit(transformed.apply)  # leaves of one shape are traced once

    def start(params: Any) -> Any:
        dtype = jnp.bfloat16 if config.state_dtype == "bfloat16" else None

        def zeros() -> Any:
            return jax.tree.map(lambda leaf: nothing(leaf, config.hidden, dtype=dtype), params)

        return tuple((zeros(), zeros()) for _ in range(config.layers))

    def init(key) -> Theta:
        return transformed.init(key, jnp.zeros(1), start(jnp.zeros(1)))

    def native(theta: Theta, horizon: Any = None) -> optax.GradientTransformationExtraArgs:
        del horizon  # the 2016 optimizer does not know how long it will run

        def one(gradient, *parts):
            output, new = apply(theta, gradient, tuple(zip(parts[::2], parts[1::2], strict=True)))
            return output, *(part for pair in new for part in pair)

        def update(updates, state, params=None, **extra):
            del params, extra
            output, *parts = leafwise(one, updates, *(part for pair in state for part in pair))
            return output, tuple(zip(parts[::2], parts[1::2], strict=True))

        return optax.GradientTransformationExtraArgs(start, update)

    return gradient_based(init, native)
