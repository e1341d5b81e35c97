"""Schema of the studies of imitation: does a prompted model behave as the teacher does that its prompt names."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from experiments.study.base import StudyConfig
from experiments.study.optformers import Imitated
from l2o.registry import nearest
from tasks.bbob.mixed import HELD_OUT, TRAIN, BBOBMixedConfig


class Imitation(StudyConfig):
    """A comparison of an OptFormer with the teachers that it is prompted as; `kind = "imitation"` in a study's file.

    Attributes:
      seed: decides tasks and all other randomness, the same for teachers and models.
      task: what they are compared on, by default functions that no bundled recording has.
      teachers: at least two, of different names.
      trials: of each run.
      instances: tasks of each function and dimension, one run of every teacher and of every prompt on each.
      examples: tasks of each function of `tasks.bbob.mixed.TRAIN` that is none of the task's, and of each dimension,
        from which a classifier learns to tell the teachers apart.
      relative_to: the teacher whose median value is 1 where values are normalised.
      optimizers: trained OptFormers, by name or directory.
      batch: runs computed side by side.
    """

    shipped: ClassVar[tuple[str, ...]] = ("description", "seed", "instances", "trials", "task")

    kind: Literal["imitation"] = "imitation"
    task: BBOBMixedConfig = BBOBMixedConfig(functions=HELD_OUT, dimensions=(2, 3, 4), noises=("none",))
    teachers: tuple[Imitated, ...] = Field(min_length=2, strict=False)
    trials: int = Field(default=40, ge=4, le=10_000)
    instances: int = Field(default=8, ge=2)
    examples: int = Field(default=8, ge=1)
    relative_to: str = "random"
    batch: int = Field(default=8, ge=1)

    @property
    def algorithms(self) -> list[str]:
        """Names of the teachers."""
        return [teacher.name for teacher in self.teachers]

    @property
    def steps(self) -> list[int]:
        """The trials after which the best value is reported: each quarter of a run."""
        return [self.trials * quarter // 4 for quarter in (1, 2, 3, 4)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = sorted({name for name in self.algorithms if self.algorithms.count(name) > 1})
        if twice:
            raise ValueError(f"teachers: found two named {twice[0]!r}, expected different names")
        if self.relative_to not in self.algorithms:
            hint = nearest(self.relative_to, self.algorithms)
            raise ValueError(f"relative_to: {self.relative_to!r}{hint} is none of the teachers")
        if not set(TRAIN) - set(self.task.functions):
            raise ValueError("task.functions: found all functions of examples, expected to leave some of them out")
        return self
