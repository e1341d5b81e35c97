"""Hyperball (Wen et al. 2026, https://arxiv.org/abs/2606.16899) as an optax transformation."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import scale_by_muon
from pydantic import Field

from l2o.baselines.matrices import MATRICES, Dimensions, Rate, axes, beside_adam, hidden_matrices, map_matrices, times
from l2o.baselines.optax import TunedConfig
from l2o.registry import register
from l2o.tensors import frobenius, like, wide


class HyperballState(NamedTuple):
    """How many updates there were, the norm that each matrix keeps, and the state of the inner transformation."""

    count: Any
    radius: Any
    inner: Any


def hyperball(
    learning_rate: Rate,
    inner: optax.GradientTransformation | None = None,
    *,
    adam_learning_rate: Rate | None = None,
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.999,
    adam_eps: jax.typing.ArrayLike = 1e-8,
    weight_dimension_numbers: Dimensions = hidden_matrices,
) -> optax.GradientTransformationExtraArgs:
    r"""Matrices keep their norm and turn by an angle that the learning rate sets; Adam moves everything else.

    With :math:`n(x) = x / \|x\|_F`, :math:`R = \|W_0\|_F`, and :math:`u` the direction of the inner transformation,

    .. math:: W \gets R\, n(W - \eta\, R\, n(u)) .

    There is no weight decay: its effect on a matrix's norm is what this rule replaces. The authors advise, after a
    tuned rate and weight decay, the root of their product. A matrix that begins at zero has no norm to keep: it moves
    by :math:`-\eta u`. The schedule belongs in `learning_rate`, as a multiple of an update leaves the sphere; for the
    same reason it must be the last of a chain.

    Args:
      learning_rate: :math:`\eta`, a float or a schedule.
      inner: gives :math:`u`, uphill and without a rate, as optax's `scale_by_...` do; None for
        `optax.contrib.scale_by_muon()`. It sees the matrices alone.
      adam_learning_rate: Adam's rate; None for `learning_rate`.
      adam_b1: decay of Adam's first moment, in [0, 1).
      adam_b2: decay of Adam's second moment, in [0, 1).
      adam_eps: added to the root of Adam's second moment.
      weight_dimension_numbers: which leaves are matrices, as in `optax.contrib.muon`; axes that it does not name are a
        stack, of which each matrix has its own norm.

    Raises:
      ValueError: `update` gets no parameters.

    >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    >>> tx = hyperball(0.02, optax.scale_by_adam())
    >>> updates, state = tx.update(params, tx.init(params), params)
    """

    def make(dimensions):
        chosen = inner if inner is not None else scale_by_muon(weight_dimension_numbers=dimensions)
        return _on_the_sphere(learning_rate, optax.with_extra_args_support(chosen), dimensions)

    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    adam = optax.adam(rate, b1=adam_b1, b2=adam_b2, eps=adam_eps)
    return beside_adam(make, adam, weight_dimension_numbers, "hyperball")


def _on_the_sphere(rate: Any, inner: Any, dimensions: Any) -> optax.GradientTransformationExtraArgs:
    def norm(leaf, d):
        reduced, outputs = axes(leaf, d)
        return frobenius(leaf, reduced + outputs)

    def init(params):
        radius = map_matrices(lambda w, d: norm(wide(w), d), dimensions(params), params)
        return HyperballState(jnp.zeros((), jnp.int32), radius, inner.init(params))

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("hyperball needs the parameters: update(updates, state, params)")
        directions, after = inner.update(updates, state.inner, params, **extra)
        eta: Any = rate(state.count) if callable(rate) else rate

        def turned(g, u, w, radius, d):
            u, w = wide(u), wide(w)
            size = norm(u, d)
            moved = w - eta * radius * u / jnp.where(size > 0, size, 1)
            length = norm(moved, d)
            on_sphere = radius * moved / jnp.where(length > 0, length, 1) - w
            return like(jnp.where(radius > 0, on_sphere, -eta * u), g)

        found = map_matrices(turned, dimensions(updates), updates, directions, params, state.radius)
        return found, HyperballState(optax.safe_increment(state.count), state.radius, after)

    return optax.GradientTransformationExtraArgs(init, update)


@register
class HyperballConfig(TunedConfig):
    """Hyperball (Wen et al. 2026): hidden matrices of constant norm, and Adam for everything else.

    Attributes:
      inner: which rule gives a matrix its direction.
      adam_ratio: the learning rate of what is no hidden matrix, as a multiple of the matrices'.
      matrices: "hidden" leaves embeddings and output layers to Adam where names tell, "all" does not.
    """

    kind: Literal["hyperball"] = "hyperball"
    inner: Literal["muon", "adam"] = "muon"
    adam_ratio: float = Field(default=1.0, gt=0)
    matrices: Literal["all", "hidden"] = "hidden"

    @property
    def label(self) -> str:
        return super().label.replace(self.kind, f"{self.kind}-{self.inner}", 1)

    def transformation(self, learning_rate):
        return hyperball(
            learning_rate,
            optax.scale_by_adam() if self.inner == "adam" else None,
            adam_learning_rate=times(learning_rate, self.adam_ratio),
            weight_dimension_numbers=MATRICES[self.matrices],
        )

    def scheduled(self, learning_rate, factor):
        return self.transformation(lambda count: learning_rate * factor(count))
