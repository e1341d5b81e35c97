"""Shampoo (Gupta et al. 2018, https://arxiv.org/abs/1802.09568) as an optax transformation."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from l2o.baselines import factors
from l2o.baselines.matrices import Rate
from l2o.baselines.optax import TunedConfig
from l2o.registry import register
from l2o.tensors import frobenius, like, squared, wide


class ShampooState(NamedTuple):
    """How many gradients there were, Adam's moments, the factors and their inverse roots.

    The trees mirror the parameters; of each leaf, `gg` and `roots` are one vector each, see `l2o.baselines.factors`.
    """

    count: Any
    mu: Any
    nu: Any
    gg: Any
    roots: Any


def scale_by_shampoo(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    ridge: jax.typing.ArrayLike = 1e-6,
    grafting: Literal["adam", "none"] = "adam",
    precondition_frequency: jax.typing.ArrayLike = 1,
    max_precondition_dim: int = 10_000,
) -> optax.GradientTransformation:
    """The direction of `shampoo`, whose arguments it has."""
    if grafting not in ("adam", "none"):
        raise ValueError(f'grafting is {grafting!r}: expected "adam" or "none"')

    def axes_of(leaf):
        return factors.preconditioned(leaf, max_precondition_dim)

    def init(params):
        return ShampooState(*factors.start(params, axes_of))

    def update(updates, state, params=None):
        del params
        count, tree = optax.safe_increment(state.count), jax.tree.structure(updates)
        leaves, mu, nu, gg, roots = (tree.flatten_up_to(part) for part in (updates, *state[1:]))
        grads = [wide(leaf) for leaf in leaves]
        mu = [(b1 * m + (1 - b1) * g).astype(m.dtype) for m, g in zip(mu, grads, strict=True)]
        nu = [(b2 * v + (1 - b2) * squared(g)).astype(v.dtype) for v, g in zip(nu, grads, strict=True)]
        fresh = [factors.second_moments(g, axes_of(g)) for g in grads]
        fresh = [factors.pack(one, old) for one, old in zip(fresh, gg, strict=True)]
        gg = [(b2 * old + (1 - b2) * new).astype(old.dtype) for old, new in zip(gg, fresh, strict=True)]

        def rooted(roots):
            unbiased = [factors.unpack(v / (1 - b2**count), g, axes_of(g)) for v, g in zip(gg, grads, strict=True)]
            found = factors.in_stacks(lambda m: _eigh(m, ridge), unbiased)
            return [
                factors.pack([None if one is None else _power(one, -0.5 / sum(axes_of(g))) for one in pair], old)
                for pair, g, old in zip(found, grads, roots, strict=True)
            ]

        if any(v.size for v in gg):
            roots = jax.lax.cond(state.count % precondition_frequency == 0, rooted, lambda roots: roots, roots)
        directions = []
        for leaf, m, v, root in zip(leaves, mu, nu, roots, strict=True):
            momentum = m / (1 - b1**count)
            adam = momentum / (jnp.sqrt(v / (1 - b2**count)) + eps)
            step = factors.multiply(momentum, factors.unpack(root, leaf, axes_of(leaf))) if root.size else adam
            if grafting == "adam" and root.size:
                norm = frobenius(step)
                step = step * frobenius(adam) / jnp.where(norm > 0, norm, 1)
            directions.append(like(step, leaf))
        return tree.unflatten(directions), ShampooState(count, *(tree.unflatten(part) for part in (mu, nu, gg, roots)))

    return optax.GradientTransformation(init, update)


def shampoo(
    learning_rate: Rate,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: Rate = 0.0,
    mask: Any = None,
    *,
    ridge: jax.typing.ArrayLike = 1e-6,
    grafting: Literal["adam", "none"] = "adam",
    precondition_frequency: jax.typing.ArrayLike = 1,
    max_precondition_dim: int = 10_000,
) -> optax.GradientTransformationExtraArgs:
    r"""Shampoo with exponential averages in place of sums.

    A matrix moves along :math:`L^{-1/4} M R^{-1/4}`, with :math:`M`, :math:`L` and :math:`R` running means of
    :math:`G`, :math:`G G^\top` and :math:`G^\top G`, all corrected for their start at zero. Of a tensor of which
    :math:`k` axes have a factor, each is raised to :math:`-1/(2k)`. Vectors and scalars are moved by Adam.

    Args:
      learning_rate: a float or a schedule.
      b1: decay of the momentum, in [0, 1).
      b2: decay of the factors and of Adam's second moment, in [0, 1).
      eps: added to the root of Adam's second moment.
      weight_decay: decoupled, and multiplied by the learning rate, as in `optax.adamw`.
      mask: which leaves are decayed, as in `optax.adamw`.
      ridge: added to the eigenvalues of a factor, in units of the largest one, so that the units of the loss do not
        matter.
      grafting: "adam" gives each matrix the norm of Adam's step (Anil et al. 2020, https://arxiv.org/abs/2002.09018),
        so that Adam's rates fit; "none" leaves the norm as it is.
      precondition_frequency: steps between two computations of the roots, at least 1; the first step computes them.
      max_precondition_dim: the longest axis that has a factor.

    Raises:
      ValueError: `grafting` is neither of the two.

    >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    >>> tx = shampoo(1e-3, precondition_frequency=10)
    >>> updates, state = tx.update(params, tx.init(params), params)
    """
    return optax.chain(
        scale_by_shampoo(
            b1, b2, eps, ridge=ridge, grafting=grafting, precondition_frequency=precondition_frequency,
            max_precondition_dim=max_precondition_dim,
        ),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )  # fmt: skip


def _eigh(m: jax.Array, ridge: Any) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues [n, d], positive also where the matrix is singular or zero, and eigenvectors [n, d, d]."""
    values, vectors = jnp.linalg.eigh(m)
    values = jnp.maximum(values, 0)
    values = values + ridge * values[:, -1:] + jnp.finfo(values.dtype).tiny
    return values, vectors


def _power(decomposed: Any, exponent: float) -> jax.Array:
    values, vectors = decomposed
    return (vectors * (values**exponent)[None]) @ vectors.conj().T


@register
class ShampooConfig(TunedConfig):
    """Shampoo with exponential averages (Gupta et al. 2018), Adam for what has less than two axes.

    Attributes:
      b1: decay of the momentum.
      b2: decay of the factors and of Adam's second moment.
      grafting: "adam" gives each tensor the norm of Adam's step, "none" does not.
      precondition_frequency: steps between two computations of the inverse roots.
      max_precondition_dim: the longest axis that has a factor.
      weight_decay: decoupled, and multiplied by the learning rate.
    """

    kind: Literal["shampoo"] = "shampoo"
    b1: float = Field(default=0.9, ge=0, lt=1)
    b2: float = Field(default=0.99, ge=0, lt=1)
    grafting: Literal["adam", "none"] = "adam"
    precondition_frequency: int = Field(default=1, ge=1)
    max_precondition_dim: int = Field(default=10_000, ge=1)
    weight_decay: float = Field(default=0.0, ge=0)

    def transformation(self, learning_rate):
        return shampoo(
            learning_rate,
            self.b1,
            self.b2,
            weight_decay=self.weight_decay,
            grafting=self.grafting,
            precondition_frequency=self.precondition_frequency,
            max_precondition_dim=self.max_precondition_dim,
        )
