"""Polar, steered: matrices that turn and norms that move, with what a small network says for each tensor.

The rule is `l2o.polar`, which needs no learning rate. For each tensor a network reads how the run is going: agreement
of the gradients with each other over short and long times, trend of the loss, how far loss and gradients have fallen,
time and horizon, role and shape. All it reads is free of scale, and it sees no coordinate. It writes a correction of
the log step, one of the log step of the norm, a drift of the norm, and how much of a slower momentum and of the
gradient itself goes into the direction:

    d = n(nesterov) + a n(slow) + b n(g)
    W <- |W| exp(-rho e^r nu + rho s) n(n(W) - eta gamma e^l n(orthogonalised(d)))

with (l, r, s, a, b) written by the network, each within bounds: e^r is at most 4.5, and e^l at most `exp(farthest)`.
It answers zero before meta-training, and the rule is polar then.
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
from l2o.tensors import MATRICES, ROLES, alike, like, over, roles_of, scale_of, squared, two_axes, unit_of, wide, zeros

FAST, SLOW, SECOND = 0.95, 0.99, 0.95  # decays of both momenta and of second moments
NORM_DECAYS = (0.9, 0.95)  # of Adam on the logarithm of a norm
LOSSES: Any = np.array([0.8, 0.95, 0.99], np.float32)
OWN, SHARED, OUTPUTS = 12, 13, 5  # numbers that the network reads of a tensor and of the run, and those it writes
NUMBERS = 7  # that are kept of a tensor, see `LearnedPolarState`
LOUDNESS = 2.0  # of what the network says; a small change of theta is then one of a step that the loss tells from noise
BOUNDS = (1.5, 1.0, 2.0, 2.0)  # of all that it says but the log step
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
      farthest: bound of the correction of the log step. A theta may be used within a narrower one than it was
        trained in, see `l2o configure`.
      state_dtype: of both momenta; "bfloat16" halves what they take, "float32" is what parameters of it or less have.
    """

    kind: Literal["learned_polar"] = "learned_polar"
    hidden: int = Field(default=16, ge=0, le=1024)
    step: float = Field(default=0.075, gt=0)
    norm_step: float = Field(default=0.035, ge=0)
    embedding_step: float = Field(default=0.6, ge=0)
    vector_step: float = Field(default=0.11, ge=0)
    quiet: float = Field(default=0.7, gt=0)
    least: float = Field(default=0.02, gt=0, le=1)
    farthest: float = Field(default=0.8, gt=0, le=10)
    state_dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self) -> LearnedOptimizer:
        return learned_polar(self)


class LearnedPolarState(NamedTuple):
    """8 bytes for a parameter of a matrix, 12 for others, or 4 and 8 with momenta of bfloat16.

    Attributes:
      count: updates made.
      fast: momentum of each leaf at decay 0.95; the tree mirrors the parameters.
      slow: momentum at decay 0.99, a tree, too.
      nu: second moment of each leaf, a tree, too; of matrices, which need none, a zero.
      numbers: of each leaf, in order: mean second moment, moments of the derivative by its log norm, agreement of
        gradient and momentum, squared cosine of gradient and parameters, the largest mean second moment so far, and
        the size that its steps are measured by.
      losses: moving averages of the loss at three decays, [3].
      first: the first loss.
    """

    count: Any
    fast: Any
    slow: Any
    nu: Any
    numbers: Float[Array, "7 leaves"]
    losses: Float[Array, "3"]
    first: Float[Array, ""]


class Leaf(NamedTuple):
    """A gradient, its parameters, and what the state has of them."""

    g: Any
    w: Any
    fast: Any
    slow: Any
    nu: Any


class Means(NamedTuple):
    """Means over the entries of each leaf, [leaves]: products of gradient g, parameters w and momenta.

    `before` is the fast momentum before this gradient. They are all that a reading of the tensors tells.
    """

    gg: Any
    ww: Any
    gw: Any
    before: Any
    g_before: Any
    fast: Any
    slow: Any
    both: Any


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
        roles, leaves = roles_of(params, label), jax.tree.leaves(params)
        unit, tree = unit_of(params, roles), jax.tree.structure(params)
        dtype = jnp.bfloat16 if config.state_dtype == "bfloat16" else None

        def momentum(leaf):
            narrow = dtype is not None and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
            return jnp.zeros_like(leaf, dtype) if narrow else zeros(leaf)

        pairs = list(zip(leaves, roles, strict=True))
        nu = [zeros(leaf, () if role in MATRICES else None, real=True) for leaf, role in pairs]
        scales = [scale_of(leaf, role, unit) for leaf, role in pairs]
        numbers = jnp.zeros((NUMBERS, len(leaves)))
        if leaves:
            numbers = jnp.concatenate([jnp.zeros((NUMBERS - 1, len(leaves))), jnp.stack(scales)[None]])
        return LearnedPolarState(
            jnp.zeros((), jnp.int32), jax.tree.map(momentum, params), jax.tree.map(momentum, params),
            tree.unflatten(nu), numbers, jnp.zeros(len(LOSSES)), jnp.zeros(()),
        )  # fmt: skip

    def native(theta: Theta, horizon: Any = None, label: Any = None) -> optax.GradientTransformationExtraArgs:
        def update(updates, state, params=None, *, value=None, **rest):
            del rest
            if params is None:
                raise ValueError("learned_polar needs the parameters: tx.update(updates, state, params)")
            count = optax.safe_increment(state.count)
            losses, first = _losses(state, value)
            roles, tree = roles_of(updates, label), jax.tree.structure(updates)
            if not roles:
                return updates, state._replace(count=count, losses=losses, first=first)
            parts = (tree.flatten_up_to(part) for part in (updates, params, *state[1:4]))
            leaves = [Leaf._make(leaf) for leaf in zip(*parts, strict=True)]
            kinds = [(role, jnp.result_type(leaf.w)) for role, leaf in zip(roles, leaves, strict=True)]
            groups = alike([leaf.g for leaf in leaves], kinds)
            # first what is seen of every tensor, then what the network says of it, then how it moves
            matrix = [role in MATRICES for role in roles]
            seen = [_observed(_stack([leaves[i] for i in places]), matrix[places[0]]) for places in groups]
            back = np.argsort(np.concatenate(groups))
            means = Means._make(jnp.concatenate(column)[back] for column in zip(*(s for _, s in seen), strict=True))
            numbers, own = _read(means, state.numbers, count, [leaf.g for leaf in leaves], roles)
            which = np.eye(len(ROLES), dtype=np.float32)[:, [ROLES.index(role) for role in roles]]
            shared = _shared(count, horizon, losses, first, own, which)
            said = transformed.apply(theta, own, shared, jnp.asarray(which))
            paces = _paces(config, means, numbers, said, count, planned(state.count, horizon), roles)
            found: list[Any] = [None] * len(leaves)
            for places, (stack, _) in zip(groups, seen, strict=True):
                pace = Paces._make(x[np.asarray(places)] for x in paces)
                moved = _turned(stack, pace) if matrix[places[0]] else _adam(stack, pace, count)
                for k, i in enumerate(places):
                    old, one = leaves[i], jax.tree.map(lambda a, k=k: a[k], (moved, stack.fast, stack.slow, stack.nu))
                    found[i] = like(one[0], old.g), one[1].astype(old.fast.dtype), one[2].astype(old.slow.dtype), one[3]
            moves, fast, slow, nu = (tree.unflatten([part[j] for part in found]) for j in range(4))
            return moves, LearnedPolarState(count, fast, slow, nu, numbers, losses, first)

        return optax.GradientTransformationExtraArgs(lambda params: start(params, label), update)

    return gradient_based(init, native, labelled=True)


def _stack(leaves: list[Leaf]) -> Leaf:
    """Leaves of one shape as one, with an axis in front."""

    def each(leaf: Leaf) -> Leaf:
        return leaf._replace(**{name: wide(getattr(leaf, name)) for name in ("g", "w", "fast", "slow")})

    return jax.tree.map(lambda *a: jnp.stack(a), *map(each, leaves))


def _mean(x: Array) -> Array:
    """Over all but the first axis; nothing has mean zero."""
    return jnp.mean(x, tuple(range(1, x.ndim))) if x.size else jnp.zeros(len(x), x.dtype)


def _product(x: Array, y: Array) -> Array:
    return _mean(jnp.real(x * y.conj()))


def _observed(leaf: Leaf, matrix: bool) -> tuple[Leaf, Means]:
    """A stack after its gradients, and what is read of it."""
    g, w, before = leaf.g, leaf.w, leaf.fast
    fast, slow = FAST * before + (1 - FAST) * g, SLOW * leaf.slow + (1 - SLOW) * g
    if not matrix:
        leaf = leaf._replace(nu=SECOND * leaf.nu + (1 - SECOND) * squared(g))
    pairs = ((g, g), (w, w), (g, w), (before, before), (g, before), (fast, fast), (slow, slow), (fast, slow))
    return leaf._replace(fast=fast, slow=slow), Means._make(_product(*pair) for pair in pairs)


def _read(
    means: Means, numbers: Array, count: Any, leaves: list[Any], roles: list[str]
) -> tuple[Float[Array, "7 leaves"], Float[Array, "own leaves"]]:
    """The numbers after a gradient, and what the network is to know of each tensor, within about [-3, 3]."""
    size, weight, before, fast, slow = (
        jnp.sqrt(x) for x in (means.gg, means.ww, means.before, means.fast, means.slow)
    )  # root mean squares
    nu, first, second, agreed, cosines, loudest, scale = numbers
    entries = np.array([max(jnp.size(leaf), 1) for leaf in leaves], np.float32)
    agreement = means.g_before / (size * before + TINY**2)
    long_agreed = jnp.tanh(5 * agreed)
    slope, cosine = entries * means.gw, squared(means.gw / (size * weight + TINY**2))
    b1, b2 = NORM_DECAYS
    nu = SECOND * nu + (1 - SECOND) * means.gg
    first, second = b1 * first + (1 - b1) * slope, b2 * second + (1 - b2) * slope**2
    agreed, cosines = 0.9 * agreed + 0.1 * agreement, 0.95 * cosines + 0.05 * cosine
    usual = nu / weight_of(SECOND, count)
    loudest = jnp.maximum(loudest, usual)
    numbers = jnp.stack([nu, first, second, agreed, cosines, loudest, scale])
    usual = jnp.sqrt(usual) + TINY
    shapes = [two_axes(leaf) if role in MATRICES else (1, 1) for leaf, role in zip(leaves, roles, strict=True)]
    features = [
        _log(fast / weight_of(FAST, count) / usual) + 1.5, _log(slow / weight_of(SLOW, count) / usual) + 2,
        2 * agreed, 2 * means.both / (fast * slow + TINY**2), _growth(numbers, count),
        _log(size / usual), _log(weight / scale), jnp.maximum(_log(cosines / weight_of(SECOND, count)) / 2, -4) + 2,
        jnp.asarray([np.log(rows / columns) / 3 for rows, columns in shapes], size.dtype), 2 * agreement, long_agreed,
        _log(usual / (jnp.sqrt(loudest) + TINY)) / 2,
    ]  # fmt: skip
    return numbers, jnp.stack(features)


def _log(x: Array) -> Array:
    return jnp.clip(jnp.log(x + TINY), -5, 5)


def _growth(numbers: Array, count: Any) -> Array:
    """Adam's direction for the logarithm of the norm."""
    b1, b2 = NORM_DECAYS
    return numbers[1] / weight_of(b1, count) / (jnp.sqrt(numbers[2] / weight_of(b2, count)) + TINY)


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
    fallen = _log((jnp.abs(means[1]) + TINY) / (jnp.abs(first) + TINY)) / 2
    time = [
        jnp.log(t) / 5 - 1, jnp.log(total) / 2.5 - 2, progress, jnp.cos(jnp.pi * progress),
        jnp.tanh(10 * progress), jnp.tanh(10 * (1 - progress)), jnp.tanh(t / 10),
    ]  # fmt: skip
    return jnp.concatenate([jnp.clip(trend, -3, 3), jnp.stack([fallen, *time]), averages])


class Paces(NamedTuple):
    """How each leaf moves, [leaves]; the direction is `fast_share fast + slow_share slow + g_share g`.

    Attributes:
      fast_share, slow_share, g_share: of momenta and gradient in the direction.
      pace: of a matrix the angle of its step; of others, the root mean square of the longest step.
      stretch: logarithm of how much the norm of a matrix is multiplied with.
      size: root mean square of the parameters.
      scale: the size that the steps are measured by.
    """

    fast_share: Any
    slow_share: Any
    g_share: Any
    pace: Any
    stretch: Any
    size: Any
    scale: Any


def _paces(
    config: LearnedPolarConfig, means: Means, numbers: Any, said: Any, count: Any, factor: Any, roles: list[str]
) -> Paces:
    """From what the network says of each leaf, [outputs, leaves]."""
    bounds = np.array([config.farthest, *BOUNDS], np.float32)[:, None]
    longer, norm_longer, drift, slow_share, g_share = bounds * jnp.tanh(said / bounds)
    matrix = np.array([role in MATRICES for role in roles])
    share = np.array([config.embedding_step if role == "embedding" else config.vector_step for role in roles])
    scale, weight = numbers[-1], weight_of(FAST, count)
    nesterov = FAST**2 * means.fast + (1 - FAST) ** 2 * means.gg
    nesterov = nesterov + 2 * FAST * (1 - FAST) * (FAST * means.g_before + (1 - FAST) * means.gg)
    nesterov = jnp.sqrt(jnp.maximum(nesterov, 0)) + TINY
    # a matrix asks for a direction alone; others for one whose length is that of the momentum, as in Adam
    size = jnp.where(matrix, 1.0, jnp.sqrt(means.fast) / weight)
    slow_share = size * slow_share / (jnp.sqrt(means.slow) + TINY)
    g_share = size * g_share / (jnp.sqrt(means.gg) + TINY) + jnp.where(matrix, (1 - FAST) / nesterov, 0.0)
    fast_share = jnp.where(matrix, FAST / nesterov, 1 / weight)
    usual = numbers[0] / weight_of(SECOND, count) + TINY**2
    gain = jnp.clip(jnp.sqrt(means.fast / usual) / weight / config.quiet, config.least, 2.0)
    pace = config.step * factor * jnp.exp(longer) * jnp.where(matrix, gain, share * scale)
    stretch = config.norm_step * factor * (drift - jnp.exp(norm_longer) * _growth(numbers, count))
    return Paces(fast_share, slow_share, g_share, pace, stretch, jnp.sqrt(means.ww), scale)


def _direction(leaf: Leaf, pace: Paces) -> Array:
    g = leaf.g
    return over(pace.fast_share, g) * leaf.fast + over(pace.slow_share, g) * leaf.slow + over(pace.g_share, g) * g


def _turned(leaf: Leaf, pace: Paces) -> Array:
    """The update of a stack of matrices: `r e^s n(n(w) - a n(d)) - w`, with r the norm of w and `n(x) = x / |x|`."""
    w, direction = leaf.w, jax.vmap(orthogonalised)(_direction(leaf, pace))
    length = jnp.sqrt(_product(direction, direction)) + TINY
    cosine = _product(w, direction) / (pace.size * length + TINY**2)
    # of n(w) - a n(d) the squared norm is 1 - 2 a cosine + a^2
    longer = pace.stretch - 0.5 * jnp.log1p(pace.pace * (pace.pace - 2 * cosine))
    update = over(jnp.expm1(longer), w) * w - over(jnp.exp(longer) * pace.pace * pace.size / length, w) * direction
    # a matrix that begins at zero has no direction to turn from
    from_zero = -over(pace.pace * pace.scale / length, w) * direction
    return jnp.where(over(pace.size, w) > 0, update, from_zero)


def _adam(leaf: Leaf, pace: Paces, count: Any) -> Array:
    """The update of a stack of other leaves: by the direction of Adam, of root mean square 1 at most."""
    direction = _direction(leaf, pace) / (jnp.sqrt(leaf.nu / weight_of(SECOND, count)) + TINY)
    return -over(pace.pace / jnp.maximum(jnp.sqrt(_product(direction, direction)), 1.0), direction) * direction
