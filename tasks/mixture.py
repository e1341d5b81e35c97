"""Several families side by side: networks of different shapes, images and quadratics, in one training."""

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
from pydantic import Field, SerializeAsAny

from l2o.registry import by_kind, register
from tasks.family import FamilyConfig, Split, TaskFamily


@register
class MixtureConfig(FamilyConfig):
    """Tasks from several families, each of which gets the same number of the tasks of a meta-step.

    Tasks of one family have the same shapes and run as one batch; every further family is compiled on its own.

    Attributes:
      families: at least one.
    """

    kind: Literal["mixture"] = "mixture"
    families: tuple[Annotated[SerializeAsAny[FamilyConfig], by_kind(FamilyConfig)], ...] = Field(
        min_length=1, strict=False
    )

    def build(self, split: Split = "train") -> "Mixture":
        """All families on the same split."""
        return Mixture(tuple(family.build(split) for family in self.families))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixture(TaskFamily):
    """The family of `MixtureConfig`. It has no tasks of its own: whoever runs it asks for its `parts`."""

    families: tuple[TaskFamily, ...]

    @property
    def parts(self):
        return tuple(part for family in self.families for part in family.parts)

    def sample(self, key):
        raise TypeError("the tasks of a mixture differ in shape: sample from its parts")

    def task(self, params):
        raise TypeError("the tasks of a mixture differ in shape: ask its parts")
