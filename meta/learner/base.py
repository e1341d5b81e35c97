"""What changes theta: the contract of all meta-optimizers, and the part of a meta-step that they share."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field

from l2o.core import LearnedOptimizer, Objective, Theta
from l2o.errors import UserError
from l2o.registry import Config
from meta.estimator.base import EstimatorConfig
from meta.parallel import WHOLE, Devices
from tasks.family import TaskFamily


class LearnerState(NamedTuple):
    """Everything that training changes; saved whole in every checkpoint.

    Attributes:
      theta: meta-parameters.
      average: exponential moving average of theta, what is validated and shipped.
      optimizer: optax state on theta, or the state of the evolution strategy.
      estimator: state of the estimator, or the key of the evolution learner.
      step: meta-updates attempted.
      skipped: meta-updates left out because their gradient was not finite.
      failing: length of the present streak of skipped updates.
    """

    theta: Theta
    average: Theta
    optimizer: Any
    estimator: Any
    step: Int[Array, ""]
    skipped: Int[Array, ""]
    failing: Int[Array, ""]


class Learner(NamedTuple):
    """How theta is learned.

    Attributes:
      init: `(key, family, theta) -> LearnerState`.
      step: `(state, family) -> (LearnerState, metrics)`.
      specs: how the state lies on the mesh, a tree prefix of PartitionSpecs.
      mesh: the devices.
      validate: `(theta, family, key, count) -> scores`, of which "validation" is to be low; None for the meta-loss of
        runs on fresh tasks.
    """

    init: Callable[[PRNGKeyArray, TaskFamily, Theta], LearnerState]
    step: Callable[[LearnerState, TaskFamily], tuple[LearnerState, dict[str, Float[Array, ""]]]]
    specs: Any
    mesh: Mesh
    validate: Callable[[Theta, TaskFamily, PRNGKeyArray, int], dict[str, Float[Array, ""]]] | None = None


def specs(estimator: Any) -> Any:
    """How a learner's state lies on the mesh: whole on every device but for the estimator's."""
    whole: Any = WHOLE
    return LearnerState(whole, whole, whole, estimator, whole, whole, whole)


class LearnerConfig(Config):
    """Room of the rules that change theta.

    Attributes:
      average: decay of the moving average of theta per meta-step, in [0, 1); 0 keeps theta itself. The average
        follows faster in the first steps, as (1 + step) / (10 + step) while that is smaller.
    """

    kind: str = "adam"
    estimates: ClassVar[bool] = True  # whether it needs an estimator of the meta-gradient
    average: float = Field(default=0.99, ge=0, lt=1)

    def build(
        self, learned: LearnedOptimizer, objective: Objective, estimator: EstimatorConfig | None,
        horizon: int, tasks: int, steps: int, devices: Devices = 1, parts: int = 1,
    ) -> Learner:  # fmt: skip
        """The learner.

        Args:
          learned: the architecture.
          objective: the meta-loss.
          estimator: of the meta-gradient, for rules that need one.
          horizon: the largest number of inner steps in a run.
          tasks: tasks in a meta-step.
          steps: meta-steps of the whole training.
          devices: how many to use, or "all".
          parts: of the family that it will be trained on, see `TaskFamily.parts`; they share the tasks evenly.

        Raises:
          UserError: tasks, devices and parts do not fit.
        """
        raise TypeError(f"{type(self).__name__} does not define build()")

    def begin(self, theta: Theta, optimizer: Any, estimator: Any) -> LearnerState:
        """The state before the first meta-step."""
        zero = jnp.zeros((), jnp.int32)
        return LearnerState(theta, jax.tree.map(jnp.copy, theta), optimizer, estimator, zero, zero, zero)

    def advance(self, state: LearnerState, ok: Array, theta: Theta, optimizer: Any, estimator: Any) -> LearnerState:
        """The state after a meta-step: with the new theta if it is to be trusted, else with the old one and a note."""
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(self.average, (1 + count) / (10 + count))
        new = LearnerState(
            theta, optax.incremental_update(theta, state.average, 1 - decay), optimizer, estimator,
            step=state.step + 1, skipped=state.skipped, failing=jnp.zeros_like(state.failing),
        )  # fmt: skip
        skip = state._replace(
            estimator=estimator, step=state.step + 1, skipped=state.skipped + 1, failing=state.failing + 1
        )
        return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, skip)


def share(tasks: int, parts: int) -> int:
    """Tasks of each part of a mixture."""
    if tasks % parts:
        raise UserError(f"meta.tasks: found {tasks}, expected a multiple of {parts}, the families of the mixture")
    return tasks // parts
