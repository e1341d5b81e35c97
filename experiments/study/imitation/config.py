"""Schema of the studies of imitation: does a prompted model behave as the teacher does that its prompt names."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from experiments.document import HERE, Document
from l2o.baselines.optax import TunedConfig
from l2o.core import BaselineConfig
from l2o.record import ALGORITHMS
from l2o.registry import Config, by_kind, nearest
from tasks.bbob.mixed import HELD_OUT, TRAIN, BBOBMixedConfig


class Imitated(Config):
    """A teacher, as in the configs of `l2o data`.

    Attributes:
      optimizer: a baseline that runs under jit.
      algorithm: its name in the prompt; by default the optimizer's kind.
    """

    optimizer: Annotated[SerializeAsAny[BaselineConfig], by_kind(BaselineConfig)]
    algorithm: str | None = None

    @property
    def name(self) -> str:
        """One of `ALGORITHMS`."""
        return self.algorithm or self.optimizer.kind

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name not in ALGORITHMS:
            hint = nearest(self.name, list(ALGORITHMS))
            raise ValueError(f"algorithm: found {self.name!r}{hint}, expected one of {', '.join(ALGORITHMS)}")
        if isinstance(self.optimizer, TunedConfig):
            raise ValueError(f"optimizer: {self.optimizer.kind} reads gradients, and these tasks give none")
        return self


class Imitation(Document):
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

    kind: Literal["imitation"] = "imitation"
    seed: int = Field(default=0, ge=0, lt=2**31)
    task: BBOBMixedConfig = BBOBMixedConfig(functions=HELD_OUT, dimensions=(2, 3, 4), noises=("none",))
    teachers: tuple[Imitated, ...] = Field(min_length=2, strict=False)
    trials: int = Field(default=40, ge=4, le=10_000)
    instances: int = Field(default=8, ge=2)
    examples: int = Field(default=8, ge=1)
    relative_to: str = "random"
    optimizers: tuple[str, ...] = Field(default=(), strict=False)
    batch: int = Field(default=8, ge=1)

    @classmethod
    def folder(cls) -> Path:
        return HERE / "studies"

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
