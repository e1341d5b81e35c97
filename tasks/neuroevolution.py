"""Networks as population tasks: flat vectors of weights, values alone, one minibatch for a whole generation."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from pydantic import Field, SerializeAsAny

from l2o.core import Evaluation
from l2o.errors import UserError
from l2o.registry import by_kind, register
from tasks.family import FamilyConfig, Split, TaskFamily, Wrapper


@register
class NeuroevolutionConfig(FamilyConfig):
    """A family whose points are networks, for evolution strategies.

    A point is the flat vector of all weights, and an evaluation has no gradient. The members of a generation are
    evaluated with the same randomness (common random numbers): the same minibatch, where the family alone would draw
    one for each of them, so that members differ in value by their weights alone. The next generation sees another.

    Attributes:
      family: any other on a free space: `mlp_classifier`, `conv_classifier`, `characters`, a mixture of them, ...
      sigma: initial standard deviation of a weight, in the units of the weights.
      start: "init" is the starting point of the family; "zero" is a network whose weights are all 0, and whose hidden
        units only the noise of a strategy tells apart.
    """

    kind: Literal["neuroevolution"] = "neuroevolution"
    family: Annotated[SerializeAsAny[FamilyConfig], by_kind(FamilyConfig)]
    sigma: float = Field(default=0.1, gt=0)
    start: Literal["init", "zero"] = "init"

    def build(self, split: Split = "train") -> "Neuroevolution":
        """The family as population tasks, on the same split.

        Raises:
          UserError: the points of the family are in a box.
        """
        family = self.family.build(split)
        for part in family.parts:
            space = jax.eval_shape(lambda key, part=part: part.task(part.sample(key)).problem.space, jax.random.key(0))
            if not space.is_free:
                raise UserError(
                    f"neuroevolution: the points of the family {self.family.kind!r} are in a box, expected a family on "
                    "a free space such as 'mlp_classifier'"
                )
        return Neuroevolution(family, self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Neuroevolution(Wrapper):
    """The family of `NeuroevolutionConfig`. A task's parameters are those of the family."""

    family: TaskFamily
    config: NeuroevolutionConfig = field(metadata={"static": True})

    def sample(self, key):
        return self.family.sample(key)

    def task(self, params):
        task = self.family.task(params)
        start, unravel = ravel_pytree(task.problem.start)
        if self.config.start == "zero":
            start = jnp.zeros_like(start)

        def evaluate(key, x):
            def one(member):
                return task.evaluate(key, jax.tree.map(lambda a: a[None], unravel(member)))

            # nobody reads the gradient, so compiled code does not compute it
            found = jax.vmap(one)(x)._replace(gradient=None)
            return Evaluation(*jax.tree.map(lambda a: a[:, 0], found))

        return task._replace(
            problem=task.problem._replace(start=start, scale=self.config.sigma), evaluate=evaluate,
            measure=lambda key, x: task.measure(key, unravel(x)),
        )  # fmt: skip
