"""The same tasks in other units: random scales of the parameters and of the objective."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, SerializeAsAny

from l2o.core import Evaluation
from l2o.registry import by_kind, register
from tasks.family import FamilyConfig, Split, TaskFamily, Wrapper


@register
class RescaledConfig(FamilyConfig):
    """A family whose tasks are drawn in random units: minimize `s f(c * z)` over z, from `z_0 = x_0 / c`.

    With one c per coordinate this is the random scaling of Lv et al. (2017); with one per tensor the reparametrisation
    of Metz et al. (2022).

    Attributes:
      family: any other.
      parameters: c = exp(u) with u uniform on [-parameters, parameters].
      per: what has a c of its own: each "coordinate", each "tensor", or the whole "model".
      objective: s = exp(u) with u uniform on [-objective, objective].
    """

    kind: Literal["rescaled"] = "rescaled"
    family: Annotated[SerializeAsAny[FamilyConfig], by_kind(FamilyConfig)]
    parameters: float = Field(default=0.0, ge=0, le=20)
    per: Literal["coordinate", "tensor", "model"] = "tensor"
    objective: float = Field(default=0.0, ge=0, le=20)

    def build(self, split: Split = "train") -> "Rescaled":
        """The family in random units, on the same split."""
        return Rescaled(self.family.build(split), self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rescaled(Wrapper):
    """The family of `RescaledConfig`. A task's parameters are the inner family's, c like the starting point, and s."""

    family: TaskFamily
    config: RescaledConfig = field(metadata={"static": True})

    def sample(self, key):
        family_key, scale_key, objective_key = jax.random.split(key, 3)
        params = self.family.sample(family_key)
        leaves, tree = jax.tree.flatten(jax.eval_shape(lambda p: self.family.task(p).problem.start, params))

        def draw(key, like):
            shape = like.shape if self.config.per == "coordinate" else [1] * like.ndim
            return jnp.exp(self.config.parameters * jax.random.uniform(key, shape, minval=-1.0))

        if self.config.per == "model":
            one = draw(scale_key, jnp.zeros(()))
            scales = [one.reshape([1] * like.ndim) for like in leaves]
        else:
            scales = [draw(k, like) for k, like in zip(jax.random.split(scale_key, len(leaves)), leaves, strict=True)]
        factor = jnp.exp(self.config.objective * jax.random.uniform(objective_key, minval=-1.0))
        return params, tree.unflatten(scales), factor

    def task(self, params):
        inner, scales, factor = params
        task = self.family.task(inner)

        def outer(z):
            return jax.tree.map(jnp.multiply, z, scales)

        def evaluate(key, z):
            evaluation = task.evaluate(key, jax.tree.map(lambda a, c: a * c[None], z, scales))
            gradient = evaluation.gradient
            if gradient is not None:
                gradient = jax.tree.map(lambda g, c: factor * c[None] * g, gradient, scales)
            judged = None if evaluation.judged is None else factor * evaluation.judged
            return Evaluation(factor * evaluation.value, gradient, judged)

        start = jax.tree.map(jnp.divide, task.problem.start, scales)
        return task._replace(
            problem=task.problem._replace(start=start), evaluate=evaluate,
            measure=lambda key, z: task.measure(key, outer(z)),
        )  # fmt: skip
