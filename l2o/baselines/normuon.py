"""NorMuon (Li et al. 2025, https://arxiv.org/abs/2510.05491) as an optax transformation."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import scale_by_muon
from pydantic import Field

from l2o.baselines.matrices import MATRICES, Dimensions, Rate, axes, beside_adam, hidden_matrices, map_matrices, times
from l2o.baselines.optax import TunedConfig
from l2o.registry import register
from l2o.tensors import frobenius, like, squared, wide, zeros


class NeuronState(NamedTuple):
    """The running mean square of each neuron's update, of one number a neuron; the tree mirrors the parameters."""

    nu: Any


def scale_by_neuron(
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    rms: jax.typing.ArrayLike = 0.2,
    dimensions: Callable[[Any], Any] = hidden_matrices,
) -> optax.GradientTransformation:
    r"""Divide each neuron's update by its own running RMS, then set the RMS of the whole matrix.

    With :math:`O` the incoming update, of which row :math:`i` belongs to one neuron (lines 5 to 8 of Algorithm 1):

    .. math:: v_i \gets \beta_2 v_i + (1 - \beta_2) \mathrm{mean}_j O_{ij}^2, \quad
      \hat O_{ij} = O_{ij} / (\sqrt{v_i} + \epsilon), \quad u = \mathrm{rms}\, \sqrt{mn}\, \hat O / \|\hat O\|_F

    Args:
      b2: decay of the mean squares, in [0, 1).
      eps: added to the root.
      rms: root mean square of the entries of an update, positive.
      dimensions: from the parameters to a tree of `optax.contrib.MuonDimensionNumbers`, one a leaf; the output axes
        are the neurons, the reduction axes are averaged over, and others are a stack of matrices.
    """

    def init(params):
        def of_leaf(leaf, d):
            reduced = axes(leaf, d)[0]
            return zeros(leaf, [1 if a in reduced else size for a, size in enumerate(leaf.shape)], real=True)

        return NeuronState(map_matrices(of_leaf, dimensions(params), params))

    def update(updates, state, params=None):
        del params
        chosen = dimensions(updates)

        def moment(o, v, d):
            mean = jnp.mean(squared(wide(o)), axes(o, d)[0], keepdims=True)
            return (b2 * v + (1 - b2) * mean).astype(v.dtype)

        def direction(o, v, d):
            reduced, outputs = axes(o, d)
            normalised = wide(o) / (jnp.sqrt(v) + eps)
            norm = frobenius(normalised, reduced + outputs)
            size = math.sqrt(math.prod(o.shape[a] for a in reduced + outputs))
            return like(jnp.asarray(rms * size * normalised / jnp.where(norm > 0, norm, 1)), o)

        nu = map_matrices(moment, chosen, updates, state.nu)
        return map_matrices(direction, chosen, updates, nu), NeuronState(nu)

    return optax.GradientTransformation(init, update)


def normuon(
    learning_rate: Rate,
    ns_coeffs: Any = (3.4445, -4.7750, 2.0315),
    ns_steps: jax.typing.ArrayLike = 5,
    beta: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: Rate = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    preconditioning: Any = "frobenius",
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.999,
    adam_eps_root: jax.typing.ArrayLike = 0.0,
    adam_weight_decay: Rate = 0.0,
    adam_learning_rate: Rate | None = None,
    muon_weight_dimension_numbers: Dimensions = hidden_matrices,
    consistent_rms: jax.typing.ArrayLike = 0.2,
) -> optax.GradientTransformationExtraArgs:
    """Muon whose neurons all move alike: the orthogonalised momentum, normalised neuron by neuron.

    Arguments that `optax.contrib.muon` has mean what they mean there, and Adam moves what is no matrix. A neuron is
    an output, which is a column where weights are stored as [inputs, outputs], as in haiku and flax.

    Args:
      learning_rate: a float or a schedule.
      b2: decay of the neurons' mean squares, in [0, 1).
      nesterov: as the authors' code does; their Algorithm 1 has plain momentum (False). Adam follows, as in optax.
      adam_learning_rate: Adam's rate; None for `learning_rate`.
      muon_weight_dimension_numbers: which leaves are matrices, and which of their axes are neurons. For weights
        stored as [outputs, inputs]: `MuonDimensionNumbers(reduction_axis=1, output_axis=0)`.
      consistent_rms: root mean square of a matrix's update at a rate of one: 0.2, Adam's usual one. (The authors' code
        keeps the norm that Muon's update has instead.)

    >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    >>> tx = normuon(1e-3, weight_decay=0.1, adam_learning_rate=3e-4)
    >>> updates, state = tx.update(params, tx.init(params), params)
    """

    def make(dimensions):
        return optax.chain(
            scale_by_muon(
                ns_coeffs, ns_steps, beta, eps, mu_dtype,
                nesterov=nesterov, preconditioning=preconditioning, weight_dimension_numbers=dimensions,
            ),
            scale_by_neuron(b2, eps, consistent_rms, dimensions),
            optax.add_decayed_weights(weight_decay, weight_decay_mask),
            optax.scale_by_learning_rate(learning_rate),
        )  # fmt: skip

    adam = optax.adamw(
        learning_rate if adam_learning_rate is None else adam_learning_rate,
        b1=adam_b1, b2=adam_b2, eps=eps, eps_root=adam_eps_root, weight_decay=adam_weight_decay, mu_dtype=mu_dtype,
        nesterov=nesterov,
    )  # fmt: skip
    return beside_adam(make, adam, muon_weight_dimension_numbers, "normuon")


@register
class NorMuonConfig(TunedConfig):
    """NorMuon (Li et al. 2025): Muon with every neuron normalised, for hidden matrices, and Adam for everything else.

    Attributes:
      beta: decay of the momentum.
      b2: decay of the neurons' mean squares.
      nesterov: Nesterov's momentum, as in the authors' code; False is their Algorithm 1.
      weight_decay: of the matrices; decoupled, and multiplied by the learning rate.
      adam_ratio: Adam's learning rate as a multiple of the matrices'.
      matrices: "hidden" leaves embeddings and output layers to Adam where names tell, "all" does not.
    """

    kind: Literal["normuon"] = "normuon"
    beta: float = Field(default=0.95, ge=0, lt=1)
    b2: float = Field(default=0.95, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=0.0, ge=0)
    adam_ratio: float = Field(default=1.0, gt=0)
    matrices: Literal["all", "hidden"] = "hidden"

    def transformation(self, learning_rate):
        return normuon(
            learning_rate,
            beta=self.beta,
            b2=self.b2,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            adam_learning_rate=times(learning_rate, self.adam_ratio),
            muon_weight_dimension_numbers=MATRICES[self.matrices],
        )
