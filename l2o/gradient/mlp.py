"""A small MLP update rule on scale-free features: a strong classical rule, and learned changes to it.

For each tensor nine classical directions are brought to root mean square 1. A network per tensor reads how the run is
going (time and horizon, trend of the loss, scales, agreement of gradient and momenta, shape of the tensor) and writes a
gate for each direction, a correction of the log step size and a small context. A network per coordinate reads the
directions and the context, and adds a direction of its own:

    x_{t+1} = x_t - scale exp(log_rate + correction) cosine(t / T) u / rms(u),    scale = rms of the tensor at the start

Both networks answer zero before meta-training. The rule is then the orthogonalised momentum of Muon for matrices
(Jordan et al. 2024) and the direction of Adam for everything else, on a cosine schedule. Features as in Metz et al.
(2020), normalised step as in Moudgil et al. (2025). Multiplying the loss by a constant changes nothing; neither does
measuring all parameters in another unit.
"""

import itertools
from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from pydantic import Field

from l2o.core import LearnedOptimizer, OptimizerConfig, Theta
from l2o.gradient.coordinates import coordinates, merge, split
from l2o.layers import dense
from l2o.lift.optax import gradient_based
from l2o.newton_schulz import TINY, orthogonalised
from l2o.registry import register

MOMENTA: Any = np.array([0.8, 0.95, 0.99], np.float32)
SQUARES: Any = np.array([0.95, 0.999], np.float32)
LOSSES: Any = np.array([0.8, 0.95, 0.99], np.float32)
DIRECTIONS = 9
BLIND_HORIZON, BLIND_PROGRESS = 1000.0, 1 / 3  # what a run without a known horizon looks like to the networks


@register
class MLPConfig(OptimizerConfig):
    """An MLP per coordinate, steered by one per tensor, on top of Muon and Adam; reads the horizon and the loss.

    Attributes:
      hidden: units in each of the two layers of the network per coordinate.
      context: numbers that the network per tensor hands to it.
      tensor_hidden: units of the network per tensor.
      learning_rate: of the untrained rule, relative to the root mean square of a tensor's starting values; positive.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: int = Field(default=8, ge=1, le=1024)
    context: int = Field(default=4, ge=1, le=64)
    tensor_hidden: int = Field(default=16, ge=1, le=1024)
    learning_rate: float = Field(default=0.1, gt=0)

    def build(self) -> LearnedOptimizer:
        return mlp(self)


class MLPState(NamedTuple):
    """n counts the coordinates of all tensors together, L the tensors, r and c the rows and columns of all matrices.

    The structure is the same for any parameters, and no leaf mirrors them.

    Attributes:
      m: momenta at three decays, [3, n].
      v: second moments at two decays, [2, n].
      rows: means of squared gradients over the rows of the matrices, [r].
      columns: over their columns, [c].
      scale: root mean square of each tensor at the start, [L].
      losses: moving averages of the loss at three decays, [3].
      first: the first loss.
      age: updates made.
    """

    m: Float[Array, "3 n"]
    v: Float[Array, "2 n"]
    rows: Float[Array, "r"]
    columns: Float[Array, "c"]
    scale: Float[Array, "L"]
    losses: Float[Array, "3"]
    first: Float[Array, ""]
    age: Int[Array, ""]


class Layout:
    """Where the tensors of a pytree lie in the merged vector, and their shapes as matrices."""

    def __init__(self, tree: Any) -> None:
        leaves = [leaf for leaf in jax.tree.leaves(tree) if coordinates(leaf)]
        self.sizes = [coordinates(leaf) for leaf in leaves]
        self.bounds = list(itertools.pairwise(np.cumsum([0, *self.sizes]).tolist()))
        self.shapes = [_matrix(leaf) for leaf in leaves]

    def pieces(self, x: Float[Array, "*k n"]) -> list[Float[Array, "*k size"]]:
        """The part of each tensor."""
        return [x[..., start:stop] for start, stop in self.bounds]

    def factors(
        self, rows: Float[Array, "r"], columns: Float[Array, "c"]
    ) -> list[tuple[Float[Array, "a"], Float[Array, "b"]]]:
        """The rows and the columns of each tensor, none where it is not a matrix."""
        ends = np.cumsum([(0, 0), *((s or (0, 0)) for s in self.shapes)], axis=0).tolist()
        return [(rows[a:c], columns[b:d]) for (a, b), (c, d) in itertools.pairwise(ends)]

    def spread(self, x: Float[Array, "*k L"]) -> Float[Array, "*k n"]:
        """A number per tensor, repeated for each of its coordinates."""
        parts = [jnp.broadcast_to(x[..., i : i + 1], (*x.shape[:-1], size)) for i, size in enumerate(self.sizes)]
        return jnp.concatenate(parts, axis=-1)

    def mean(self, x: Float[Array, "*k n"]) -> Float[Array, "*k L"]:
        """The mean over each tensor."""
        return jnp.stack([part.mean(-1) for part in self.pieces(x)], axis=-1)

    def rms(self, x: Float[Array, "*k n"]) -> Float[Array, "*k L"]:
        """The root mean square of each tensor."""
        square = self.mean(x**2)
        # the derivative of a root at zero is infinite, and a tensor without any gradient is common
        return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)

    def normalised(self, x: Float[Array, "*k n"]) -> Float[Array, "*k n"]:
        """The vector with root mean square 1 in each tensor, zero where the tensor is."""
        return x / (self.spread(self.rms(x)) + TINY)


def _matrix(leaf: Any) -> tuple[int, int] | None:
    """Fan-in and fan-out of a tensor with more than one axis: the last axis is the output."""
    shape = jnp.shape(leaf)
    if len(shape) < 2 or jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
        return None
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    return (rows, columns) if min(rows, columns) > 1 else None


def mlp(config: MLPConfig) -> LearnedOptimizer:
    """Build the rule. Works on any pytree; tensors of more than two axes count as matrices with the last as output."""

    def steering(features: Float[Array, "f L"]) -> Float[Array, "o L"]:
        """Correction of the log step, gates, context."""
        x = jnp.tanh(dense("tensor_0", features, config.tensor_hidden))
        return dense("tensor_1", x, 1 + DIRECTIONS + config.context, zero=True)

    def extra(inputs: Float[Array, "f n"]) -> Float[Array, "n"]:
        x = jax.nn.relu(dense("coordinate_0", inputs, config.hidden))
        x = jax.nn.relu(dense("coordinate_1", x, config.hidden))
        direction, size = dense("coordinate_2", x, 2, zero=True)
        return direction * jnp.exp(jnp.clip(size, -3, 3))

    def step(
        layout: Layout, directions: Float[Array, "d n"], features: Float[Array, "f L"]
    ) -> tuple[Float[Array, "n"], Float[Array, "L"]]:
        log_rate = hk.get_parameter("log_rate", [], init=hk.initializers.Constant(np.log(config.learning_rate)))
        out = steering(features)
        prior = np.zeros((DIRECTIONS, 1), np.float32)
        prior[-1] = 1
        context = layout.spread(out[1 + DIRECTIONS :])
        u = jnp.sum(layout.spread(out[1 : 1 + DIRECTIONS] + prior) * directions, axis=0)
        u = u + extra(jnp.concatenate([jnp.clip(directions, -5, 5), context]))
        return layout.normalised(u), jnp.exp(log_rate + jnp.clip(out[0], -6, 3))

    transformed = hk.without_apply_rng(hk.transform(step))

    def init(key) -> Theta:
        layout = Layout(jnp.zeros(1))
        state = start(jnp.zeros(1))
        features = _features(layout, state, jnp.zeros(1), jnp.zeros(1), jnp.zeros((DIRECTIONS, 1)), None)
        return transformed.init(key, layout, jnp.zeros((DIRECTIONS, 1)), features)

    def start(params: Any) -> MLPState:
        layout, x = Layout(params), merge(params)
        rms = layout.rms(x) if layout.sizes else jnp.zeros(0, x.dtype)
        whole = jnp.sqrt(jnp.mean(x**2)) if x.size else jnp.zeros((), x.dtype)
        # a bias starts at zero: it is measured by the rest of the model
        scale = jnp.where(rms > 0, rms, jnp.where(whole > 0, whole, 1.0))
        rows, columns = (jnp.zeros(sum(s[axis] for s in layout.shapes if s), x.dtype) for axis in (0, 1))
        return MLPState(
            jnp.zeros((len(MOMENTA), x.size), x.dtype), jnp.zeros((len(SQUARES), x.size), x.dtype), rows, columns,
            scale, jnp.zeros(len(LOSSES)), jnp.zeros(()), jnp.zeros((), jnp.int32),
        )  # fmt: skip

    def native(theta: Theta, horizon: Any = None) -> optax.GradientTransformationExtraArgs:
        def update(updates, state, params=None, *, value=None, **rest):
            del rest
            if params is None:
                raise ValueError("mlp needs the parameters: tx.update(updates, state, params)")
            layout, g, x = Layout(params), merge(updates), merge(params)
            if not layout.sizes:
                return split(g, updates), state._replace(age=state.age + 1)
            state = _observe(layout, state, g, value)
            directions = _directions(layout, state, g, x)
            features = _features(layout, state, g, x, directions, horizon)
            u, rate = transformed.apply(theta, layout, directions, features)
            _, progress = _clock(state, horizon)
            rate = rate * (0.5 + 0.5 * jnp.cos(jnp.pi * progress) if horizon is not None else 1.0)
            return split(-layout.spread(rate * state.scale) * u, updates), state

        return optax.GradientTransformationExtraArgs(start, update)

    return gradient_based(init, native)


def _corrected(average: Float[Array, "k *n"], decay: np.ndarray, count: Int[Array, ""]) -> Float[Array, "k *n"]:
    """A moving average that began at zero, without the bias of that."""
    weight = 1 - decay ** count.astype(average.dtype)
    return average / weight.reshape(-1, *[1] * (average.ndim - 1))


def _observe(layout: Layout, state: MLPState, g: Float[Array, "n"], value: Any) -> MLPState:
    """The state after a gradient and, where it is known, a loss."""
    m = MOMENTA[:, None] * state.m + (1 - MOMENTA[:, None]) * g[None]
    v = SQUARES[:, None] * state.v + (1 - SQUARES[:, None]) * g[None] ** 2
    decay, rows, columns = float(SQUARES[-1]), [state.rows[:0]], [state.columns[:0]]
    parts = zip(layout.pieces(g), layout.shapes, layout.factors(state.rows, state.columns), strict=True)
    for piece, shape, (row, column) in parts:
        if shape:
            square = piece.reshape(shape) ** 2
            rows.append(decay * row + (1 - decay) * square.mean(1))
            columns.append(decay * column + (1 - decay) * square.mean(0))
    loss = (
        jnp.zeros(()) if value is None else jnp.nan_to_num(jnp.asarray(value, jnp.float32), posinf=1e30, neginf=-1e30)
    )
    losses = LOSSES * state.losses + (1 - LOSSES) * loss
    first = jnp.where(state.age == 0, loss, state.first)
    return MLPState(m, v, jnp.concatenate(rows), jnp.concatenate(columns), state.scale, losses, first, state.age + 1)


def _directions(
    layout: Layout, state: MLPState, g: Float[Array, "n"], x: Float[Array, "n"]
) -> Float[Array, "directions n"]:
    """The classical directions, each of root mean square 1 in each tensor; the last is the prior."""
    m, v = _corrected(state.m, MOMENTA, state.age), _corrected(state.v, SQUARES, state.age)
    slow = jnp.sqrt(v[1]) + TINY
    adam = m / slow[None]
    nesterov = MOMENTA[1] * m[1] + (1 - MOMENTA[1]) * g
    factored, prior = [], []
    moments = layout.factors(state.rows, state.columns)
    parts = zip(layout.shapes, moments, *map(layout.pieces, (m[1], nesterov, adam[1])), strict=True)
    for shape, (rows, columns), momentum, ahead, direction in parts:
        if shape:
            root = jnp.sqrt(rows / (rows.mean() + TINY**2))[:, None] * jnp.sqrt(columns)[None] + TINY
            factored.append((momentum.reshape(shape) / root).ravel())
            prior.append(orthogonalised(ahead.reshape(shape)).ravel())
        else:
            factored.append(direction)
            prior.append(direction)
    several = [*adam, m[1] / (jnp.sqrt(v[0]) + TINY), jnp.concatenate(factored), m[1], g, x, jnp.concatenate(prior)]
    return layout.normalised(jnp.stack(several))


def _clock(state: MLPState, horizon: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The horizon and the part of it that is over before this update, in [0, 1]."""
    if horizon is None:
        return jnp.asarray(BLIND_HORIZON), jnp.asarray(BLIND_PROGRESS)
    horizon = jnp.maximum(jnp.asarray(horizon, jnp.float32), 1.0)
    return horizon, jnp.minimum((state.age - 1).astype(jnp.float32) / horizon, 1.0)


def _features(
    layout: Layout, state: MLPState, g: Float[Array, "n"], x: Float[Array, "n"], directions: Any, horizon: Any
) -> Float[Array, "f L"]:
    """What the network per tensor reads; every number lies within about [-3, 3]."""
    count = jnp.maximum(state.age, 1)
    losses = _corrected(state.losses, LOSSES, count)
    fast, slow = jnp.append(losses[:2], losses[0]), jnp.append(losses[1:], state.first)
    trend = (fast - slow) / (jnp.abs(fast) + jnp.abs(slow) + TINY)
    total, progress = _clock(state, horizon)
    t = count.astype(jnp.float32)
    time = jnp.stack(
        [
            jnp.log(t) / 5 - 1, jnp.log(total) / 2.5 - 2, progress, jnp.cos(jnp.pi * progress),
            jnp.tanh(10 * progress), jnp.tanh(10 * (1 - progress)), jnp.tanh(t / 10), jnp.tanh(t / 100),
        ]
    )  # fmt: skip
    shared = jnp.broadcast_to(jnp.append(trend, time)[:, None], (len(trend) + len(time), len(layout.sizes)))

    def log(ratio):
        return jnp.clip(jnp.log(ratio + TINY), -6, 6) / 2

    usual = layout.rms(_corrected(state.v[1:], SQUARES[1:], count) ** 0.5)[0]
    agreement = layout.mean(directions[-3:-2] * directions[jnp.array([0, 2, 5, 8])])
    own = jnp.stack(
        [
            log(layout.rms(x) / state.scale),
            log((layout.rms(g) + TINY) / (usual + TINY)),
            log((layout.rms(state.m[1]) + TINY) / (usual + TINY)),
            log(state.scale / jnp.sqrt(jnp.mean(state.scale**2))),
        ]
    )
    shape = [
        (np.log(s[0]) / 5, np.log(s[1]) / 5, 1.0) if s else (0.0, np.log(n) / 5, 0.0)
        for s, n in zip(layout.shapes, layout.sizes, strict=True)
    ]
    return jnp.concatenate([shared, agreement, own, jnp.asarray(np.array(shape, np.float32).T)])
