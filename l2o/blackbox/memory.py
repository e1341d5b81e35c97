"""A memory of all points and values that is read with kernels: Gaussian processes whose fit is in closed form.

For each of a few fixed length scales, the mean and the variance of the function are those of largest likelihood given
everything seen, and the length scales are weighed by what remains of the likelihood (Jones et al. 1998, equations 5 to
8). So nothing is optimised, an observation costs O(n^2), and reading is invariant to shifts and scales of the values.
No derivatives go through it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int

from l2o.gp import log_expected_improvement

NOISE = 1e-4  # of an observation, in variances of the function: what float32 needs
SMALL = 1e-12


class Memory(NamedTuple):
    """Observations, and what reading them needs for each of g length scales.

    Attributes:
      length_scales: in widths of the box.
      x: points in the unit cube; rows from `used` on mean nothing.
      y: their values less the first one.
      offset: the first value.
      inverse: of the Cholesky factors of the correlation matrices; rows from `used` on are zero.
      white: the inverses times y, and times a vector of ones.
      log_det: sums of the logarithms of the factors' diagonals.
      used: observations that are in it.
    """

    length_scales: Float[Array, "g"]
    x: Float[Array, "n d"]
    y: Float[Array, "n"]
    offset: Float[Array, ""]
    inverse: Float[Array, "g n n"]
    white: Float[Array, "g n 2"]
    log_det: Float[Array, "g"]
    used: Int[Array, ""]

    @classmethod
    def empty(cls, length_scales: tuple[float, ...], size: int, dimension: int) -> "Memory":
        """Nothing seen, and room for `size` points."""
        g, n = len(length_scales), size
        return cls(
            jnp.array(length_scales), jnp.zeros((n, dimension)), jnp.zeros(n), jnp.zeros(()), jnp.zeros((g, n, n)),
            jnp.zeros((g, n, 2)), jnp.zeros(g), jnp.zeros((), jnp.int32),
        )  # fmt: skip

    def weights(self, x: Float[Array, "m d"]) -> Float[Array, "g n m"]:
        """The inverses times the correlations with m points."""
        squared = jnp.sum((self.x[:, None] - x[None]) ** 2, -1)
        distance = jnp.sqrt(5 * squared)[None] / self.length_scales[:, None, None]
        matern = (1 + distance + distance**2 / 3) * jnp.exp(-distance)
        return self.inverse @ matern  # rows of the inverse beyond `used` are zero, and its columns too

    def fit(self) -> tuple[Float[Array, "g"], Float[Array, "g"], Float[Array, "g"]]:
        """Mean and variance of the function by maximum likelihood, and the weight of each length scale."""
        count = jnp.maximum(self.used, 1).astype(self.y.dtype)
        ones, ys = self.white[:, :, 1], self.white[:, :, 0]
        mean = jnp.sum(ones * ys, 1) / jnp.maximum(jnp.sum(ones**2, 1), SMALL)
        squares = jnp.sum((ys - mean[:, None] * ones) ** 2, 1)
        variance = jnp.where(squares > 0, squares / count, 1.0)
        return mean, variance, jax.nn.softmax(-0.5 * count * jnp.log(variance) - self.log_det)

    def predict(self, x: Float[Array, "m d"]) -> tuple[Float[Array, "g m"], Float[Array, "g m"]]:
        """Means, less the first value, and variances of the function at m points for each length scale."""
        mean, variance, _ = self.fit()
        w = self.weights(x)
        residual = self.white[:, :, 0] - mean[:, None] * self.white[:, :, 1]
        means = mean[:, None] + jnp.einsum("gn,gnm->gm", residual, w)
        return means, variance[:, None] * jnp.maximum(1 - jnp.sum(w**2, 1), NOISE)

    def log_improvement(self, x: Float[Array, "m d"]) -> Float[Array, "m"]:
        """Logarithm of the expected improvement on the lowest value at m points, averaged over the length scales."""
        _, variance, weight = self.fit()
        means, variances = self.predict(x)
        best = jnp.min(jnp.where(jnp.arange(self.y.shape[0]) < self.used, self.y, jnp.inf))
        best = jnp.where(self.used > 0, best, 0.0)
        scale = jnp.sqrt(variance)[:, None]  # so that the units of the values do not matter
        gains = log_expected_improvement((means - best) / scale, variances / scale**2, 0.0)
        return jax.nn.logsumexp(jnp.log(weight)[:, None] + jnp.log(scale) + gains, axis=0)

    def observe(self, x: Float[Array, "d"], y: Float[Array, ""]) -> "Memory":
        """With a point more; when it is full, the better half of the points is kept first."""
        self = _make_room(self.used >= self.y.shape[0], self)
        offset = jnp.where(self.used == 0, y, self.offset)
        y = y - offset
        w = self.weights(x[None])[:, :, 0]
        diagonal = jnp.sqrt(jnp.maximum(1 + NOISE - jnp.sum(w**2, 1), NOISE))
        here = jnp.arange(self.y.shape[0]) == self.used
        row = (here[None] - jnp.einsum("gn,gnm->gm", w, self.inverse)) / diagonal[:, None]
        entry = (jnp.stack([y, jnp.ones(())])[None] - jnp.einsum("gn,gnk->gk", w, self.white)) / diagonal[:, None]
        return Memory(
            self.length_scales,
            jnp.where(here[:, None], x[None], self.x),
            jnp.where(here, y, self.y),
            offset,
            jnp.where(here[None, :, None], row[:, None], self.inverse),
            jnp.where(here[None, :, None], entry[:, None], self.white),
            self.log_det + jnp.log(diagonal),
            self.used + 1,
        )


@custom_vmap
def _make_room(full: Bool[Array, ""], memory: Memory) -> Memory:
    return jax.lax.cond(full, _better_half, lambda m: m, memory)


@_make_room.def_vmap
def _make_room_for_many(size, batched, full, memory):
    """A condition under vmap would be computed for everybody at every step: ask first whether anybody is full."""

    def tile(a, is_batched):
        return a if is_batched else jnp.broadcast_to(a, (size, *a.shape))

    full, memory = jax.tree.map(tile, (full, memory), tuple(batched))

    def some(memory):
        return jax.tree.map(
            lambda new, old: jax.vmap(jnp.where)(full, new, old), jax.vmap(_better_half)(memory), memory
        )

    return jax.lax.cond(jnp.any(full), some, lambda m: m, memory), jax.tree.map(lambda _: True, memory)


def _better_half(memory: Memory) -> Memory:
    """The half of the points with the lowest values, in the order of their values."""
    n = memory.y.shape[0]
    kept = jnp.arange(n) < n // 2
    order = jnp.argsort(memory.y)
    x, y = memory.x[order], jnp.where(kept, memory.y[order], 0.0)
    distance = jnp.sqrt(5 * jnp.sum((x[:, None] - x[None]) ** 2, -1))[None] / memory.length_scales[:, None, None]
    matern = (1 + distance + distance**2 / 3) * jnp.exp(-distance)
    eye = jnp.eye(n)
    gram = jnp.where((kept[:, None] & kept[None])[None], matern + NOISE * eye[None], eye[None])
    factor = jnp.linalg.cholesky(gram)
    inverse = jax.vmap(lambda f: jax.scipy.linalg.solve_triangular(f, eye, lower=True))(factor)
    inverse = jnp.where(kept[None, :, None], inverse, 0.0)
    white = inverse @ jnp.stack([y, jnp.where(kept, 1.0, 0.0)], 1)[None]
    log_det = jnp.sum(jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)), 1)
    return Memory(
        memory.length_scales, x, y, memory.offset, inverse, white, log_det, jnp.asarray(n // 2, memory.used.dtype)
    )
