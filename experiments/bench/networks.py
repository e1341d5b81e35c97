"""A small per-coordinate MLP as a learned optimizer, of the size that published throughput figures were taken with."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from l2o.core import LearnedOptimizer
from l2o.lift.optax import gradient_based

DECAYS = np.array([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999], np.float32)
TIMES = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5], np.float32)
SCALE = 1e-3


def mlp_rule(hidden: int = 32, layers: int = 2) -> LearnedOptimizer:
    """The per-coordinate MLP of Metz et al. (2019, section 4), 1,762 meta-parameters at the default size.

    It sees the gradient, the parameter and six momenta, each divided by its root mean square within the tensor, and
    eleven features of the time; it answers with a direction d and a magnitude m, and the update is
    `-0.001 d exp(0.001 m)`.
    """

    def network(features: Float[Array, "n 19"]) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
        out = hk.nets.MLP([hidden] * layers + [2])(features)
        return out[:, 0], out[:, 1]

    transformed = hk.without_apply_rng(hk.transform(network))

    def start(params: Any) -> tuple[Any, Any]:
        return jax.tree.map(lambda p: jnp.zeros((len(DECAYS), p.size)), params), jnp.zeros((), jnp.int32)

    def native(theta, horizon=None):
        del horizon

        def leaf(gradient, momenta, param, t):
            gradient, param = gradient.ravel(), param.ravel()
            momenta = DECAYS[:, None] * momenta + (1 - DECAYS[:, None]) * gradient[None]
            seen = jnp.concatenate([gradient[None], param[None], momenta])
            seen = seen * jax.lax.rsqrt(1e-5 + jnp.mean(seen**2, axis=1, keepdims=True))
            clock = jnp.broadcast_to(jnp.tanh(t.astype(jnp.float32) / TIMES - 1), (param.size, len(TIMES)))
            direction, magnitude = transformed.apply(theta, jnp.concatenate([seen.T, clock], axis=1))
            return -SCALE * direction * jnp.exp(SCALE * magnitude), momenta

        def update(updates, state, params=None, **extra):
            del extra
            momenta, t = state
            leaves, tree = jax.tree.flatten(updates)
            parts = zip(leaves, tree.flatten_up_to(momenta), tree.flatten_up_to(params), strict=True)
            out = [leaf(g, m, p, t) for g, m, p in parts]
            steps = tree.unflatten([step.reshape(g.shape) for (step, _), g in zip(out, leaves, strict=True)])
            return steps, (tree.unflatten([m for _, m in out]), t + 1)

        return optax.GradientTransformationExtraArgs(start, update)

    return gradient_based(lambda key: transformed.init(key, jnp.zeros((1, 2 + len(DECAYS) + len(TIMES)))), native)
