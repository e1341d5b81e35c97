"""Celo and Celo-Adam with their published weights (Moudgil et al. 2025, "Celo: Training versatile learned optimizers on
a compute diet"), as optax transformations and as a baseline of studies.

A scheduler, an LSTM that reads the time and the course of the loss, writes one rate for each update. A rule per
coordinate writes the step: a small MLP in Celo, Adam in Celo-Adam:

    x_{t+1} = x_t - 0.001 rate_t step_t

The authors run one LSTM for each tensor. All of them read the same numbers and start from the same state, so they write
the same rate, and one is enough.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from l2o.core import BaselineConfig, Optimizer, Theta
from l2o.errors import UserError
from l2o.interop.celo_rule import mlp_rule
from l2o.interop.celo_weights import read_weights
from l2o.lift.optax import from_optax, gradient_based
from l2o.registry import register

TIMES: Any = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1], np.float32)  # as fractions of the run
AVERAGES = 10  # moving averages of the loss
UNKNOWN = 999999999999.0  # the least loss before there is any
LARGEST_GRADIENT = 1000.0


def celo(path: str | Path, horizon: Any) -> optax.GradientTransformationExtraArgs:
    """Celo or Celo-Adam, whichever the file holds the weights of, equal to the authors' code to rounding.

    It needs the parameters and the loss: `tx.update(grads, state, params, value=loss)`. A loss that is not finite
    spoils the averages of the loss for the rest of the run, as it does in the authors' code. Early in a long run these
    averages amplify rounding: with a horizon of 100,000 the authors' code, compiled or not, differs from itself by
    1e-3 of the way travelled, and from this by 2e-3.

    Args:
      path: the file of weights, such as `theta.state` of the authors' releases.
      horizon: how many updates the run will have, at least 1.

    Returns:
      The transformation. It works on any pytree of real numbers, and computes in float32, or in float64 for leaves of
      float64; integers stay as they are.

    Raises:
      UserError: the file does not hold such weights, or the horizon is no whole number of steps.
    """
    theta = read_weights(path)
    native = gradient_based(lambda key: theta, _native).native  # which refuses a wrong horizon or value
    assert native is not None
    return native(theta, horizon)


@register
class CeloConfig(BaselineConfig):
    """Celo or Celo-Adam (Moudgil et al. 2025) with the authors' weights, which are not part of this project.

    Attributes:
      weights: path of the file.
    """

    reads_gradients: ClassVar[bool] = True

    kind: Literal["celo"] = "celo"
    weights: str = ""

    @property
    def label(self) -> str:
        """Its name in tables: `celo` for a file theta.state, `celo-adam` for theta_adam.state."""
        name = Path(self.weights).stem.removeprefix("theta").removeprefix("celo").strip("_-")
        return f"celo-{name}" if name else "celo"

    @property
    def lacks(self) -> str:
        needed = "celo needs weights, the path of a file of them such as theta.state of the authors"
        return "" if self.weights else needed

    def build(self) -> Optimizer:
        """The optimizer that the file describes.

        Raises:
          UserError: no file is named, or it does not hold such weights.
        """
        if self.lacks:
            raise UserError(self.lacks)
        theta = read_weights(self.weights)
        return from_optax(lambda horizon: _native(theta, horizon))


class ScheduleState(NamedTuple):
    """What the scheduler remembers; H is the number of its units.

    Attributes:
      means: moving averages of the loss, [10].
      least: the least of each of them, [10].
      hidden, cell: of the LSTM, [H].
      age: updates made.
    """

    means: Float[Array, "10"]
    least: Float[Array, "10"]
    hidden: Float[Array, "H"]
    cell: Float[Array, "H"]
    age: Int[Array, ""]


class CeloState(NamedTuple):
    """The scheduler's state, and that of the rule per coordinate, whose trees mirror the parameters."""

    schedule: ScheduleState
    rule: Any


def _native(theta: Theta, horizon: Any) -> optax.GradientTransformationExtraArgs:
    if horizon is None:
        raise UserError("celo needs the horizon, the whole number of updates that the run will have")
    theta = jax.tree.map(jnp.asarray, theta)
    if "ff_mod_stack" in theta:
        rule = mlp_rule(theta["ff_mod_stack"]["~"])
    else:
        rule = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8, eps_root=1e-10)

    def init(params: Any) -> CeloState:
        start = theta["lstm_init_state"]
        hidden, cell = (jnp.array(start[name][0], copy=True) for name in ("hidden", "cell"))
        least = jnp.full(AVERAGES, UNKNOWN, jnp.float32)
        schedule = ScheduleState(jnp.zeros(AVERAGES, jnp.float32), least, hidden, cell, jnp.zeros((), jnp.int32))
        return CeloState(schedule, rule.init(_numbers(params)))

    def update(updates, state, params=None, *, value=None, **rest):
        del rest
        if params is None:
            raise ValueError("celo needs the parameters: tx.update(updates, state, params, value=loss)")
        if value is None:
            raise ValueError("celo needs the loss: tx.update(updates, state, params, value=loss)")
        rate, schedule = _rate(theta["rnn_params"], state.schedule, jnp.asarray(value, jnp.float32), horizon)
        g = jax.tree.map(lambda a: jnp.clip(a, -LARGEST_GRADIENT, LARGEST_GRADIENT), _numbers(updates))
        steps, moments = rule.update(g, state.rule, _numbers(params))
        steps = jax.tree.map(lambda a: -0.001 * rate * a, steps)
        return jax.tree.map(_like, steps, updates), CeloState(schedule, moments)

    return optax.GradientTransformationExtraArgs(init, update)


def _rate(
    theta: Theta, state: ScheduleState, loss: Float[Array, ""], horizon: Any
) -> tuple[Float[Array, ""], ScheduleState]:
    """The rate of this update."""
    horizon = jnp.asarray(horizon, jnp.float32)
    trend, means, least = _trend(state, loss, horizon)
    time = jnp.tanh((state.age / horizon - TIMES) * 10)
    x = jnp.concatenate([time, trend])
    x = _linear(theta["linear_2"], x) + jax.nn.relu(_linear(theta["linear_1"], x))
    gates = _linear(theta["rnn/linear"], jnp.concatenate([x, state.hidden]))
    read, new, keep, write = jnp.split(gates, 4)
    cell = jax.nn.sigmoid(keep + 1) * state.cell + jax.nn.sigmoid(read) * jnp.tanh(new)
    hidden = jax.nn.sigmoid(write) * jnp.tanh(cell)
    rate = 0.1 * jnp.exp(_linear(theta["step_size"], hidden)[0])
    return rate, ScheduleState(means, least, hidden, cell, state.age + 1)


def _trend(
    state: ScheduleState, loss: Float[Array, ""], horizon: Float[Array, ""]
) -> tuple[Float[Array, "9"], Float[Array, "10"], Float[Array, "10"]]:
    """How far each average of the loss lies above its least, in [-1, 1], relative to the next slower average."""
    decays = jnp.exp(-1 / jnp.logspace(1, jnp.log10(horizon), AVERAGES))
    weight = 1 - decays ** (state.age + 1)  # corrects for averages that began at zero
    largest = jnp.where(state.age == 0, loss, jnp.max(state.means / weight))
    loss = jnp.minimum(2 * jnp.abs(largest), loss)
    means = state.means * decays + (1 - decays) * loss
    averages = means / weight
    least = jnp.minimum(state.least, averages)
    spread = jnp.maximum(averages[1:] - least[:-1], 1e-8)
    trend = jnp.clip((averages[:-1] - least[:-1]) / spread - 1, -1, 1)
    return jnp.where(state.age < 2, 0 * trend, trend), means, least


def _linear(layer: Theta, x: Float[Array, "i"]) -> Float[Array, "o"]:
    return x @ layer["w"] + layer["b"]


def _numbers(tree: Any) -> Any:
    """Leaves of real numbers in float32, or as they are in float64; no numbers in place of integers."""

    def read(leaf: Any) -> Array:
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise UserError(f"celo has no rule for complex numbers, and a parameter is of dtype {dtype}")
        if not jnp.issubdtype(dtype, jnp.floating):
            return jnp.zeros(0, jnp.float32)
        return jnp.asarray(leaf).astype(jnp.float64 if dtype == jnp.float64 else jnp.float32)

    return jax.tree.map(read, tree)


def _like(step: Array, gradient: Any) -> Array:
    """The step in the gradient's dtype; zero for integers, whose gradients are of float0, which holds no numbers."""
    dtype = jnp.result_type(gradient)
    if jnp.issubdtype(dtype, jnp.floating):
        return step.astype(dtype)
    return jnp.zeros(jnp.shape(gradient), jnp.int8 if dtype == jax.dtypes.float0 else dtype)
