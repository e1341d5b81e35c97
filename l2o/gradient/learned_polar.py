"""Polar, steered: matrices that turn and norms that move, with what a small network says for each tensor.

The rule is `l2o.polar`, which needs no learning rate. For each tensor a network reads how the run is going: agreement
of the gradients with each other over short and long times, trend of the loss, time and horizon, role and shape. All it
reads is free of scale, and it sees no coordinate. It writes a correction of the log step, one of the log step of the
norm, a drift of the norm, and how much of a slower momentum and of the gradient itself goes into the direction:

    d = n(nesterov) + a n(slow) + b n(g)
    W <- |W| exp(-rho e^r nu + rho s) n(n(W) - eta gamma e^l n(orthogonalised(d)))

with (l, r, s, a, b) written by the network, each within bounds, so that no step is more than 4.5 times, and none less
than 0.22 of, what polar's would be. It answers zero before meta-training, and the rule is polar then.
Multiplying the loss by a constant changes nothing; neither does measuring all parameters in another unit.
"""

from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from pydantic import Field

from l2o.core import LearnedOptimizer, OptimizerConfig, Theta
from l2o.layers import dense
from l2o.lift.optax import gradient_based
from l2o.newton_schulz import TINY, orthogonalised
from l2o.registry import register
from l2o.schedules import planned, weight_of
from l2o.tensors import (
    MATRICES,
    ROLES,
    alike,
    like,
    over,
    roles_of,
    scale_of,
    squared,
    turned,
    two_axes,
    unit_of,
    wide,
    zeros,
)

FAST, SLOW, SECOND = 0.95, 0.99, 0.95  # decays of both momenta and of second moments
NORM_DECAYS = (0.9, 0.95)  # of Adam on the logarithm of a norm
LOSSES: Any = np.array([0.8, 0.95, 0.99], np.float32)
OWN, SHARED, OUTPUTS = 11, 12, 5  # numbers that the network reads of a tensor and of the run, and those it writes
TRACE = 4  # averages of a tensor, see `LearnedPolarState`
LOUDNESS = 2.0  # of what the network says; a small change of theta is then one of a step that the loss tells from noise
FARTHEST: Any = np.array([1.5, 1.5, 1.0, 2.0, 2.0], np.float32)  # it may go from the prior, output by output
BLIND_HORIZON, BLIND_PROGRESS = 1000.0, 1 / 3  # what a run without a known horizon looks like to the network


@register
class LearnedPolarConfig(OptimizerConfig):
    """Polar, steered by a network per tensor; reads the horizon and the loss.

    Attributes:
      hidden: units of the network; with 0 it is a constant for each role.
      step: angle of a matrix's step before meta-training, in radians.
      norm_step: relative change of a matrix's norm in a step.
      embedding_step: relative step of embeddings as a multiple of `step`.
      vector_step: relative step of vectors and scalars as a multiple of `step`.
      quiet: the ratio of momentum to gradients at which the step is whole.
      least: the least gain of a step whose gradients disagree.
      state_dtype: of both momenta; "bfloat16" halves what they take, "float32" is what parameters of it or less have.
    """

    kind: Literal["learned_polar"] = "learned_polar"
    hidden: int = Field(default=16, ge=0, le=1024)
    step: float = Field(default=0.075, gt=0)
    norm_step: float = Field(default=0.035, ge=0)
    embedding_step: float = Field(default=0.6, ge=0)
    vector_step: float = Field(default=0.11, ge=0)
    quiet: float = Field(default=0.4, gt=0)
    least: float = Field(default=0.02, gt=0, le=1)
    state_dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self) -> LearnedOptimizer:
        return learned_polar(self)


class LearnedPolarState(NamedTuple):
    """8 bytes for a parameter of a matrix, 12 for others, or 4 and 8 with momenta of bfloat16.

    A tree of leaves mirrors the parameters.

    Attributes:
      count: updates made.
      fast: momentum of each leaf at decay 0.95.
      slow: momentum at decay 0.99.
      nu: second moment of each leaf; of a matrix, the mean over its entries.
      trace: of each leaf, the moments of the derivative by its log norm, the agreement of gradient and momentum, and
        the squared cosine of gradient and parameters, [4].
      scale: the size that the steps of a leaf are measured by, a scalar for each leaf.
      losses: moving averages of the loss at three decays, [3].
      first: the first loss.
    """

    count: Any
    fast: Any
    slow: Any
    nu: Any
    trace: Any
    scale: Any
    losses: Float[Array, "3"]
    first: Float[Array, ""]


class Leaf(NamedTuple):
    """A gradient, its parameters, and what the state has of them."""

    g: Any
    w: Any
    fast: Any
    slow: Any
    nu: Any
    trace: Any
    scale: Any


def learned_polar(config: LearnedPolarConfig) -> LearnedOptimizer:
    """Build the rule. Works on any pytree; tensors of more than two axes count as matrices with the last as output."""

    def network(own: Float[Array, "own n"], shared: Float[Array, "shared"], roles: Float[Array, "4 n"]):
        constant = hk.get_parameter("roles", [OUTPUTS, len(ROLES)], init=jnp.zeros) @ roles
        if not config.hidden:
            return LOUDNESS * constant
        x = jnp.concatenate([own, jnp.broadcast_to(shared[:, None], (SHARED, own.shape[1])), roles])
        x = jnp.tanh(dense("hidden", x, config.hidden))
        return LOUDNESS * (constant + dense("output", x, OUTPUTS, zero=True))

    transformed = hk.without_apply_rng(hk.transform(network))

    def init(key) -> Theta:
        return transformed.init(key, jnp.zeros((OWN, 1)), jnp.zeros(SHARED), jnp.zeros((4, 1)))

    def start(params: Any, label: Any) -> LearnedPolarState:
        roles = roles_of(params, label)
        unit, as_tree = unit_of(params, roles), jax.tree.structure(params).unflatten(roles)
        dtype = jnp.bfloat16 if config.state_dtype == "bfloat16" else None

        def momentum(leaf):
            narrow = dtype is not None and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
            return jnp.zeros_like(leaf, dtype) if narrow else zeros(leaf)

        def second(leaf, role):
            return zeros(leaf, () if role in MATRICES else None, real=True)

        return LearnedPolarState(
            jnp.zeros((), jnp.int32), jax.tree.map(momentum, params), jax.tree.map(momentum, params),
            jax.tree.map(second, params, as_tree), jax.tree.map(lambda leaf: zeros(leaf, (TRACE,), real=True), params),
            jax.tree.map(lambda leaf, role: scale_of(leaf, role, unit), params, as_tree),
            jnp.zeros(len(LOSSES)), jnp.zeros(()),
        )  # fmt: skip

    def native(theta: Theta, horizon: Any = None, label: Any = None) -> optax.GradientTransformationExtraArgs:
        def update(updates, state, params=None, *, value=None, **rest):
            del rest
            if params is None:
                raise ValueError("learned_polar needs the parameters: tx.update(updates, state, params)")
            count = optax.safe_increment(state.count)
            losses, first = _losses(state, value)
            roles, tree = roles_of(updates, label), jax.tree.structure(updates)
            parts = (tree.flatten_up_to(part) for part in (updates, params, *state[1:6]))
            leaves = [Leaf._make(leaf) for leaf in zip(*parts, strict=True)]
            groups = alike(
                [leaf.g for leaf in leaves],
                [(role, jnp.result_type(leaf.w)) for role, leaf in zip(roles, leaves, strict=True)],
            )
            stacks = [_stack([leaves[i] for i in places]) for places in groups]
            # first what is seen of every tensor, then what the network says of it, then how it moves
            seen = [_observe(stack, count, roles[places[0]]) for stack, places in zip(stacks, groups, strict=True)]
            numbers = [_one_hot(roles[i]) for places in groups for i in places]
            said: Any = None
            if numbers:
                own = jnp.concatenate([features for _, features in seen], axis=1)
                shared = _shared(count, horizon, losses, first, own, np.stack(numbers, 1))
                said = transformed.apply(theta, own, shared, jnp.asarray(np.stack(numbers, 1)))
            factor, done = planned(state.count, horizon), 0
            found: list[Any] = [None] * len(leaves)
            for places, (stack, _) in zip(groups, seen, strict=True):
                role = roles[places[0]]
                said_here = said[:, done : done + len(places)].T
                done += len(places)
                move = _moved(config, role, stack, said_here, count, factor)
                for k, i in enumerate(places):
                    one = jax.tree.map(lambda a, k=k: a[k], (move, stack.fast, stack.slow, stack.nu, stack.trace))
                    old = leaves[i]
                    found[i] = (
                        like(one[0], old.g),
                        one[1].astype(old.fast.dtype),
                        one[2].astype(old.slow.dtype),
                        *one[3:],
                    )
            moves, fast, slow, nu, trace = (tree.unflatten([part[j] for part in found]) for j in range(5))
            return moves, LearnedPolarState(count, fast, slow, nu, trace, state.scale, losses, first)

        return optax.GradientTransformationExtraArgs(lambda params: start(params, label), update)

    return gradient_based(init, native)


def _one_hot(role: str) -> np.ndarray:
    return np.eye(len(ROLES), dtype=np.float32)[ROLES.index(role)]


def _stack(leaves: list[Leaf]) -> Leaf:
    """Leaves of one shape as one, with an axis in front."""

    def each(leaf: Leaf) -> Leaf:
        return leaf._replace(**{name: wide(getattr(leaf, name)) for name in ("g", "w", "fast", "slow")})

    return jax.tree.map(lambda *a: jnp.stack(a), *map(each, leaves))


def _mean(x: Array) -> Array:
    """Over all but the first axis; nothing has mean zero."""
    return jnp.mean(x, tuple(range(1, x.ndim))) if x.size else jnp.zeros(len(x), x.dtype)


def _size(x: Array) -> Array:
    return jnp.sqrt(_mean(squared(x)))


def _observe(leaf: Leaf, count: Any, role: str) -> tuple[Leaf, Float[Array, "own n"]]:
    """A stack after its gradients, and what the network is to know of each tensor, numbers within about [-3, 3]."""
    g, w, matrix = leaf.g, leaf.w, role in MATRICES
    size, weight = _size(g), _size(w)
    before = _size(leaf.fast)
    agreement = _mean(jnp.real(g * leaf.fast.conj())) / (size * before + TINY**2)
    fast, slow = FAST * leaf.fast + (1 - FAST) * g, SLOW * leaf.slow + (1 - SLOW) * g
    square = squared(g)
    nu = SECOND * leaf.nu + (1 - SECOND) * (_mean(square) if matrix else square)
    usual = jnp.sqrt(_mean(nu) / weight_of(SECOND, count)) + TINY
    slope = jnp.sum(jnp.real(g * w.conj()), tuple(range(1, g.ndim)))
    cosine = squared(slope / (max(g[0].size, 1) * size * weight + TINY**2))
    b1, b2 = NORM_DECAYS
    first, second, agreed, cosines = jnp.moveaxis(leaf.trace, 1, 0)
    first, second = b1 * first + (1 - b1) * slope, b2 * second + (1 - b2) * slope**2
    agreed, cosines = 0.9 * agreed + 0.1 * agreement, 0.95 * cosines + 0.05 * cosine
    trace = jnp.stack([first, second, agreed, cosines], axis=1)
    ratio, slower = (_size(x) / weight_of(d, count) / usual for x, d in ((fast, FAST), (slow, SLOW)))
    both = _mean(jnp.real(fast * slow.conj())) / (_size(fast) * _size(slow) + TINY**2)
    rows, columns = two_axes(g[0]) if matrix else (1, 1)
    features = jnp.stack(
        [
            _log(ratio) + 1.5, _log(slower) + 2, 2 * agreed, 2 * both, _growth(trace, count),
            _log(size / usual), _log(weight / leaf.scale),
            jnp.maximum(_log(cosines / weight_of(SECOND, count)) / 2, -4) + 2,
            jnp.full(len(g), np.log(rows / columns) / 3),
            agreement * 2, jnp.tanh(5 * leaf.trace[:, 2]),
        ]
    )  # fmt: skip
    return leaf._replace(fast=fast, slow=slow, nu=nu, trace=trace), features


def _log(x: Array) -> Array:
    return jnp.clip(jnp.log(x + TINY), -5, 5)


def _growth(trace: Array, count: Any) -> Array:
    """Adam's direction for the logarithm of the norm."""
    b1, b2 = NORM_DECAYS
    return trace[:, 0] / weight_of(b1, count) / (jnp.sqrt(trace[:, 1] / weight_of(b2, count)) + TINY)


def _losses(state: LearnedPolarState, value: Any) -> tuple[Array, Array]:
    """The moving averages and the first loss, after a loss, where it is known."""
    loss = jnp.zeros(()) if value is None else jnp.asarray(value, jnp.float32)
    loss = jnp.nan_to_num(loss, posinf=1e30, neginf=-1e30)
    return LOSSES * state.losses + (1 - LOSSES) * loss, jnp.where(state.count == 0, loss, state.first)


def _shared(count: Any, horizon: Any, losses: Array, first: Array, own: Array, roles: np.ndarray) -> Array:
    """What the network is to know of the whole run."""
    t = count.astype(jnp.float32)
    means = losses / weight_of(LOSSES, count)
    fast, slow = jnp.append(means[:2], means[0]), jnp.append(means[1:], first)
    trend = (fast - slow) / (jnp.abs(fast) + jnp.abs(slow) + TINY)
    trend = trend * jnp.array([10.0, 5.0, 1.0])
    if horizon is None:
        total, progress = jnp.asarray(BLIND_HORIZON), jnp.asarray(BLIND_PROGRESS)
    else:
        total = jnp.maximum(jnp.asarray(horizon, jnp.float32), 1.0)
        progress = jnp.minimum((t - 1) / total, 1.0)
    turns = roles[:2].sum(0)
    averages = own[:2] @ turns / max(turns.sum(), 1)
    time = [
        jnp.log(t) / 5 - 1, jnp.log(total) / 2.5 - 2, progress, jnp.cos(jnp.pi * progress),
        jnp.tanh(10 * progress), jnp.tanh(10 * (1 - progress)), jnp.tanh(t / 10),
    ]  # fmt: skip
    return jnp.concatenate([jnp.clip(trend, -3, 3), jnp.stack(time), averages])


def _moved(
    config: LearnedPolarConfig, role: str, leaf: Leaf, said: Float[Array, "n outputs"], count: Any, factor: Any
) -> Array:
    """The update of a stack."""
    longer, norm_longer, drift, slow_share, raw_share = (FARTHEST[None] * jnp.tanh(said / FARTHEST[None])).T
    g = leaf.g
    nesterov = FAST * leaf.fast + (1 - FAST) * g
    mixed = [(nesterov, 1.0), (leaf.slow, slow_share), (g, raw_share)]
    unit: Any = sum(x * over(share / (_size(x) + TINY), x) for x, share in mixed)
    if role not in MATRICES:
        share = config.embedding_step if role == "embedding" else config.vector_step
        root = jnp.sqrt(leaf.nu / weight_of(SECOND, count)) + TINY
        plain = leaf.fast / weight_of(FAST, count)
        size = _size(plain)
        direction = (plain + over(size, g) * (unit - nesterov / over(_size(nesterov) + TINY, g))) / root
        rate = config.step * factor * share * leaf.scale * jnp.exp(longer) / jnp.maximum(_size(direction), 1.0)
        return -over(rate, g) * direction
    usual = leaf.nu / weight_of(SECOND, count) + TINY**2
    q2 = _mean(squared(leaf.fast)) / weight_of(FAST, count) ** 2 / usual
    gain = jnp.clip(q2 / config.quiet**2, config.least, 2.0) * jnp.exp(longer)
    angle = config.step * factor * gain
    direction = jax.vmap(orthogonalised)(unit)
    w, size = leaf.w, _size(leaf.w)
    pace = config.norm_step * factor
    stretch = jnp.exp(pace * (drift - jnp.exp(norm_longer) * _growth(leaf.trace, count)))
    update = jax.vmap(turned)(w, direction, angle) * over(stretch, w) - w
    # a matrix that begins at zero has no direction to turn from
    from_zero = -over(angle * leaf.scale / (_size(direction) + TINY), w) * direction
    return jnp.where(over(size, w) > 0, update, from_zero)
