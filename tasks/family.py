"""Task families: distributions over tasks, as pytrees."""

import abc
import dataclasses
from typing import Any, ClassVar, Literal

from jaxtyping import PRNGKeyArray

from l2o.core import Task
from l2o.registry import Config

Params = Any
Split = Literal["train", "test"]


class TaskFamily(abc.ABC):
    """A distribution over tasks.

    Subclasses are dataclasses registered as pytrees (`jax.tree_util.register_dataclass`): datasets are data leaves
    that pass through jit as arguments, never constants of a program. Both methods are pure, so a thousand tasks are
    one `vmap`.
    """

    @property
    def parts(self) -> tuple["TaskFamily", ...]:
        """The families that it consists of, within each of which all tasks have the same shapes."""
        return (self,)

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray) -> Params:
        """Draw what distinguishes one task from another: a pytree of arrays."""

    @abc.abstractmethod
    def task(self, params: Params) -> Task:
        """The task that the parameters describe."""


class Wrapper(TaskFamily):
    """A family made from another one, its field `family`; a wrapped mixture is a mixture of wrapped families."""

    family: TaskFamily

    @property
    def parts(self):
        return tuple(dataclasses.replace(self, family=part) for part in self.family.parts)  # pyright: ignore[reportArgumentType]


class FamilyConfig(Config):
    """Room of the task families.

    Attributes:
      splits: what it can be built for; one without "train" has tasks that nothing is trained on.
    """

    splits: ClassVar[tuple[Split, ...]] = ("train", "test")

    kind: str

    def build(self, split: Split = "train") -> TaskFamily:
        """The family on data for meta-training ("train"), or on data that meta-training never touches ("test")."""
        raise TypeError(f"{type(self).__name__} does not define build()")

    def provenance(self) -> dict[str, Any]:
        """What else there is to say of the data that it reads, as JSON, for an artifact that was trained on them."""
        return {}
