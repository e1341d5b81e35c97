"""Residual matrix adaptation: a covariance-adapting evolution strategy whose every rule has a learned correction.

The classical algorithm at its core is the matrix adaptation strategy of Beyer and Sendhoff (2017, "Simplify your
covariance matrix adaptation evolution strategy"), which has the behaviour of CMA-ES without an eigendecomposition,

  x_i = m + s M z_i,   m += s sum_i w_i M z_i,   s *= exp(c_s / d_s (|p| / chi - 1))
  M += c_1 / 2 (M p p' - M) + c_w / 2 (sum_i w_i M z_i z_i' - M)

with negative weights for the worse half (active covariance, Jastrebski and Arnold 2006), mirrored samples (Brockhoff et
al. 2010), and an accelerated diagonal as in dd-CMA-ES (Akimoto and Hansen 2020): each coordinate is also rescaled at
the rate of a separable strategy, the less so the more M correlates the coordinates. After 10 + 30 d / n generations
that found nothing better, the search begins again at the best point of all. Constants are those of Hansen (2016, "The
CMA evolution strategy: a tutorial", table 1 and appendix B.3).

Learned are bounded factors on all of it. They come from a small recurrent network that reads dimensionless evidence of
the whole run, from one over members and from one over coordinates, and are 1 at fresh meta-parameters.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pydantic import Field

from l2o.core import LearnedOptimizer, Optimizer, Theta
from l2o.evolution.population import (
    LARGEST,
    SMALLEST,
    EvolutionStrategyConfig,
    Layer,
    Strategy,
    best_point,
    centred_ranks,
    dense,
    improved,
    layer,
    lift,
    normal_scores,
    unless_stuck,
)
from l2o.registry import register

RATES = np.array([0.03, 0.1, 0.3], np.float32)  # at which the rate of success is averaged
DAMPING = 10.0  # of the accelerated diagonal by correlation
FLAT = 1e-12  # smallest length of a row of M, whose rows have a mean square length of 1
GLOBAL, MEMBER, COORDINATE = 15, 6, 5  # features
GATES = 7


@register
class RMAConfig(EvolutionStrategyConfig):
    """Matrix adaptation evolution strategy with learned residuals (ours); untrained, it is a classical one.

    Nothing depends on the units of x, nor on values beyond their order.

    Attributes:
      full: largest number of coordinates for which M is a matrix; with more it is a diagonal.
      memory: units of the recurrent network that reads the run.
      hidden: units of the networks over members and over coordinates.
    """

    kind: Literal["rma"] = "rma"
    full: int = Field(default=100, ge=0, le=10_000)
    memory: int = Field(default=8, ge=1, le=1024)
    hidden: int = Field(default=8, ge=1, le=1024)

    def build(self) -> LearnedOptimizer:
        """The architecture."""
        return rma(self)


class RMAState(NamedTuple):
    """State of the strategy.

    Attributes:
      mean: centre of the population.
      sigma: overall step size.
      start: the step size that the run began with.
      matrix: M, or its diagonal.
      path: p, in the coordinates of z.
      noise: z of the generation that was asked last.
      mirrored: how much of the next generation is mirrored, in [0, 1].
      lowest: value since the search last began.
      success: exponential means of the share of members that were below it.
      since: generations since the last such one.
      memory: of the recurrent network.
    """

    mean: Float[Array, "d"]
    sigma: Float[Array, ""]
    start: Float[Array, ""]
    matrix: Float[Array, "..."]
    path: Float[Array, "d"]
    noise: Float[Array, "n d"]
    mirrored: Float[Array, ""]
    lowest: Float[Array, ""]
    success: Float[Array, "3"]
    since: Float[Array, ""]
    memory: Float[Array, "m"]


class Constants(NamedTuple):
    """What Hansen (2016) recommends for n members in d dimensions.

    Attributes:
      mass: variance-effective number of selected members.
      c_s, d_s: rate and damping of the step size.
      c_1, c_w: rates of the covariance, by the path and by the members.
      negative: what the weights of the worse half add up to.
      definite: the most for which the covariance stays positive definite.
      chi: expected length of a standard normal vector.
    """

    mass: float
    c_s: float
    d_s: float
    c_1: float
    c_w: float
    negative: float
    definite: float
    chi: float

    @classmethod
    def of(cls, n: int, d: int) -> "Constants":
        raw = math.log((n + 1) / 2) - np.log(np.arange(1, n + 1))
        better, worse = raw[raw > 0], raw[raw < 0]
        mass, unmass = better.sum() ** 2 / (better**2).sum(), worse.sum() ** 2 / (worse**2).sum()
        c_s = (mass + 2) / (d + mass + 5)
        d_s = 1 + c_s + 2 * max(0.0, math.sqrt((mass - 1) / (d + 1)) - 1)
        c_1 = 2 / ((d + 1.3) ** 2 + mass)
        c_w = min(0.9 * (1 - c_1), 2 * (0.25 + mass + 1 / mass - 2) / ((d + 2) ** 2 + mass))
        definite = (1 - c_1 - c_w) / (d * c_w)
        negative = min(1 + c_1 / c_w, 1 + 2 * unmass / (mass + 2), definite)
        chi = math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d**2))
        return cls(*map(float, (mass, c_s, d_s, c_1, c_w, negative, definite, chi)))


def gate(x: Float[Array, "..."], octaves: int) -> Float[Array, "..."]:
    """A factor between 2^-octaves and 2^octaves, 1 at 0."""
    return jnp.exp2(octaves * jnp.tanh(x))


def rma(config: RMAConfig) -> LearnedOptimizer:
    """Build the strategy."""
    n, units = config.population_size, config.memory
    firsts = (n + 1) // 2  # the others may be their mirror images
    pairs = n - firsts

    def init(key) -> Theta:
        keys = jax.random.split(key, 3)

        def nothing(units: int, outputs: int) -> Layer:
            return {"w": jnp.zeros((outputs, units)), "b": jnp.zeros(outputs)}

        return {
            "memory": layer(keys[0], GLOBAL + units, 2 * units), "gates": nothing(units, GATES),
            "member": layer(keys[1], MEMBER + units, config.hidden), "weights": nothing(2 * config.hidden, 2),
            "coordinate": layer(keys[2], COORDINATE + units, config.hidden), "rate": nothing(config.hidden, 1),
        }  # fmt: skip

    def times(matrix: Float[Array, "..."], z: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return z @ matrix.T if matrix.ndim == 2 else z * matrix[None]

    def over(weights: Layer, each: Float[Array, "f k"], memory: Float[Array, "m"]) -> Float[Array, "h k"]:
        """A hidden layer over members or coordinates, all of which read the memory too."""
        w, own = weights["w"], each.shape[0]
        return jnp.tanh(w[:, :own] @ each + (w[:, own:] @ memory + weights["b"])[:, None])

    def bind(theta: Theta) -> Optimizer:
        def begin(key, mean, sigma):
            d, dtype = mean.size, mean.dtype
            matrix = jnp.eye(d, dtype=dtype) if d <= config.full else jnp.ones(d, dtype)
            zero, nothing = jnp.zeros((), dtype), jnp.zeros(d, dtype)
            sigma = jnp.clip(sigma, SMALLEST, LARGEST)
            return RMAState(
                mean, sigma, sigma, matrix, nothing, jnp.zeros((n, d), dtype), zero + 1, zero + jnp.inf,
                jnp.full(3, 0.5, dtype), zero, jnp.zeros(units, dtype),
            )  # fmt: skip

        def ask(key, run):
            state: RMAState = run.inner
            z = jax.random.normal(key, (n, state.mean.size), state.mean.dtype)
            mirror = jnp.arange(pairs) < state.mirrored * pairs
            z = jnp.concatenate([z[:firsts], jnp.where(mirror[:, None], -z[:pairs], z[firsts:])])
            return state.mean[None] + state.sigma * times(state.matrix, z), state._replace(noise=z)

        def tell(key, run, x, value):
            s: RMAState = run.inner
            z, d = s.noise, s.mean.size
            c = Constants.of(n, d)
            squares = jnp.sum(z**2, axis=1)
            lengths = jnp.sqrt(jnp.sum(s.matrix**2, axis=1)) if s.matrix.ndim == 2 else s.matrix
            moved, y = (x - s.mean[None]) / s.sigma, times(s.matrix, z)  # these differ where a query was projected
            v = y / lengths[None]  # standard normal, were there no selection

            # what happened, without units
            better = improved(value, s.lowest)
            success = s.success + RATES * (jnp.mean(better) - s.success)
            since = jnp.where(jnp.any(better > 0), 0.0, s.since + 1)
            raw = math.log((n + 1) / 2) - jnp.log((centred_ranks(value) + 0.5) * (n - 1) + 1)
            base = jnp.maximum(raw, 0.0) + 1e-9  # all alike where all values are
            base = base / jnp.sum(base)
            crossed = jnp.zeros(())
            if s.matrix.ndim == 2 and d > 1:
                rows = s.matrix / lengths[:, None]
                crossed = jnp.maximum(jnp.sum((rows @ rows.T) ** 2) - d, 0.0) / (d * (d - 1))
            excess = jnp.linalg.norm(s.path) / c.chi - 1
            log_lengths = jnp.log(lengths) - jnp.mean(jnp.log(lengths))
            along = (z @ s.path) / (jnp.sqrt(squares) * jnp.linalg.norm(s.path) + 1e-9) * math.sqrt(d)
            seen = jnp.stack(
                [
                    jnp.tanh(excess), jnp.tanh(jnp.log(s.sigma / s.start) / 5), jnp.tanh(d * crossed / 5),
                    jnp.tanh(jnp.std(log_lengths)), *(2 * success - 1), jnp.mean(better), jnp.log1p(since) / 3,
                    jnp.log1p(run.generation.astype(x.dtype)) / 5, jnp.tanh(base @ squares / d - 1),
                    jnp.tanh(base @ along), jnp.asarray(math.log(n) / 3 - 1), jnp.asarray(math.log(d) / 3 - 1),
                    s.mirrored,
                ]
            )  # fmt: skip
            update, candidate = jnp.split(dense(theta["memory"], jnp.concatenate([seen, s.memory])[:, None])[:, 0], 2)
            memory = s.memory + jax.nn.sigmoid(update) * (jnp.tanh(candidate) - s.memory)
            pace, drift, stride, by_path, by_members, worse, mirrored = dense(theta["gates"], memory[:, None])[:, 0]

            # recombination
            scores = normal_scores(value)
            each = jnp.stack(
                [scores, jnp.tanh(n * base - 1), better - 0.5, jnp.tanh(squares / d - 1), jnp.tanh(along),
                 (jnp.arange(n) < pairs) * s.mirrored]
            )  # fmt: skip
            hidden = over(theta["member"], each, memory)
            pooled = jnp.broadcast_to(jnp.mean(hidden, axis=1, keepdims=True), hidden.shape)
            w = base[None] * gate(dense(theta["weights"], jnp.concatenate([hidden, pooled])), 2)
            w, w_matrix = w / jnp.sum(w, axis=1, keepdims=True)
            mirror = jnp.arange(pairs) < s.mirrored * pairs
            a, b = w[:pairs], w[firsts:]  # the steps of a mirrored pair take from each other
            mass = jnp.sum(jnp.where(mirror, (a - b) ** 2, a**2 + b**2)) + jnp.sum(w[pairs:firsts] ** 2)
            mass = jnp.clip(1 / (mass + 1e-9), 1.0, n)
            path = (1 - c.c_s) * s.path + jnp.sqrt(c.c_s * (2 - c.c_s) * mass) * (w @ z)
            mean = s.mean + gate(stride, 1) * s.sigma * (w @ moved)
            excess = jnp.linalg.norm(path) / c.chi - 1
            log_sigma = gate(pace, 2) * c.c_s / c.d_s * excess + 0.2 * c.c_s * jnp.tanh(drift)

            # covariance
            c_1 = jnp.minimum(c.c_1 * gate(by_path, 2), 0.5)
            c_w = jnp.minimum(c.c_w * gate(by_members, 2), 1 - c_1)
            matrix = s.matrix
            if matrix.ndim == 2:
                negative = jnp.minimum(raw, 0.0)
                negative = negative / (jnp.sum(-negative) + 1e-9) * jnp.minimum(c.negative * gate(worse, 2), c.definite)
                active = w_matrix + negative * jnp.minimum(d / squares, 10.0)
                matrix = (
                    (1 - c_1 / 2 - c_w / 2 * jnp.sum(w_matrix + negative)) * matrix
                    + c_1 / 2 * jnp.outer(matrix @ path, path)
                    + c_w / 2 * (y * active[:, None]).T @ z
                )
            by_w = w_matrix @ v**2 - 1
            p = (s.matrix @ path if s.matrix.ndim == 2 else s.matrix * path) / lengths
            coordinates = jnp.stack(
                [jnp.tanh(p), jnp.tanh(log_lengths), jnp.tanh(by_w), jnp.tanh(p**2 - 1), jnp.full(d, jnp.tanh(excess))]
            )
            hidden = over(theta["coordinate"], coordinates, memory)
            more = gate(dense(theta["rate"], hidden)[0], 3)
            faster = (d + 2) / 3  # the rates of a separable strategy; a matrix has its own update beside
            more = more * (faster if matrix.ndim == 1 else (faster - 1) / (1 + DAMPING * d * crossed))
            change = jnp.minimum(more * c_1, 0.5) / 2 * (p**2 - 1) + jnp.minimum(more * c_w, 0.5) / 2 * by_w
            change = jnp.exp(jnp.clip(change, -1, 1))
            matrix = matrix * (change[:, None] if matrix.ndim == 2 else change)

            # rows of a mean square length of 1, the rest is the step size's
            lengths = jnp.sqrt(jnp.sum(matrix**2, axis=1)) if matrix.ndim == 2 else matrix
            size = jnp.sqrt(jnp.mean(lengths**2))
            flat = jnp.maximum(FLAT * size / jnp.maximum(lengths, SMALLEST), 1.0) / size
            matrix = matrix * (flat[:, None] if matrix.ndim == 2 else flat)
            sigma = jnp.clip(s.sigma * size * jnp.exp(jnp.clip(log_sigma, -1, 1)), SMALLEST, LARGEST)
            new = RMAState(
                mean, sigma, s.start, matrix, path, z, jnp.clip(1 + jnp.tanh(mirrored), 0.0, 1.0),
                jnp.minimum(s.lowest, jnp.min(value)), success, since, memory,
            )  # fmt: skip
            return unless_stuck(new, begin(key, best_point(run, x, value), s.start), since, n, d)

        return lift(Strategy(begin, ask, tell), config)

    return LearnedOptimizer(init, bind)
