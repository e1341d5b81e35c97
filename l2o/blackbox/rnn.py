"""The RNN black-box optimizer of Chen et al. (2017), for any dimension up to a maximum.

"Learning to learn without gradient descent by gradient descent" (arXiv 1611.03824):

  h_t, x_t = RNN_theta(h_{t-1}, x_{t-1}, y_{t-1})

Beside the paper: values are normalised by what has been seen so far (TV et al. 2019, arXiv 1905.12220), a
proposal is a residual to the best point and to a quasi-random point rather than a squashed output that is drawn to the
centre, and the same weights may serve every coordinate.
"""

from typing import Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field

from l2o.acquisition import quasi_random
from l2o.blackbox.memory import Memory
from l2o.core import LearnedOptimizer, Optimizer, OptimizerConfig, Theta, need_bounds
from l2o.errors import UserError
from l2o.layers import cell, dense
from l2o.registry import register
from l2o.space.domain import X
from l2o.wrappers.cube import in_unit_cube

CLIP = 5.0  # normalised values are clipped here
Hidden = tuple[tuple[Float[Array, "hidden n"], Float[Array, "hidden n"]], ...]


@register
class RNNConfig(OptimizerConfig):
    """LSTM that proposes points of a box from points and values (Chen et al. 2017).

    Attributes:
      hidden: units in each layer.
      layers: stacked LSTM layers.
      weights: "shared": every coordinate has a hidden state of its own, all have the same weights and read what is
        pooled over the others, so the order of coordinates does not matter. "joint": one hidden state for the point, as
        in the paper, whose network serves one dimension when it is trained on one; smaller ones are padded.
      pooled: features that a coordinate reads of the others, with shared weights.
      max_dimension: largest number of coordinates.
      parallel: the network also reads each point that it proposes before the result is there, with a flag that says
        so (their parallel version), for several workers whose results arrive out of order.
      candidates: points among which each proposal is chosen, by expected improvement according to a memory of
        everything seen (see `l2o.blackbox.memory`): half of them are outputs of the network, a quarter lie on the line
        from the best point along which the memory expects the values to fall, with steps that the network chooses, and
        a quarter are quasi-random. 0 is the network of the paper, which has one output and no such memory.
      max_trials: of the memory; when it is full, the better half is kept.
    """

    kind: Literal["rnn"] = "rnn"
    hidden: int = Field(default=32, ge=1, le=4096)
    layers: int = Field(default=1, ge=1, le=8)
    weights: Literal["shared", "joint"] = "shared"
    pooled: int = Field(default=16, ge=0, le=4096)
    max_dimension: int = Field(default=6, ge=1, le=1000)
    parallel: bool = False
    candidates: int = Field(default=64, ge=0, le=65_536)
    max_trials: int = Field(default=128, ge=2, le=4096)

    def build(self) -> LearnedOptimizer:
        """The architecture."""
        return rnn(self)


class Seen(NamedTuple):
    """Incremental statistics of the values, and the best point.

    Attributes:
      total, mean, squares: of the finite values: how many, their mean, the sum of squared deviations (Welford).
      best: the lowest value, infinite before the first.
      best_x: where, in the unit cube.
      since: rounds since it was found.
    """

    total: Float[Array, ""]
    mean: Float[Array, ""]
    squares: Float[Array, ""]
    best: Float[Array, ""]
    best_x: Float[Array, "d"]
    since: Float[Array, ""]

    def normalise(self, value: Float[Array, ""] | float) -> Float[Array, ""]:
        """Values in standard deviations from the mean, clipped."""
        deviation = jnp.sqrt(jnp.where(self.squares > 0, self.squares / jnp.maximum(self.total, 1), 1.0))
        return jnp.clip((value - self.mean) / deviation, -CLIP, CLIP)

    def add(self, x: Float[Array, "d"], value: Float[Array, ""], ok: Bool[Array, ""]) -> "Seen":
        """The statistics with one value more, unless it failed."""
        safe = jnp.where(ok, value, self.mean)
        total = self.total + 1
        difference = safe - self.mean
        mean = self.mean + difference / total
        better = ok & (value < self.best)
        new = Seen(
            total, mean, self.squares + difference * (safe - mean), jnp.where(better, value, self.best),
            jnp.where(better, x, self.best_x), jnp.where(better, 0.0, self.since + 1),
        )  # fmt: skip
        return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, self._replace(since=self.since + 1))


class State(NamedTuple):
    """State of a run.

    Attributes:
      hidden: of the LSTM, (h, c) for each layer; n is the number of coordinates, or 1 with joint weights.
      memory: of everything seen, or None.
      seen: what the values were.
      shift: of the quasi-random sequence, in the unit cube.
      step: results told so far.
      asked: points asked so far.
      horizon: of the problem.
      start: the problem's start, for the structure of a point.
    """

    hidden: Hidden
    memory: Memory | None
    seen: Seen
    shift: Float[Array, "d"]
    step: Int[Array, ""]
    asked: Int[Array, ""]
    horizon: Float[Array, ""]
    start: X


@jax.custom_vjp
def into_box(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """The nearest point of the unit cube; its derivative vanishes only for what would lead further outside."""
    return jnp.clip(z, 0.0, 1.0)


def _backward(z, gradient):
    outwards = ((z < 0) & (gradient > 0)) | ((z > 1) & (gradient < 0))
    return (jnp.where(outwards, 0.0, gradient),)


into_box.defvjp(lambda z: (into_box(z), z), _backward)


def rnn(config: RNNConfig) -> LearnedOptimizer:
    """Build the optimizer; `bind(theta)` asks one point at a time.

    Raises (when the run begins):
      UserError: the space has no bounds, or more than `max_dimension` coordinates.
    """
    shared, largest = config.weights == "shared", config.max_dimension
    local, line = config.candidates - config.candidates // 2, config.candidates // 4

    def inputs(state: State, seen: Seen, x: Float[Array, "d"], value, ok, arrived) -> Float[Array, "features n"]:
        """What the LSTM reads: `state.seen` is what was known before this point, `seen` what is now."""
        d = x.shape[0]
        moved = x - state.seen.best_x
        each = jnp.stack([2 * x - 1, 2 * seen.best_x - 1, 2 * moved, jnp.arcsinh(100 * moved) / 5])
        first = jnp.isinf(state.seen.best)
        gain = jnp.where(ok & ~first, seen.normalise(value) - seen.normalise(state.seen.best), 0.0)
        step = state.step.astype(x.dtype)
        every = jnp.stack(
            [
                jnp.where(ok, seen.normalise(value), CLIP) / 2, gain / 2, jnp.arcsinh(100 * gain) / 5,
                jnp.where(jnp.isinf(seen.best), 0.0, seen.normalise(seen.best)) / 2,
                jnp.log1p(seen.since) / 3, jnp.log1p(step) / 3, jnp.minimum(step / state.horizon, 1.5),
                jnp.log(state.horizon) / 3 - 1, jnp.log(jnp.asarray(d, x.dtype)), 1.0 - ok.astype(x.dtype), arrived,
            ]
        )  # fmt: skip
        if shared:
            return jnp.concatenate([each, jnp.broadcast_to(every[:, None], (every.shape[0], d))])
        padded = jnp.pad(jnp.concatenate([each, jnp.ones((1, d), x.dtype)]), ((0, 0), (0, largest - d)))
        return jnp.concatenate([padded.reshape(-1), every])[:, None]

    def network(features: Float[Array, "features n"], hidden: Hidden) -> Hidden:
        new, x = [], features
        for layer, pair in enumerate(hidden):
            if shared and config.pooled:
                mean = dense(f"pool_{layer}", jnp.mean(pair[0], 1, keepdims=True), config.pooled)
                x = jnp.concatenate([x, jnp.broadcast_to(mean, (config.pooled, x.shape[1]))])
            x, pair = cell(x, pair, f"lstm_{layer}")
            new.append(pair)
        return tuple(new)

    def output(hidden: Hidden, d: int) -> Float[Array, "6 d"]:
        h = hidden[-1][0]
        if shared:
            return dense("output", h, 6, zero=True)
        return dense("output", h, 6 * largest, zero=True)[:, 0].reshape(6, largest)[:, :d]

    def whole(features, hidden):
        hidden = network(features, hidden)
        return hidden, output(hidden, 1)

    both = hk.without_apply_rng(hk.transform(whole))
    network_ = hk.without_apply_rng(hk.transform(network))
    output_ = hk.without_apply_rng(hk.transform(output))

    def zeros(d: int) -> Hidden:
        start = jnp.zeros((config.hidden, d if shared else 1))
        return tuple((start, start) for _ in range(config.layers))

    def fresh(d: int, start: X = None) -> State:
        zero, nothing = jnp.zeros(()), jnp.zeros(d)
        seen = Seen(zero, zero, zero, jnp.full((), jnp.inf, zero.dtype), nothing, zero)
        count = jnp.zeros((), jnp.int32)
        memory = Memory.empty(config.max_trials, d) if config.candidates else None
        return State(zeros(d), memory, seen, nothing, count, count, jnp.ones(()), start)

    def init(key) -> Theta:
        state = fresh(1)
        return both.init(key, inputs(state, state.seen, jnp.zeros(1), 0.0, jnp.array(True), jnp.zeros(())), zeros(1))

    def bind(theta: Theta) -> Optimizer:
        def begin(key, problem):
            need_bounds(config.kind, problem)
            flat, _ = ravel_pytree(problem.start)
            if flat.size > largest:
                raise UserError(
                    f"this {config.kind} optimizer takes up to {largest} dimensions (max_dimension), and the space has"
                    f" {flat.size}"
                )
            start = jax.tree.map(lambda a: jnp.asarray(a, jnp.result_type(a)), problem.start)
            state, shift = fresh(flat.size, start), jax.random.uniform(key, flat.shape)
            return state._replace(
                shift=shift, seen=state.seen._replace(best_x=shift), horizon=jnp.asarray(problem.horizon, jnp.float32)
            )

        def ask(key, state):
            d, m = state.shift.shape[0], max(config.candidates, 1)
            mix, radius, direction, spread, pace, doubt = output_.apply(theta, state.hidden, d)[:, None]
            best = state.seen.best_x[None]
            far = jax.vmap(lambda number: quasi_random(state.shift, number))(state.asked * m + jnp.arange(m))
            step = 0.5 * jnp.exp(jnp.clip(radius - 1.5, -9, 1)) * jnp.tanh(direction)
            sizes = jnp.geomspace(1 / 16, 4.0, local)[:, None] if local else jnp.ones((1, 1))
            noise = jnp.exp(jnp.clip(spread - 3, -12, 0)) * sizes * jax.random.normal(key, (max(local, 1), d))
            x = best + jax.nn.sigmoid(mix) * (far[: max(local, 1)] - best) + step + noise
            if state.memory is None:
                x = into_box(x[0])
            else:
                downhill = jax.lax.stop_gradient(state.memory.descent(state.seen.best_x))
                paces = jnp.exp(jnp.clip(pace, -9, 3)) * jnp.geomspace(0.05, 1.0, line)[:, None]
                x = into_box(jnp.concatenate([x, best + paces * downhill[None], far[local + line :]]))
                doubt = 1.5 * jnp.exp(jnp.clip(jnp.mean(doubt), -3, 3))
                gains = state.memory.log_improvement(*jax.lax.stop_gradient((x, doubt)))
                x = x[jnp.argmax(jax.lax.stop_gradient(gains))]
            if config.parallel:
                waiting = inputs(state, state.seen, x, 0.0, jnp.array(False), jnp.zeros(()))
                state = state._replace(hidden=network_.apply(theta, waiting, state.hidden))
            state = state._replace(asked=state.asked + 1)
            return jax.tree.map(lambda a: a[None], ravel_pytree(state.start)[1](x)), state

        def tell(key, state, x, evaluation):
            flat, _ = ravel_pytree(jax.tree.map(lambda a: a[0], x))
            value = evaluation.value[0]
            ok = jnp.isfinite(value)
            value = jnp.where(ok, value, 0.0)
            seen = state.seen.add(flat, value, ok)
            features = inputs(state, seen, flat, value, ok, jnp.ones(()))
            memory = state.memory
            if memory is not None:
                known = memory.used > 0  # a failure counts as the worst value seen, if there is one
                rows = jnp.arange(memory.y.shape[0]) < memory.used
                worst = jnp.where(known, jnp.max(jnp.where(rows, memory.y, -jnp.inf)) + memory.offset, 0.0)
                point = jax.lax.stop_gradient((flat, jnp.where(ok, value, worst)))
                memory = jax.lax.stop_gradient(memory.observe(key, *point, ok | known))
            hidden = network_.apply(theta, features, state.hidden)
            return state._replace(hidden=hidden, memory=memory, seen=seen, step=state.step + 1)

        return in_unit_cube(Optimizer(begin, ask, tell))

    return LearnedOptimizer(init, bind)
