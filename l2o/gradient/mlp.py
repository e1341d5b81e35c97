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

from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from pydantic import Field

from l2o.core import LearnedOptimizer, OptimizerConfig, Theta
from l2o.gradient.coordinates import has_coordinates, is_complex, nothing, real, restored
from l2o.layers import dense
from l2o.lift.optax import gradient_based
from l2o.newton_schulz import TINY, orthogonalised
from l2o.registry import register
from l2o.tensors import over, two_axes

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
    """20 bytes for a parameter, and 4 for each row and column of a matrix. Each tree mirrors the parameters.

    Complex leaves have an axis of two in front of their shape. Integers have a zero in all trees.

    Attributes:
      m: momenta at three decays, leaves [3, *shape].
      v: second moments at two decays, leaves [2, *shape].
      rows: means of squared gradients over the last axis of a matrix, [*shape[:-1]]; of other leaves a zero, [].
      columns: over its other axes, [shape[-1]]; of other leaves a zero, [].
      scale: root mean square of each leaf at the start, a scalar for each.
      losses: moving averages of the loss at three decays, [3].
      first: the first loss.
      age: updates made.
    """

    m: Any
    v: Any
    rows: Any
    columns: Any
    scale: Any
    losses: Float[Array, "3"]
    first: Float[Array, ""]
    age: Int[Array, ""]


class Stack(NamedTuple):
    """k tensors of one shape: gradients, parameters, and what the state has of them.

    The axis over the tensors comes before their shape: `g` is [k, *shape], `m` is [3, k, *shape] and `scale` is [k].
    """

    g: Any
    x: Any
    m: Any
    v: Any
    rows: Any
    columns: Any
    scale: Any


FRONT = Stack(0, 0, 1, 1, 0, 0, 0)  # where the axis over the tensors is


def is_matrix(leaf: Any) -> bool:
    """Whether a leaf is real and, with the last of two axes or more as the output, no side of it is of length 1."""
    return jnp.ndim(leaf) > 1 and not is_complex(leaf) and min(two_axes(leaf)) > 1


def mlp(config: MLPConfig) -> LearnedOptimizer:
    """Build the rule. Works on any pytree; tensors of more than two axes count as matrices with the last as output.

    Tensors of one shape are computed as one stack. Parameters may be sharded, and the state is sharded as they are.
    """

    def steering(features: Float[Array, "f k"]) -> Float[Array, "o k"]:
        """Correction of the log step, gates, context."""
        x = jnp.tanh(dense("tensor_0", features, config.tensor_hidden))
        return dense("tensor_1", x, 1 + DIRECTIONS + config.context, zero=True)

    def extra(inputs: Float[Array, "f k *shape"]) -> Float[Array, "k *shape"]:
        x = jax.nn.relu(dense("coordinate_0", inputs, config.hidden))
        x = jax.nn.relu(dense("coordinate_1", x, config.hidden))
        direction, size = dense("coordinate_2", x, 2, zero=True)
        return direction * jnp.exp(jnp.clip(size, -3, 3))

    def step(
        directions: Float[Array, "d k *shape"], features: Float[Array, "f k"]
    ) -> tuple[Float[Array, "k *shape"], Float[Array, "k"]]:
        log_rate = hk.get_parameter("log_rate", [], init=hk.initializers.Constant(np.log(config.learning_rate)))
        out = steering(features)
        prior = np.zeros((DIRECTIONS, 1), np.float32)
        prior[-1] = 1
        gates, context = (over(x, directions) for x in (out[1 : 1 + DIRECTIONS] + prior, out[1 + DIRECTIONS :]))
        context = context + jnp.zeros_like(directions[:1])  # which lies on devices as the directions do
        u = jnp.sum(gates * directions, axis=0)
        u = u + extra(jnp.concatenate([jnp.clip(directions, -5, 5), context]))
        return _normalised(u[None])[0], jnp.exp(log_rate + jnp.clip(out[0], -6, 3))

    transformed = hk.without_apply_rng(hk.transform(step))

    def init(key) -> Theta:
        x = jnp.zeros(1)
        state, directions = start(x), jnp.zeros((DIRECTIONS, 1, 1))
        features = _features(_stacked([Stack(x, x, *state[:5])]), state, directions, jnp.ones(()), None)
        return transformed.init(key, directions, features)

    def start(params: Any) -> MLPState:
        leaves = [real(leaf) for leaf in jax.tree.leaves(params) if has_coordinates(leaf)]
        square = sum(jnp.sum(x**2) for x in leaves) / max(sum(x.size for x in leaves), 1)
        whole = jnp.where(square > 0, jnp.sqrt(square), 1.0)

        def scale(leaf: Any) -> Array:
            x = real(leaf)
            rms = jnp.sqrt(jnp.mean(x**2)) if x.size else jnp.zeros((), x.dtype)
            # a bias starts at zero: it is measured by the rest of the model
            return jnp.where(rms > 0, rms, whole).astype(x.dtype)

        def mean(leaf: Any, axes: Any) -> Array:
            return jnp.sum(nothing(leaf), axes) if is_matrix(leaf) else jnp.zeros((), real(leaf).dtype)

        return MLPState(
            jax.tree.map(lambda leaf: nothing(leaf, len(MOMENTA)), params),
            jax.tree.map(lambda leaf: nothing(leaf, len(SQUARES)), params),
            jax.tree.map(lambda leaf: mean(leaf, -1), params),
            jax.tree.map(lambda leaf: mean(leaf, tuple(range(jnp.ndim(leaf) - 1))), params),
            jax.tree.map(scale, params), jnp.zeros(len(LOSSES)), jnp.zeros(()), jnp.zeros((), jnp.int32),
        )  # fmt: skip

    def native(theta: Theta, horizon: Any = None) -> optax.GradientTransformationExtraArgs:
        def update(updates, state, params=None, *, value=None, **rest):
            del rest
            if params is None:
                raise ValueError("mlp needs the parameters: tx.update(updates, state, params)")
            leaves, tree = jax.tree.flatten(updates)
            parts = [map(real, leaves), map(real, tree.flatten_up_to(params)), *map(tree.flatten_up_to, state[:5])]
            found = [Stack._make(tensor) for tensor in zip(*parts, strict=True)]
            groups = _groups(leaves, found)
            state = _told(state, value) if groups else state._replace(age=state.age + 1)
            scales = [found[i].scale for group in groups for i in group]
            typical = jnp.sqrt(sum(scale**2 for scale in scales) / max(len(scales), 1))
            _, progress = _clock(state, horizon)
            factor = 0.5 + 0.5 * jnp.cos(jnp.pi * progress) if horizon is not None else 1.0
            for group in groups:
                stack = _observed(_stacked([found[i] for i in group]))
                directions = _directions(stack, state.age)
                features = _features(stack, state, directions, typical, horizon)
                u, rate = transformed.apply(theta, directions, features)
                stack = stack._replace(g=-over(factor * rate * stack.scale, u) * u)
                for i, tensor in zip(group, _unstacked(stack), strict=True):
                    found[i] = tensor
            moves = [restored(tensor.g, leaf) for tensor, leaf in zip(found, leaves, strict=True)]
            m, v, rows, columns = (tree.unflatten([tensor[j] for tensor in found]) for j in range(2, 6))
            return tree.unflatten(moves), state._replace(m=m, v=v, rows=rows, columns=columns)

        return optax.GradientTransformationExtraArgs(start, update)

    return gradient_based(init, native)


def _groups(leaves: list[Any], tensors: list[Stack]) -> list[list[int]]:
    """Numbers of the tensors that have coordinates; those of one shape, dtype and sharding are one program."""
    groups: dict[Any, list[int]] = {}
    for i, (leaf, tensor) in enumerate(zip(leaves, tensors, strict=True)):
        if has_coordinates(leaf):
            groups.setdefault((is_matrix(leaf), jax.typeof(tensor.g), jax.typeof(tensor.x)), []).append(i)
    return list(groups.values())


def _stacked(tensors: list[Stack]) -> Stack:
    return Stack(*(jnp.stack(parts, axis) for axis, *parts in zip(FRONT, *tensors, strict=True)))


def _unstacked(stack: Stack) -> list[Stack]:
    parts = zip(FRONT, stack, strict=True)
    return [Stack._make(tensor) for tensor in zip(*(jnp.unstack(part, axis=axis) for axis, part in parts), strict=True)]


def _mean(x: Float[Array, "d k *shape"]) -> Float[Array, "d k"]:
    """The mean over each tensor."""
    return jnp.mean(x, tuple(range(2, x.ndim)))


def _rms(x: Float[Array, "d k *shape"]) -> Float[Array, "d k"]:
    """The root mean square of each tensor."""
    square = _mean(x**2)
    # the derivative of a root at zero is infinite, and a tensor without any gradient is common
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _normalised(x: Float[Array, "d k *shape"]) -> Float[Array, "d k *shape"]:
    """The tensors with root mean square 1, zero where they are."""
    return x / over(_rms(x) + TINY, x)


def _corrected(average: Float[Array, "k *n"], decay: np.ndarray, count: Int[Array, ""]) -> Float[Array, "k *n"]:
    """A moving average that began at zero, without the bias of that."""
    weight = 1 - decay ** count.astype(average.dtype)
    return average / weight.reshape(-1, *[1] * (average.ndim - 1))


def _told(state: MLPState, value: Any) -> MLPState:
    """The state an update later and, where it is known, after a loss."""
    loss = (
        jnp.zeros(()) if value is None else jnp.nan_to_num(jnp.asarray(value, jnp.float32), posinf=1e30, neginf=-1e30)
    )
    losses = LOSSES * state.losses + (1 - LOSSES) * loss
    first = jnp.where(state.age == 0, loss, state.first)
    return state._replace(losses=losses, first=first, age=state.age + 1)


def _observed(stack: Stack) -> Stack:
    """The stack after its gradients."""

    def after(average: Array, decay: Any, seen: Array) -> Array:
        return decay * average + (1 - decay) * seen

    square, slow = stack.g**2, float(SQUARES[-1])
    m, v = after(stack.m, over(MOMENTA, stack.m), stack.g[None]), after(stack.v, over(SQUARES, stack.v), square[None])
    rows, columns = stack.rows, stack.columns
    if rows.ndim > 1:
        rows, columns = (
            after(rows, slow, square.mean(-1)),
            after(columns, slow, square.mean(tuple(range(1, square.ndim - 1)))),
        )
    return stack._replace(m=m, v=v, rows=rows, columns=columns)


def _directions(stack: Stack, age: Int[Array, ""]) -> Float[Array, "directions k *shape"]:
    """The classical directions, each of root mean square 1 in each tensor; the last is the prior."""
    m, v = _corrected(stack.m, MOMENTA, age), _corrected(stack.v, SQUARES, age)
    adam = m / (jnp.sqrt(v[1:]) + TINY)
    factored = prior = adam[1]
    if stack.rows.ndim > 1:
        rows, columns = stack.rows[..., None], stack.columns
        share = jnp.sqrt(rows / (rows.mean(tuple(range(1, rows.ndim)), keepdims=True) + TINY**2))
        factored = m[1] / (share * jnp.sqrt(columns.reshape(len(columns), *[1] * (rows.ndim - 2), -1)) + TINY)
        prior = jax.vmap(orthogonalised)(MOMENTA[1] * m[1] + (1 - MOMENTA[1]) * stack.g)
    several = [*adam, m[1] / (jnp.sqrt(v[0]) + TINY), factored, m[1], stack.g, stack.x, prior]
    return _normalised(jnp.stack(several))


def _clock(state: MLPState, horizon: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The horizon and the part of it that is over before this update, in [0, 1]."""
    if horizon is None:
        return jnp.asarray(BLIND_HORIZON), jnp.asarray(BLIND_PROGRESS)
    horizon = jnp.maximum(jnp.asarray(horizon, jnp.float32), 1.0)
    return horizon, jnp.minimum((state.age - 1).astype(jnp.float32) / horizon, 1.0)


def _features(
    stack: Stack, state: MLPState, directions: Float[Array, "d k *shape"], typical: Any, horizon: Any
) -> Float[Array, "f k"]:
    """What the network per tensor reads, numbers within about [-3, 3]. The typical scale is of all tensors."""
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
    k = len(stack.scale)
    shared = jnp.broadcast_to(jnp.append(trend, time)[:, None], (len(trend) + len(time), k))

    def log(ratio):
        return jnp.clip(jnp.log(ratio + TINY), -6, 6) / 2

    usual = _rms(_corrected(stack.v[1:], SQUARES[1:], count) ** 0.5)[0]
    x, g, m = (_rms(part[None])[0] for part in (stack.x, stack.g, stack.m[1]))
    gradient = directions[-3]
    agreement = jnp.concatenate([_mean((gradient * directions[i])[None]) for i in (0, 2, 5, 8)])
    own = jnp.stack(
        [
            log(x / stack.scale),
            log((g + TINY) / (usual + TINY)),
            log((m + TINY) / (usual + TINY)),
            log(stack.scale / typical),
        ]
    )
    matrix = stack.rows.ndim > 1
    rows, columns = two_axes(stack.g[0]) if matrix else (1, stack.g[0].size)
    shape = np.array([np.log(rows) / 5, np.log(columns) / 5, float(matrix)], np.float32)
    return jnp.concatenate([shared, agreement, own, jnp.broadcast_to(shape[:, None], (len(shape), k))])
