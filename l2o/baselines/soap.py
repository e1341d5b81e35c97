"""SOAP (Vyas et al. 2024, https://arxiv.org/abs/2409.11321) as an optax transformation."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from l2o.baselines import factors
from l2o.baselines.matrices import Rate
from l2o.baselines.optax import TunedConfig
from l2o.registry import register
from l2o.tensors import like, squared, wide


class SoapState(NamedTuple):
    """How many gradients there were, Adam's moments, the factors and their bases; the trees mirror the parameters.

    The second moment `nu` is in the eigenbasis, the first `mu` is not. Of each leaf, `gg` and `q` are one vector each,
    see `l2o.baselines.factors`.
    """

    count: Any
    mu: Any
    nu: Any
    gg: Any
    q: Any


def scale_by_soap(
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    shampoo_beta: jax.typing.ArrayLike | None = None,
    precondition_frequency: jax.typing.ArrayLike = 10,
    max_precondition_dim: int = 10_000,
) -> optax.GradientTransformation:
    """The direction of `soap`, whose arguments it has."""
    decay = b2 if shampoo_beta is None else shampoo_beta

    def axes_of(leaf):
        return factors.preconditioned(leaf, max_precondition_dim)

    def init(params):
        return SoapState(*factors.start(params, axes_of))

    def update(updates, state, params=None):
        del params
        first, tree = state.count == 0, jax.tree.structure(updates)
        leaves, mu, nu, gg, q = (tree.flatten_up_to(part) for part in (updates, *state[1:]))
        grads = [wide(leaf) for leaf in leaves]
        bases = [factors.unpack(v, g, axes_of(g)) for v, g in zip(q, grads, strict=True)]

        # Adam where the basis of the steps before this one diagonalises the factors (Algorithm 3, lines 3 to 10)
        moved = [b1 * m + (1 - b1) * g for m, g in zip(mu, grads, strict=True)]
        mu = [jnp.where(first, m, new).astype(m.dtype) for m, new in zip(mu, moved, strict=True)]
        turned = [factors.multiply(g, basis, adjoint=True) for g, basis in zip(grads, bases, strict=True)]
        moved = [b2 * v + (1 - b2) * squared(g) for v, g in zip(nu, turned, strict=True)]
        nu = [jnp.where(first, v, new).astype(v.dtype) for v, new in zip(nu, moved, strict=True)]
        taken = jnp.maximum(state.count, 1)
        directions = []
        for m, v, basis, leaf in zip(mu, nu, bases, leaves, strict=True):
            along = factors.multiply(m / (1 - b1**taken), basis, adjoint=True)
            step = factors.multiply(along / (jnp.sqrt(v / (1 - b2**taken)) + eps), basis)
            directions.append(like(jnp.where(first, 0, step), leaf))

        # the factors and, now and then, their basis (lines 11 to 17), for the steps to come
        moments = [factors.second_moments(g, axes_of(g)) for g in grads]
        fresh = [factors.pack(one, old) for one, old in zip(moments, gg, strict=True)]
        gg = [(decay * old + (1 - decay) * new).astype(old.dtype) for old, new in zip(gg, fresh, strict=True)]
        if any(v.size for v in gg):
            refresh = jnp.where(state.count % precondition_frequency == 0, 2, 0)
            unpacked = [factors.unpack(v, g, axes_of(g)) for v, g in zip(gg, grads, strict=True)]
            bases, nu = jax.lax.switch(
                jnp.where(first, 1, refresh), [_kept, _eigenbases, _improved], unpacked, bases, nu
            )
            q = [factors.pack(basis, old) for basis, old in zip(bases, q, strict=True)]
        state = (optax.safe_increment(state.count), *(tree.unflatten(part) for part in (mu, nu, gg, q)))
        return tree.unflatten(directions), SoapState(*state)

    return optax.GradientTransformation(init, update)


def soap(
    learning_rate: Rate,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: Rate = 0.0,
    mask: Any = None,
    *,
    shampoo_beta: jax.typing.ArrayLike | None = None,
    precondition_frequency: jax.typing.ArrayLike = 10,
    max_precondition_dim: int = 10_000,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam in the eigenbasis of Shampoo's preconditioner.

    With :math:`L = Q_L \Lambda_L Q_L^\top` a running mean of :math:`G G^\top`, and :math:`R` one of
    :math:`G^\top G`, the update is :math:`Q_L N Q_R^\top` with :math:`N` Adam's for the gradients
    :math:`Q_L^\top G Q_R`. Tensors of more axes have a basis for each of them. Vectors, scalars, and axes that are
    too long have the identity, which is Adam.

    As in the authors' code, the first gradient initialises the basis, by an eigendecomposition, and moves no
    parameter (but weight decay does). Later, every `precondition_frequency` steps, one step of power iteration and a
    QR decomposition follow the factors; a gradient never is turned by a basis that has seen it. The small `eps` is
    added after Adam's correction of the bias, as in `optax.adam`, and not before it.

    Args:
      learning_rate: a float or a schedule; the authors use 3e-3.
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added to the root of the second moment.
      weight_decay: decoupled, and multiplied by the learning rate, as in `optax.adamw`.
      mask: which leaves are decayed, as in `optax.adamw`.
      shampoo_beta: decay of the factors; None for `b2`.
      precondition_frequency: steps between two changes of the basis, at least 1.
      max_precondition_dim: the longest axis that has a factor.

    >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    >>> tx = soap(3e-3, weight_decay=0.01)
    >>> updates, state = tx.update(params, tx.init(params), params)
    """
    return optax.chain(
        scale_by_soap(
            b1, b2, eps, shampoo_beta=shampoo_beta, precondition_frequency=precondition_frequency,
            max_precondition_dim=max_precondition_dim,
        ),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )  # fmt: skip


def _kept(gg: Any, bases: Any, nu: Any) -> Any:
    return bases, nu


def _eigenbases(gg: Any, bases: Any, nu: Any) -> Any:
    """Eigenvectors, that of the largest eigenvalue first."""
    return factors.in_stacks(lambda m: jnp.linalg.eigh(m)[1][..., ::-1], gg), nu


def _improved(gg: Any, bases: Any, nu: Any) -> Any:
    """One step of power iteration, with columns in the order of the eigenvalues that they estimate (Algorithm 4)."""

    def iterated(m, basis):
        product = m @ basis
        order = jnp.argsort(-jnp.real(jnp.sum(basis.conj() * product, 1)), axis=-1)
        return jnp.linalg.qr(jnp.take_along_axis(product, order[:, None], 2))[0], order

    both = factors.in_stacks(iterated, gg, bases)
    for i, pairs in enumerate(both):
        for axis, pair in enumerate(pairs):
            if pair is not None:
                nu = [*nu[:i], jnp.take(nu[i], pair[1], axis), *nu[i + 1 :]]
    return [[None if pair is None else pair[0] for pair in pairs] for pairs in both], nu


@register
class SoapConfig(TunedConfig):
    """SOAP: Adam in Shampoo's eigenbasis (Vyas et al. 2024), Adam itself for what has less than two axes.

    Attributes:
      b1: decay of the first moment.
      b2: decay of the second moment and of the factors.
      precondition_frequency: steps between two changes of the basis.
      max_precondition_dim: the longest axis that has a factor.
      weight_decay: decoupled, and multiplied by the learning rate.
    """

    kind: Literal["soap"] = "soap"
    b1: float = Field(default=0.95, ge=0, lt=1)
    b2: float = Field(default=0.95, ge=0, lt=1)
    precondition_frequency: int = Field(default=10, ge=1)
    max_precondition_dim: int = Field(default=10_000, ge=1)
    weight_decay: float = Field(default=0.0, ge=0)

    def transformation(self, learning_rate):
        return soap(
            learning_rate,
            self.b1,
            self.b2,
            weight_decay=self.weight_decay,
            precondition_frequency=self.precondition_frequency,
            max_precondition_dim=self.max_precondition_dim,
        )
