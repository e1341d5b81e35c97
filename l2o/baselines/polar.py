"""Polar: a matrix is a direction and a norm, each of which moves at its own pace, and no learning rate is tuned."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

from l2o.core import BaselineConfig, Optimizer
from l2o.lift.optax import from_optax
from l2o.newton_schulz import TINY, orthogonalised
from l2o.registry import register
from l2o.schedules import planned
from l2o.tensors import MATRICES, alike, frobenius, like, roles_of, scale_of, turned, unit_of, wide, zeros

DECAY = 0.95  # of momenta and of second moments
NORM_DECAYS = (0.9, 0.95)  # of Adam on the logarithm of a norm
GAINS = (0.02, 2.0)  # least and most of a step


class PolarState(NamedTuple):
    """What polar remembers: 4 bytes for a parameter of a matrix, 8 for others; each tree mirrors the parameters.

    Attributes:
      count: updates made.
      mu: momentum of each leaf.
      nu: second moment of each leaf; of a matrix, the mean over its entries.
      norm: two moments of the derivative by the logarithm of a matrix's norm, [2]; of other leaves a zero, [].
      scale: the size that the steps of a leaf are measured by, a scalar for each leaf.
    """

    count: Any
    mu: Any
    nu: Any
    norm: Any
    scale: Any


def polar(
    horizon: Any = None,
    *,
    step: jax.typing.ArrayLike = 0.075,
    norm_step: jax.typing.ArrayLike = 0.035,
    embedding_step: jax.typing.ArrayLike = 0.6,
    vector_step: jax.typing.ArrayLike = 0.11,
    quiet: jax.typing.ArrayLike = 0.7,
    label: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Matrices turn on their sphere and their norms move by Adam, at one setting for all networks.

    With :math:`O` the orthogonalised Nesterov momentum of a matrix :math:`W` (Jordan et al. 2024), :math:`n(x) = x /
    \|x\|_F`, and :math:`\eta_t` and :math:`\rho_t` the steps of the direction and of the norm, which warm up over 5 %
    of the horizon and then fall as a cosine,

    .. math:: W \gets \|W\|_F \, e^{-\rho_t \nu_t} \; n\big(n(W) - \eta_t\, \gamma_t\, n(O)\big),

    where :math:`\nu_t` is Adam's direction for :math:`\log \|W\|_F`, whose derivative is :math:`\langle G, W \rangle`.
    Where the gradients are noise the step is small: with q the root mean square of the momentum over that of the
    gradients, :math:`\gamma_t` is q / `quiet`, between 0.02 and 2. Tables of embeddings, which a
    name tells, and vectors move by the direction of Adam; vectors relative to their own scale, tables and what begins
    at zero relative to the numbers between layers. An output layer is a matrix as others.

    Keeping norms is from Hyperball (Wen et al. 2026), which this rule adds a moving norm to: the weights of networks
    without normalisation have to grow.

    Args:
      horizon: how many updates there will be, which may be traced; None for a step that is constant after 100 updates.
      step: angle of a matrix's step, in radians.
      norm_step: relative change of a matrix's norm in a step.
      embedding_step: relative step of embeddings as a multiple of `step`.
      vector_step: relative step of vectors and scalars as a multiple of `step`.
      quiet: the ratio q of momentum to gradients at which the step is whole, positive.
      label: roles of leaves that are known: a tree of "matrix", "head", "embedding", "vector" or None, whose leaves may
        stand for whole branches of the parameters, or a function from the parameters to it. Names tell of the others.

    Raises:
      ValueError: `update` gets no parameters.
      UserError: a label that is no role, or does not fit the parameters.

    >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    >>> tx = polar(horizon=100)
    >>> updates, state = tx.update(params, tx.init(params), params)
    """

    def init(params):
        roles = roles_of(params, label)
        unit, as_tree = unit_of(params, roles), jax.tree.structure(params).unflatten(roles)

        def second(leaf, role):
            return zeros(leaf, () if role in MATRICES else None, real=True)

        def norm(leaf, role):
            return zeros(leaf, (2,) if role in MATRICES else (), real=True)

        return PolarState(
            jnp.zeros((), jnp.int32), jax.tree.map(zeros, params), jax.tree.map(second, params, as_tree),
            jax.tree.map(norm, params, as_tree),
            jax.tree.map(lambda leaf, role: scale_of(leaf, role, unit), params, as_tree),
        )  # fmt: skip

    def update(updates, state, params=None, **extra):
        del extra
        if params is None:
            raise ValueError("polar needs the parameters: update(updates, state, params)")
        count = optax.safe_increment(state.count)
        factor = planned(state.count, horizon)
        roles, tree = roles_of(updates, label), jax.tree.structure(updates)
        parts = (tree.flatten_up_to(part) for part in (updates, params, *state[1:]))
        leaves = [_Leaf._make(leaf) for leaf in zip(*parts, strict=True)]
        found: list[Any] = [None] * len(leaves)
        for i, leaf in enumerate(leaves):
            if roles[i] not in MATRICES:
                share = embedding_step if roles[i] == "embedding" else vector_step
                found[i] = _vector(leaf, count, step * factor * share)
        for places in alike([leaf.g for leaf in leaves], [True if role in MATRICES else None for role in roles]):
            stack = jax.tree.map(lambda *a: jnp.stack(a), *(_wide(leaves[i]) for i in places))
            moved = jax.vmap(_matrix, (0, None, None, None, None))(
                stack, count, step * factor, norm_step * factor, quiet
            )
            for k, i in enumerate(places):
                one = jax.tree.map(lambda a, k=k: a[k], moved)
                found[i] = one
        moves, *rest = ([part[j] for part in found] for j in range(4))
        moves = [like(move, leaf.g) for move, leaf in zip(moves, leaves, strict=True)]
        return tree.unflatten(moves), PolarState._make((count, *map(tree.unflatten, rest), state.scale))

    return optax.GradientTransformationExtraArgs(init, update)


class _Leaf(NamedTuple):
    """A gradient, its parameters, and what the state has of them."""

    g: Any
    w: Any
    mu: Any
    nu: Any
    norm: Any
    scale: Any


def _wide(leaf: _Leaf) -> _Leaf:
    return leaf._replace(g=wide(leaf.g), w=wide(leaf.w), mu=wide(leaf.mu))


def _matrix(leaf: _Leaf, count: Any, angle: Any, norm_step: Any, quiet: Any) -> tuple[Any, ...]:
    """The update of one matrix [*a, b], and its momentum, second moment and moments of the norm."""
    g, w = leaf.g, leaf.w
    mu = DECAY * leaf.mu + (1 - DECAY) * g
    nu = DECAY * leaf.nu + (1 - DECAY) * jnp.mean(g**2)
    ratio = jnp.mean(mu**2) / (nu * (1 - DECAY**count) + TINY**2)  # without the biases of both means
    gain = jnp.clip(jnp.sqrt(ratio) / quiet, *GAINS)
    direction = orthogonalised(DECAY * mu + (1 - DECAY) * g)
    size, length = frobenius(w), frobenius(direction)
    slope = jnp.sum(g * w)
    b1, b2 = NORM_DECAYS
    first, second = b1 * leaf.norm[0] + (1 - b1) * slope, b2 * leaf.norm[1] + (1 - b2) * slope**2
    growth = first / (1 - b1**count) / (jnp.sqrt(second / (1 - b2**count)) + TINY)
    update = turned(w, direction, angle * gain) * jnp.exp(-norm_step * growth) - w
    # a matrix that begins at zero has no direction to turn from
    update = jnp.where(size > 0, update, -angle * leaf.scale * np.sqrt(direction.size) * direction / (length + TINY))
    return update, mu, nu, jnp.stack([first, second])


def _vector(leaf: _Leaf, count: Any, rate: Any) -> tuple[Any, ...]:
    """The update of a leaf by the direction of Adam, of root mean square 1 at most, and its moments."""
    g = wide(leaf.g)
    mu = DECAY * leaf.mu + (1 - DECAY) * g
    nu = DECAY * leaf.nu + (1 - DECAY) * jnp.real(g * g.conj())
    direction = mu / (1 - DECAY**count) / (jnp.sqrt(nu / (1 - DECAY**count)) + TINY)
    size = jnp.sqrt(jnp.mean(jnp.square(jnp.abs(direction)))) if direction.size else 1.0
    return -rate * leaf.scale * direction / jnp.maximum(size, 1.0), mu, nu, leaf.norm


@register
class PolarConfig(BaselineConfig):
    """Polar: matrices that turn, norms that move, and no learning rate to tune.

    Attributes:
      step: angle of a matrix's step, in radians.
      norm_step: relative change of a matrix's norm in a step.
      embedding_step: relative step of embeddings as a multiple of `step`.
      vector_step: relative step of vectors and scalars as a multiple of `step`.
      quiet: the ratio of momentum to gradients at which the step is whole.
    """

    reads_gradients = True
    kind: Literal["polar"] = "polar"
    step: float = Field(default=0.075, gt=0)
    norm_step: float = Field(default=0.035, ge=0)
    embedding_step: float = Field(default=0.6, ge=0)
    vector_step: float = Field(default=0.11, ge=0)
    quiet: float = Field(default=0.7, gt=0)

    def build(self) -> Optimizer:
        settings = self.model_dump(exclude={"kind"})
        return from_optax(lambda horizon: polar(horizon, **settings))
