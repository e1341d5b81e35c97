"""A memory of all points and values that is read with kernels: Gaussian processes that nobody has to fit.

It keeps a few vectors of length scales. Given those, the mean and the variance of the function are the ones of largest
likelihood in closed form, and the vectors are weighed by what remains of the likelihood (Jones et al. 1998, equations 5
to 8). At a few moments of a run, random changes of the length scales compete with them. An observation costs O(n^2),
and reading is invariant to shifts and scales of the values. No derivatives go through it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from l2o.gp import log_expected_improvement

NOISE = 1e-4  # of an observation, in variances of the function: what float32 needs
SMALL = 1e-10
TYPICAL, SPREAD = 0.5, 0.5  # length scales are believed to be log-normal: the median, the deviation of the logarithm
CHANGE = 0.3  # deviation of the random changes of those logarithms
RIVALS = 8  # how many of those compete at a time
GROWTH = 2.0  # factor between the numbers of observations at which they do
SIZES = (16, 32, 64)  # numbers of points for which that competition is compiled apart
BEND = 2.0  # where values turn logarithmic, in medians above the lowest one
DOUBT = 4.0  # what is added to the number of observations in the variance


class Memory(NamedTuple):
    """Observations, and what reading them needs for each of g vectors of length scales.

    Attributes:
      scales: length scales, in widths of the box.
      x: points in the unit cube; rows from `used` on mean nothing.
      y: their values less the first one.
      offset: the first value.
      inverse: of the Cholesky factors of the correlation matrices; rows from `used` on are zero.
      log_det: sums of the logarithms of the factors' diagonals.
      used: observations that are in it.
      due: how many there will be when the length scales next change.
    """

    scales: Float[Array, "g d"]
    x: Float[Array, "n d"]
    y: Float[Array, "n"]
    offset: Float[Array, ""]
    inverse: Float[Array, "g n n"]
    log_det: Float[Array, "g"]
    used: Int[Array, ""]
    due: Int[Array, ""]

    @classmethod
    def empty(cls, size: int, dimension: int, vectors: int = 3) -> "Memory":
        """Nothing seen, and room for `size` points; each vector begins with equal length scales."""
        each = TYPICAL * jnp.geomspace(0.5, 2.0, vectors)
        n, d, g = size, dimension, vectors
        return cls(
            jnp.broadcast_to(each[:, None], (g, d)), jnp.zeros((n, d)), jnp.zeros(n), jnp.zeros(()),
            jnp.zeros((g, n, n)), jnp.zeros(g), jnp.zeros((), jnp.int32),
            jnp.full((), min(6, n), jnp.int32),
        )  # fmt: skip

    def weights(self, x: Float[Array, "m d"]) -> Float[Array, "g n m"]:
        """The inverses times the correlations with m points."""
        # columns of the inverse from `used` on are zero, so rows of x beyond it do not matter
        return self.inverse @ jax.vmap(lambda scales: _correlation(scales, self.x, x))(self.scales)

    def fit(self) -> "Fit":
        """The likeliest mean and variance of the warped values, and what is left of the values then."""
        rows = (jnp.arange(self.y.shape[0]) < self.used).astype(self.y.dtype)
        white = self.inverse @ jnp.stack([warp(self.y, self.used), rows], 1)[None]
        mean, variance, log = _profile(white, self.log_det, self.used)
        residual = white[:, :, 0] - mean[:, None] * white[:, :, 1]
        return Fit(mean, variance, jax.nn.softmax(log + _belief(self.scales)), residual)

    def predict(self, x: Float[Array, "m d"]) -> tuple[Float[Array, "g m"], Float[Array, "g m"]]:
        """Means and variances of the warped function at m points for each vector of length scales."""
        fit, w = self.fit(), self.weights(x)
        means = fit.mean[:, None] + jnp.einsum("gn,gnm->gm", fit.residual, w)
        # at a point that was evaluated the noise alone is left, and nothing is to be learned there
        return means, fit.variance[:, None] * jnp.maximum(1 - jnp.sum(w**2, 1) - NOISE, SMALL)

    def log_improvement(self, x: Float[Array, "m d"], doubt: Float[Array, ""] | float = 1.0) -> Float[Array, "m"]:
        """Logarithm of the expected improvement on the lowest warped value at m points, averaged over the vectors.

        All variances are multiplied by `doubt`: with more of it, the search looks further away.
        """
        fit, (means, variances) = self.fit(), self.predict(x)
        scale = jnp.sqrt(fit.variance)[:, None]
        gains = log_expected_improvement(means / scale, doubt * variances / scale**2, 0.0)  # the lowest one is 0
        return jax.nn.logsumexp(jnp.log(fit.weight)[:, None] + jnp.log(scale) + gains, axis=0)

    def descent(self, x: Float[Array, "d"]) -> Float[Array, "d"]:
        """Direction in which the mean falls fastest at a point, in length scales; of unit length, or zero."""
        fit = self.fit()
        leading = jnp.argmax(fit.weight)
        scales = self.scales[leading]
        dual = fit.residual[leading] @ self.inverse[leading]
        difference = (x[None] - self.x) / scales[None]
        distance = jnp.sqrt(5 * jnp.sum(difference**2, -1))
        slope = -5 / 3 * (1 + distance) * jnp.exp(-distance)  # times the difference: the derivative of the kernel
        downhill = -scales * ((dual * slope) @ difference)
        return downhill / jnp.maximum(jnp.linalg.norm(downhill / scales), SMALL)

    def observe(
        self, key: PRNGKeyArray, x: Float[Array, "d"], y: Float[Array, ""], ok: Bool[Array, ""] | bool = True
    ) -> "Memory":
        """The memory with a point more, if it is `ok`; once it is full, the better half of the points is kept."""
        offset = jnp.where((self.used == 0) & ok, y, self.offset)
        y = y - offset
        here = (jnp.arange(self.y.shape[0]) == self.used) & ok
        correlations = jax.vmap(lambda scales: _correlation(scales, self.x, x[None])[:, 0])(self.scales)
        row, diagonal = _row(self.inverse, correlations, 1 + NOISE, here)
        new = self._replace(
            x=jnp.where(here[:, None], x[None], self.x),
            y=jnp.where(here, y, self.y),
            offset=offset,
            inverse=jnp.where(here[None, :, None], row[:, None], self.inverse),
            log_det=self.log_det + jnp.where(ok, jnp.log(diagonal), 0.0),
            used=self.used + jnp.where(ok, 1, 0),
        )
        return _reconsider(new.used >= new.due, jax.random.key_data(key), new)


class Fit(NamedTuple):
    """What is most likely, for each of g vectors of length scales.

    Attributes:
      mean, variance: of the function.
      weight: of the vectors.
      residual: the whitened residuals from the mean.
    """

    mean: Float[Array, "g"]
    variance: Float[Array, "g"]
    weight: Float[Array, "g"]
    residual: Float[Array, "g n"]


def warp(y: Float[Array, "n"], used: Int[Array, ""]) -> Float[Array, "n"]:
    """Values above the lowest one, in units of the median's, and logarithmic beyond `BEND` of those; 0 beyond `used`.

    Functions with steep walls look smooth then, and shifts and scales of the values cancel.
    """
    rows = jnp.arange(y.shape[0]) < used
    ordered = jnp.sort(jnp.where(rows, y, jnp.inf))
    lowest, median = ordered[0], ordered[used // 2]
    unit = median - lowest
    z = jnp.where(rows, (y - lowest) / jnp.where(unit > 0, unit, 1.0), 0.0)
    return jnp.where(z > BEND, BEND * (1 + jnp.log(jnp.maximum(z, BEND) / BEND)), z)


def _correlation(scales: Float[Array, "d"], a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Matern-5/2, as `l2o.gp.covariance`, but without the other kernel and the care for derivatives: a hot path."""
    distance = jnp.sqrt(5 * jnp.sum(((a[:, None] - b[None]) / scales[None, None]) ** 2, -1))
    return (1 + distance + distance**2 / 3) * jnp.exp(-distance)


def inverse_factor(gram: Float[Array, "g k k"]) -> Float[Array, "g k k"]:
    """Inverses of the Cholesky factors, by blocks.

    Products of matrices and short loops rather than calls of LAPACK: those are slower in batches, and on a CPU they
    wait for threads that other devices may hold.
    """
    k = gram.shape[1]
    if k > 16:
        h = k // 2
        first = inverse_factor(gram[:, :h, :h])
        across = first @ gram[:, :h, h:]
        last = inverse_factor(gram[:, h:, h:] - across.mT @ across)
        zero = jnp.zeros_like(across)
        below = -last @ (across.mT @ first)
        return jnp.concatenate([jnp.concatenate([first, zero], 2), jnp.concatenate([below, last], 2)], 1)

    def add(inverse, i):
        row = _row(inverse, gram[:, :, i] * (jnp.arange(k) < i)[None], gram[:, i, i], jnp.arange(k) == i)
        return jax.lax.dynamic_update_slice_in_dim(inverse, row[0][:, None], i, 1), None

    return jax.lax.scan(add, jnp.zeros_like(gram), jnp.arange(k))[0]


def _row(inverse: Float[Array, "g n n"], column: Float[Array, "g n"], corner, here: Bool[Array, "n"]):
    """The next row of inverse factors, and the new diagonals of the factors."""
    w = jnp.einsum("gnm,gm->gn", inverse, column)
    diagonal = jnp.sqrt(jnp.maximum(corner - jnp.sum(w**2, 1), NOISE))
    return (here[None] - jnp.einsum("gn,gnm->gm", w, inverse)) / diagonal[:, None], diagonal


def _profile(white: Float[Array, "g n 2"], log_det: Float[Array, "g"], used: Int[Array, ""]):
    """Mean, variance and logarithm of the likelihood that they maximise, up to a constant."""
    count = jnp.maximum(used, 1).astype(white.dtype)
    ys, ones = white[:, :, 0], white[:, :, 1]
    mean = jnp.sum(ones * ys, 1) / jnp.maximum(jnp.sum(ones**2, 1), SMALL)
    squares = jnp.sum((ys - mean[:, None] * ones) ** 2, 1)
    # a little more than the most likely variance: few values show less spread than the function has
    variance = jnp.where(squares > 0, squares * (count + DOUBT) / count**2, 1.0)
    return mean, variance, -0.5 * count * jnp.log(variance) - log_det


def _belief(scales: Float[Array, "g d"]) -> Float[Array, "g"]:
    """Logarithm of the prior of length scales, up to a constant."""
    return -0.5 * jnp.sum((jnp.log(scales / TYPICAL) / SPREAD) ** 2, 1)


def _when_due(due: Bool[Array, ""], key: Array, memory: Memory) -> Memory:
    return jax.lax.cond(due, lambda m: _compete(key, m), lambda m: m, memory)


@custom_vmap
def _reconsider(due: Bool[Array, ""], key: Array, memory: Memory) -> Memory:
    """Let other length scales compete if it is due, and make room if it is full."""
    return _when_due(due, key, memory)


@_reconsider.def_vmap
def _under_vmap(size, batched, *each):
    return _reconsider_many(*_tile(size, batched, each)), jax.tree.map(lambda _: True, each[2])


@custom_vmap
def _reconsider_many(due: Bool[Array, "b"], key: Array, memory: Memory) -> Memory:
    """Under vmap a condition would be computed for everybody at every step: here, one by one for those who are due."""

    def some(each):
        return jax.lax.map(lambda one: _when_due(*one), each)

    return jax.lax.cond(jnp.any(due), some, lambda each: each[2], (due, key, memory))


@_reconsider_many.def_vmap
def _under_two(size, batched, *each):
    flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), _tile(size, batched, each))
    new = _reconsider_many(*flat)
    return jax.tree.map(lambda a: a.reshape(size, -1, *a.shape[1:]), new), jax.tree.map(lambda _: True, each[2])


def _tile(size: int, batched: Any, each: Any) -> Any:
    return jax.tree.map(lambda a, b: a if b else jnp.broadcast_to(a, (size, *a.shape)), each, tuple(batched))


def _sizes(n: int) -> list[int]:
    return [*(size for size in SIZES if size < n), n]


def _size(memory: Memory) -> Int[Array, ""]:
    """Index of the smallest compiled size that holds all points."""
    return jnp.sum(memory.used > jnp.array(_sizes(memory.y.shape[0])[:-1], jnp.int32)).astype(jnp.int32)


def _compete(key: Array, memory: Memory) -> Memory:
    """The present length scales and random changes of them: the ones of largest posterior density survive."""
    n, (g, d) = memory.y.shape[0], memory.scales.shape
    full = memory.used >= n
    order = jnp.where(full, jnp.argsort(memory.y), jnp.arange(n))
    used = jnp.where(full, n // 2, memory.used)
    x, y = memory.x[order], jnp.where(jnp.arange(n) < used, memory.y[order], 0.0)
    all_key, each_key = jax.random.split(jax.random.wrap_key_data(key))
    normal = jax.random.normal(each_key, (RIVALS, d)) + jax.random.normal(all_key, (RIVALS, 1))
    parents = memory.scales[jnp.arange(RIVALS) % g]
    pool = jnp.concatenate([memory.scales, parents * jnp.exp(CHANGE * normal)])

    def at(k: int):
        """The memory with the first k rows, which hold all points."""
        rows = jnp.arange(k) < used
        both = rows[:, None] & rows[None]
        gram = jax.vmap(lambda scales: jnp.where(both, _correlation(scales, x[:k], x[:k]), 0.0))(pool)
        gram = gram + jnp.diag(jnp.where(rows, NOISE, 1.0))[None]
        inverse = jnp.where(rows[None, :, None], inverse_factor(gram), 0.0)
        log_det = -jnp.sum(jnp.log(jnp.where(rows[None], jnp.diagonal(inverse, axis1=1, axis2=2), 1.0)), 1)
        white = inverse @ jnp.stack([warp(y, used)[:k], rows.astype(y.dtype)], 1)[None]
        _, _, log = _profile(white, log_det, used)
        best = jax.lax.top_k(jnp.where(jnp.isfinite(log), log + _belief(pool), -jnp.inf), g)[1]
        rest = n - k
        return pool[best], jnp.pad(inverse[best], ((0, 0), (0, rest), (0, rest))), log_det[best]

    branches = [lambda k=k: at(k) for k in _sizes(n)]
    scales, inverse, log_det = jax.lax.switch(_size(memory), branches)
    due = jnp.minimum(jnp.ceil(GROWTH * used).astype(jnp.int32), n)
    return Memory(scales, x, y, memory.offset, inverse, log_det, used.astype(memory.used.dtype), due)
