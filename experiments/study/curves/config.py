"""Schema of the studies of losses."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PlainValidator, model_validator

from experiments.document import Baseline, Task
from experiments.study.base import StudyConfig
from experiments.study.rates import RatesConfig


def _known_measure(value: Any) -> str | int:
    if value in ("each", "mean") or (type(value) is int and value >= 1):
        return value
    raise ValueError(f'found {value!r}, expected "each", "mean" or a step of at least 1')


class TuneConfig(RatesConfig):
    """How a study chooses the learning rate of each baseline, on the training family.

    Attributes:
      runs: tasks each rate is tried on.
      measure: "each" chooses a rate for every reported measure apart (the strictest for a learned optimizer), "mean"
        or the number of a step choose one rate for all.
    """

    runs: int = Field(default=32, ge=1)
    measure: Annotated[str | int, PlainValidator(_known_measure)] = "each"


class Curves(StudyConfig):
    """A comparison by loss, step by step, on tasks that meta-training never saw; the kind of a file that names none.

    Attributes:
      seed: decides starts and minibatches, the same for every optimizer.
      task: the family; rates are tuned on its training split, everything reported comes from its test split.
      horizon: updates in a run.
      runs: paired runs of every optimizer.
      steps: the steps whose loss is reported, and up to which the mean loss of a run is.
      optimizers: learned optimizers by name or directory.
      baselines: hand-designed optimizers; a missing learning rate is tuned.
      tune: how.
      batch: runs computed side by side.
    """

    shipped: ClassVar[tuple[str, ...]] = ("description", "seed", "runs", "horizon", "task")
    shipped_results: ClassVar[tuple[str, ...]] = ("comparisons",)

    kind: Literal["curves"] = "curves"
    task: Task
    horizon: int = Field(default=200, ge=1)
    runs: int = Field(default=64, ge=2)
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(100, 200), min_length=1, strict=False)
    baselines: tuple[Baseline, ...] = Field(default=(), strict=False)
    tune: TuneConfig = TuneConfig()
    batch: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        late = [step for step in (*self.steps, self.tune.measure) if isinstance(step, int) and step > self.horizon]
        if late:
            raise ValueError(f"step {late[0]} lies beyond the horizon of {self.horizon}")
        return self
