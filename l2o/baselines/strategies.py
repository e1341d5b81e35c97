"""evosax's strategies where they differ from their papers, or have no parameter for what a study tunes.

It imports evosax, so it is imported where it is needed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from evosax.algorithms import PGPE, Open_ES, Sep_CMA_ES, xNES
from evosax.algorithms.distribution_based import open_es, pgpe, xnes
from flax import struct


class SeparableCMAES(Sep_CMA_ES):
    """Separable CMA-ES with the learning rates of Ros and Hansen (2008, section 3): a diagonal is learned (d + 2) / 3
    times as fast as a matrix.
    """

    @property
    def _default_params(self):
        params, faster = super()._default_params, (self.num_dims + 2) / 3
        c_1 = faster * params.c_1  # below a quarter in all dimensions
        return params.replace(c_1=c_1, c_mu=jnp.minimum(faster * params.c_mu, 1 - c_1))  # pyright: ignore[reportAttributeAccessIssue]


@struct.dataclass
class ExponentialState(xnes.State):
    """State of ExponentialNES, with the inverse of B."""

    inverse: jax.Array


class ExponentialNES(xNES):
    """xNES as in algorithm 1 of Glasmachers et al. (2010), "Exponential natural evolution strategies".

    x = m + s B z, with updates of m, of the step size s, and of B by the exponential of a matrix. evosax takes the
    exponential of each entry instead, which leaves a diagonal B diagonal, and begins with the square of `std_init`.
    """

    def _init(self, key, params):
        begun, unit = vars(super()._init(key, params)), jnp.eye(self.num_dims)
        return ExponentialState(**{**begun, "B": unit, "inverse": unit})

    def _ask(self, key, state, params):
        z = jax.random.normal(key, (self.population_size, self.num_dims))
        return state.mean + state.std * z @ state.B.T, state

    def _tell(self, key, population, fitness, state: Any, params):
        z = (population - state.mean) @ state.inverse.T / state.std  # queries may have been projected
        along = (fitness[:, None] * z).T @ z - jnp.sum(fitness) * jnp.eye(self.num_dims)
        scale = jnp.trace(along) / self.num_dims
        values, axes = jnp.linalg.eigh(0.5 * params.lr_B * (along - scale * jnp.eye(self.num_dims)))
        return state.replace(
            mean=state.mean + state.std * state.B @ (fitness @ z),
            std=state.std * jnp.exp(0.5 * params.lr_std_init * scale),
            # of a symmetric matrix, and of minus it: XLA's solvers, which `expm` calls, are slow
            B=state.B @ (axes * jnp.exp(values)) @ axes.T,
            inverse=(axes * jnp.exp(-values)) @ axes.T @ state.inverse,
        )


def _adam() -> optax.GradientTransformation:
    return optax.inject_hyperparams(optax.adam)(learning_rate=0.0)


def _rated(state: Any, rate: jax.Array | float) -> Any:
    """The state with this learning rate of `_adam`: there it may be traced, and the algorithm is compiled once."""
    optimizer = state.opt_state
    rates = {**optimizer.hyperparams, "learning_rate": jnp.asarray(rate, jnp.float32)}
    return state.replace(opt_state=optimizer._replace(hyperparams=rates))


@struct.dataclass
class OpenESParams(open_es.Params):
    """Hyperparameters of OpenES."""

    std_init: float | jax.Array
    learning_rate: float | jax.Array


class OpenES(Open_ES):
    """OpenAI's strategy, with Adam and a standard deviation that are parameters; evosax's are part of the program."""

    def __init__(self, population_size, solution):
        super().__init__(population_size, solution, optimizer=_adam())

    @property
    def _default_params(self):
        return OpenESParams(std_init=1.0, learning_rate=0.05)

    def _init(self, key, params: Any):
        return _rated(super()._init(key, params).replace(std=jnp.asarray(params.std_init)), params.learning_rate)

    def _tell(self, key, population, fitness, state, params):
        return super()._tell(key, population, fitness, state, params).replace(std=state.std)


@struct.dataclass
class PGPEParams(pgpe.Params):
    """Hyperparameters of AdamPGPE."""

    learning_rate: float | jax.Array


class AdamPGPE(PGPE):
    """PGPE with Adam, whose learning rate is a parameter."""

    def __init__(self, population_size, solution):
        super().__init__(population_size, solution, optimizer=_adam())

    @property
    def _default_params(self):
        theirs = super()._default_params
        return PGPEParams(
            std_init=theirs.std_init, std_lr=theirs.std_lr, std_max_change=theirs.std_max_change, learning_rate=0.05
        )

    def _init(self, key, params: Any):
        return _rated(super()._init(key, params), params.learning_rate)
