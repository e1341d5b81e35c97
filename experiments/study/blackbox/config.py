"""Schema of the studies of black-box optimizers."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from experiments.document import Baseline, Task, named_as_files, steps_within
from experiments.study.base import StudyConfig


class BlackBox(StudyConfig):
    """A comparison of black-box optimizers by simple regret; `kind = "blackbox"` in a study's file.

    Attributes:
      seed: decides tasks and all other randomness, the same for every optimizer.
      tasks: task families with bounds, by the names of their cells; what is run comes from their test splits.
      evaluations: of each run.
      runs: paired runs of every optimizer in each cell.
      steps: numbers of evaluations after which the regret is reported.
      workers: evaluations in progress at a time, whose results arrive out of order, see `l2o.asynchronous`; with more
        than one, every optimizer must ask for one point at a time and run under jit.
      optimizers: learned optimizers by name or directory.
      baselines: hand-designed optimizers, by the names of their columns.
      groups: run directories of several meta-training seeds of one config, by a name for them; reported together with
        intervals over the seeds, and each apart.
      relative_to: the column, random search say, whose mean regret that of the others is divided by.
      reference: the column, the best one that is known, for the gap `(regret - reference) / relative_to`.
      batch: runs computed side by side.
      floor: smaller regrets count as equal, as values have single precision, and log axes end here.
    """

    shipped: ClassVar[tuple[str, ...]] = ("description", "seed", "runs", "evaluations", "tasks")

    kind: Literal["blackbox"] = "blackbox"
    tasks: dict[str, Task] = Field(min_length=1)
    evaluations: int = Field(default=100, ge=1)
    runs: int = Field(default=64, ge=2)
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(20, 50, 100), min_length=1, strict=False)
    workers: int = Field(default=1, ge=1, le=1000)
    baselines: dict[str, Baseline] = {}
    groups: dict[str, Annotated[tuple[str, ...], Field(min_length=2, strict=False)]] = {}
    relative_to: str | None = None
    reference: str | None = None
    batch: int = Field(default=64, ge=1)
    floor: float = Field(default=1e-6, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        steps_within(self.steps, self.evaluations, "evaluations")
        named_as_files(tasks=self.tasks, baselines=self.baselines)
        if self.reference is not None and self.relative_to is None:
            raise ValueError("reference needs relative_to, the column that the gap is divided by")
        return self
