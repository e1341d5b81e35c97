"""A transformer over a set of observations, which knows how far apart they are in each parameter.

Observations have no order, and neither have parameters: permuting either changes nothing. Each head of each layer
measures distances by a kernel of its own, with a length scale for every parameter, and adds it to the logits of its
attention, as regression by a Gaussian process has one kernel for all. The length scales come from a small state of
each parameter, which every layer mends by how values differ between points that its heads hold for near. Queries see
the observations and no other query, after Müller et al. (2022).

At last the states give the hyperparameters of a few exact Gaussian processes, which are averaged by how well they
explain the observations; a query's token corrects what they say. Before meta-training the corrections are zero and the
processes are those of a few length scales.
"""

from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from l2o.core import Theta
from l2o.surrogate.processes import (
    KERNELS,
    Hyperparameters,
    Normals,
    Processes,
    fit,
    isotropic,
    predict,
    squared_distances,
)

LOWEST = -1e9  # a logit that stands for impossible
RANGES = np.array([0.03, 0.1, 0.3, 1.0], np.float32)  # distances at which differences of values are averaged
WAVES = np.pi * np.array([1.0, 2.0, 3.0], np.float32)
TINY = 1e-6


class Sizes(NamedTuple):
    """Hyperparameters of the network.

    Attributes:
      width: of what is known of an observation; a multiple of the heads.
      heads: of each attention.
      feedforward: width of the hidden layers.
      layers: of attention.
      parameter_width: of what is known of a parameter.
      processes: whose hyperparameters are said.
      buckets: that are corrected.
    """

    width: int
    heads: int
    feedforward: int
    layers: int
    parameter_width: int
    processes: int
    buckets: int


class Memory(NamedTuple):
    """What was read of n observations: all that a query needs.

    Attributes:
      x: the observations' points in the unit cube.
      used: which of them count.
      ordered: which parameters are no categories.
      key: of each layer.
      value: likewise.
      rate: inverse squared length scales of each layer's heads.
      state: of each parameter at last.
      processes: that were fitted.
    """

    x: Float[Array, "n d"]
    used: Bool[Array, "n"]
    ordered: Bool[Array, "d"]
    key: Float[Array, "layers n heads head"]
    value: Float[Array, "layers n heads head"]
    rate: Float[Array, "layers heads d"]
    state: Float[Array, "d state"]
    processes: Processes


class Network(NamedTuple):
    """Pure functions of one set of observations; vmap them.

    Attributes:
      init: `(key) -> theta`.
      read: `(theta, x [n, d], y [n], used [n], ordered [d]) -> Memory`.
      predict: `(theta, memory, x [m, d]) -> (Normals, corrections [m, buckets])`; what the processes say, and what is
        to be added to the logarithms of the masses of buckets.
    """

    init: Callable[[PRNGKeyArray], Theta]
    read: Callable[..., Memory]
    predict: Callable[[Theta, Memory, Float[Array, "m d"]], tuple[Normals, Float[Array, "m buckets"]]]


class _SetTransformer(hk.Module):
    def __init__(self, sizes: Sizes):
        super().__init__(name="pfn")
        self.sizes = sizes

    def _linear(self, x: Array, size: int, name: str, scale: float = 1.0, bias: bool = False) -> Array:
        init = hk.initializers.VarianceScaling(scale, "fan_in", "truncated_normal") if scale else jnp.zeros
        y = x @ jnp.asarray(hk.get_parameter(name, (x.shape[-1], size), init=init))
        if not bias:
            return y
        return y + jnp.broadcast_to(hk.get_parameter(f"{name}_bias", (size,), init=jnp.zeros), y.shape)

    def _norm(self, x: Array, name: str) -> Array:
        scale = jnp.asarray(hk.get_parameter(name, (x.shape[-1],), init=jnp.ones))
        return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + TINY) * scale[None]

    def _mlp(self, x: Array, hidden: int, size: int, name: str, scale: float = 1.0) -> Array:
        h = jax.nn.gelu(self._linear(x, hidden, f"{name}_in", 2.0, bias=True))
        return self._linear(h, size, f"{name}_out", scale, bias=True)

    def _heads(self, x: Array, name: str) -> Array:
        y = self._linear(x, self.sizes.width, name)
        return y.reshape(*y.shape[:-1], self.sizes.heads, -1)

    def _rates(self, state: Array, name: str) -> Float[Array, "heads d"]:
        heads = self.sizes.heads
        base = jnp.asarray(hk.get_parameter(f"{name}_bias", (heads,), init=_rates))
        return jnp.exp(jnp.clip(self._linear(state, heads, name, 0.1).T + base[:, None], -8.0, 8.0))

    def _place(self, x: Array, ordered: Array, state: Array) -> Float[Array, "m width"]:
        """What absolute positions tell, a sum over parameters."""
        waves = x[..., None] * WAVES[None, None]
        features = jnp.concatenate([jnp.sin(waves), jnp.cos(waves), x[..., None] - 0.5], -1) * ordered[None, :, None]
        size = features.shape[-1]
        maps = self._linear(state, size * self.sizes.width, "place", 0.3).reshape(-1, size, self.sizes.width)
        return jnp.einsum("mdf,dfw->mw", features, maps) * x.shape[1] ** -0.5

    def _logits(self, y: Array, key: Array, squared: Array, rate: Array, used: Array, name: str):
        """Of attention, [heads, m, 1 + n]: to nothing, and to every observation."""
        q = self._heads(y, f"{name}_query")
        near = jnp.einsum("mnd,hd->hmn", squared, rate)
        sharp, heavy = (
            jax.nn.softplus(jnp.asarray(hk.get_parameter(f"{name}_{part}", (self.sizes.heads,), init=init)))
            for part, init in (("square", _alternately(1)), ("root", _alternately(0)))
        )
        far = sharp[:, None, None] * near + heavy[:, None, None] * jnp.sqrt(near + TINY)
        size = q.shape[-1] ** -0.5
        scores = jnp.where(used[None, None], jnp.einsum("mhd,nhd->hmn", q, key) * size - far, LOWEST)
        nothing = jnp.asarray(hk.get_parameter(f"{name}_nothing", key.shape[1:], init=hk.initializers.RandomNormal()))
        return jnp.concatenate([jnp.einsum("mhd,hd->hm", q, nothing)[..., None] * size, scores], -1)

    def _attended(self, x: Array, weights: Array, value: Array, name: str) -> Array:
        """A layer's sublayers after its attention is known; nothing has the value zero."""
        found = jnp.einsum("hmn,nhd->mhd", weights[..., 1:], value)
        mass = weights[..., 0].T  # what is not known
        found = jnp.concatenate([found.reshape(len(x), -1), mass], -1)
        layers = self.sizes.layers
        x = x + self._linear(found, self.sizes.width, f"{name}_output", 1 / layers)
        hidden = self._norm(x, f"{name}_ff_norm")
        return x + self._mlp(hidden, self.sizes.feedforward, self.sizes.width, f"{name}_ff", 1 / layers)

    def _start(self, x: Array, y: Array, used: Array, ordered: Array, squared: Array) -> Float[Array, "d state"]:
        """What is known of each parameter before the first layer."""
        count = jnp.sum(used)
        share = used / jnp.maximum(count, 1)
        mean = share @ y
        centred = jnp.where(used, y - mean, 0.0)
        variance = share @ centred**2 + TINY
        pairs = used[:, None] & used[None] & ~jnp.eye(len(x), dtype=bool)
        differences = jnp.where(pairs, (y[:, None] - y[None]) ** 2, 0.0)
        near = jnp.exp(-squared[..., None] / RANGES[None, None, None] ** 2) * pairs[..., None, None]
        varied = jnp.einsum("nm,nmdr->dr", differences, near) / (2 * variance * jnp.sum(near, (0, 1)) + TINY)
        places = jnp.where(used[:, None], x - (share @ x)[None], 0.0)
        squares = jnp.where(used[:, None], places**2 - (share @ places**2)[None], 0.0)

        def correlation(a):
            return (share * centred) @ a / jnp.sqrt(variance * (share @ a**2) + TINY)

        kind, d = ordered.astype(x.dtype), x.shape[1]
        known = [
            kind, correlation(places) ** 2 * kind, correlation(squares) * kind,
            jnp.full(d, jnp.log1p(count) / 3), jnp.full(d, np.log(d) / 2),
        ]  # fmt: skip
        known = jnp.concatenate([jnp.stack(known, -1), varied], -1)
        return self._mlp(known, 2 * self.sizes.parameter_width, self.sizes.parameter_width, "parameter")

    def _mended(self, state: Array, weights: Array, differences: Array, squared: Array, rate: Array, used, name: str):
        """States of the parameters after a layer."""
        share = used / jnp.maximum(jnp.sum(used), 1)
        weights = weights[..., 1:] * share[None, :, None]
        spread = jnp.einsum("hmn,mnd->dh", weights, squared) * rate.T
        missed = jnp.einsum("hmn,mnd->dh", weights * differences[None], squared) * rate.T
        total = jnp.einsum("hmn,mn->h", weights, differences)
        total = jnp.broadcast_to(total[None], spread.shape)
        known = [jnp.log(a + 1e-3) for a in (spread, missed, total)]
        whole = jnp.broadcast_to(jnp.mean(state, 0)[None], state.shape)
        seen = jnp.concatenate([self._norm(state, f"{name}_norm"), whole, *known], -1)
        size = self.sizes.parameter_width
        return state + self._mlp(seen, 2 * size, size, name, 1 / self.sizes.layers)

    def read(self, x: Array, y: Array, used: Array, ordered: Array) -> Memory:
        squared = squared_distances(x, x, ordered)
        y = jnp.where(used, y, 0.0)
        differences = (y[:, None] - y[None]) ** 2
        state = self._start(x, y, used, ordered, squared)
        seen = jnp.stack([y, jnp.tanh(y), jnp.sign(y) * jnp.log1p(jnp.abs(y)), jnp.ones_like(y)], -1)
        tokens = self._mlp(seen, self.sizes.width, self.sizes.width, "observation")
        tokens = tokens + self._place(x, ordered, state)
        keys, values, rates = [], [], []
        for i in range(self.sizes.layers):
            name = f"layer{i}"
            hidden, rate = self._norm(tokens, f"{name}_norm"), self._rates(state, f"{name}_rate")
            key, value = self._heads(hidden, f"{name}_key"), self._heads(hidden, f"{name}_value")
            weights = jax.nn.softmax(self._logits(hidden, key, squared, rate, used, name), -1)
            tokens = self._attended(tokens, weights, value, name)
            state = self._mended(state, weights, differences, squared, rate, used, f"{name}_parameter")
            for found, one in ((keys, key), (values, value), (rates, rate)):
                found.append(one)
        share = used / jnp.maximum(jnp.sum(used), 1)
        given = self._hyperparameters(state, share @ self._norm(tokens, "whole_norm"))
        fitted = fit(given, x, y, used, ordered)
        return Memory(x, used, ordered, jnp.stack(keys), jnp.stack(values), jnp.stack(rates), state, fitted)

    def _hyperparameters(self, state: Array, whole: Array) -> Hyperparameters:
        """From the states of the parameters and one of the set; what is learned is added to what is usual."""
        count, d = self.sizes.processes, len(state)
        usual = jnp.asarray(hk.get_parameter("process_scale", (count,), init=lambda *_: jnp.asarray(isotropic(count))))
        normed = self._norm(state, "process_norm")
        rate = self._linear(normed, count, "process_rate", 0.0).T + usual[:, None] - np.log(d)
        warp = self._linear(normed, 2, "process_warp", 0.0).T
        whole = jnp.concatenate([jnp.mean(normed, 0), whole, jnp.full(1, np.log(d) / 2)])[None]
        size = self.sizes.parameter_width
        hidden = jax.nn.gelu(self._linear(whole, 2 * size, "process_in", 2.0, bias=True))
        said = self._linear(hidden, (4 + KERNELS) * count, "process_out", 0.0, bias=True).reshape(count, -1)
        noise, variance, mean, belief = said[:, :4].T
        kernels = jnp.asarray(np.log([0.2, 0.6, 0.15, 0.05]), said.dtype)
        return Hyperparameters(
            jnp.exp(jnp.clip(rate, -9.0, 9.0)), jnp.exp(jnp.clip(noise - 6.0, -11.0, 1.0)),
            jnp.exp(jnp.clip(variance, -4.0, 4.0)), mean, jax.nn.softmax(said[:, 4:] + kernels[None]),
            belief, jnp.clip(warp, -1.5, 1.5),
        )  # fmt: skip

    def predict(self, memory: Memory, x: Array) -> tuple[Normals, Float[Array, "m buckets"]]:
        squared = squared_distances(x, memory.x, memory.ordered)
        query = jnp.asarray(hk.get_parameter("query", (self.sizes.width,), init=hk.initializers.RandomNormal()))
        # the places that observations were read at are those of the first states of parameters, and these of the last
        tokens = query[None] + self._place(x, memory.ordered, memory.state)
        for i in range(self.sizes.layers):
            name = f"layer{i}"
            hidden = self._norm(tokens, f"{name}_norm")
            logits = self._logits(hidden, memory.key[i], squared, memory.rate[i], memory.used, name)
            tokens = self._attended(tokens, jax.nn.softmax(logits, -1), memory.value[i], name)
        said = predict(memory.processes, x)
        mean, deviation = said.moments()
        known = jnp.stack([mean, jnp.log(deviation)], 1)
        tokens = jnp.concatenate([self._norm(tokens, "norm"), jnp.clip(known, -5, 5)], -1)
        return said, self._mlp(tokens, self.sizes.width, self.sizes.buckets, "head", 0.0)


def _rates(shape, dtype) -> Array:
    """Logarithms of inverse squared length scales, from about 1 to 0.05."""
    return jnp.linspace(0.0, 6.0, shape[0], dtype=dtype)


def _alternately(first: int):
    """So that half of the heads begin with one shape of kernel, and half with the other."""
    return lambda shape, dtype: jnp.where(jnp.arange(shape[0]) % 2 == first, 0.5, -4.0).astype(dtype)


def set_transformer(sizes: Sizes) -> Network:
    """The network of these sizes."""

    def functions():
        module = _SetTransformer(sizes)

        def both(x, y, used, ordered):
            return module.predict(module.read(x, y, used, ordered), x)

        return both, (module.read, module.predict)

    transformed = hk.without_apply_rng(hk.multi_transform(functions))
    read, predict = transformed.apply

    def init(key):
        return transformed.init(key, jnp.zeros((2, 1)), jnp.zeros(2), jnp.ones(2, bool), jnp.ones(1, bool))

    return Network(init, read, predict)
