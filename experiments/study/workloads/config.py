"""Schema of the studies over workloads."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from experiments.document import Baseline, Task, explain, named_as_files
from experiments.study.base import StudyConfig
from experiments.study.rates import RatesConfig
from l2o.core import BaselineConfig
from l2o.registry import Config, nearest

Ladders = str | Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


class WorkloadTuneConfig(RatesConfig):
    """How settings are chosen: by the mean log final loss on the training split of each workload.

    Attributes:
      low, high: ends of the learning rates, positive.
      per_decade: how many in a factor of ten.
      runs: runs each setting is tried on, on each workload; also how many are computed side by side.
    """

    high: float = Field(default=0.3, gt=0)
    per_decade: int = Field(default=2, ge=1, le=100)
    runs: int = Field(default=2, ge=1)


class Workload(Config):
    """A training problem.

    Attributes:
      task: its family, of any kind but a mixture; settings are tuned on its training split, everything reported comes
        from its test split.
      horizon: updates in a run; those of the study when left out.
      ladder: what grows from a smaller workload to this one, "width" say; several where they begin with the same one.
      scale: how many times as large it is as the workload that the ladder begins with.
      group: what it is told of together with, "images" say.
    """

    task: Task
    horizon: int | None = Field(default=None, ge=1)
    ladder: Ladders = ""
    scale: float = Field(default=1.0, gt=0)
    group: str = ""

    @property
    def ladders(self) -> tuple[str, ...]:
        """The ladders that it is on."""
        return tuple(filter(None, (self.ladder,) if isinstance(self.ladder, str) else self.ladder))

    @property
    def in_suite(self) -> bool:
        """Whether it is no larger or smaller version of another one."""
        return self.scale == 1


class Workloads(StudyConfig):
    """A comparison of gradient optimizers on many training problems; `kind = "workloads"` in a study's file.

    The suite is all workloads of scale 1.

    Attributes:
      seed: decides starts and minibatches, the same for every optimizer.
      workloads: by their names; those whose data are not on this machine are left out, which is said.
      horizon: updates in a run, where a workload does not say otherwise.
      runs: paired runs of every optimizer on each workload.
      optimizers: learned optimizers by name or directory.
      baselines: hand-designed optimizers, by the names of their columns; a missing learning rate is tuned. One that
        needs a file which is not named is left out, which is said.
      also: more settings of a baseline, by its name and their fields: all combinations of them and the learning rates
        are tried.
      references: baselines that the others are divided by, each at its best setting of each workload.
      tune: how settings are chosen.
      floor: losses are clipped here before the logarithm.
    """

    shipped: ClassVar[tuple[str, ...]] = (
        "description", "seed", "runs", "horizon", "references", "workloads", "tune", "also", "floor",
    )  # fmt: skip

    kind: Literal["workloads"] = "workloads"
    workloads: dict[str, Workload] = Field(min_length=1)
    horizon: int = Field(default=400, ge=1)
    runs: int = Field(default=4, ge=2)
    baselines: dict[str, Baseline] = {}
    also: dict[str, dict[str, Annotated[list[Any], Field(min_length=1)]]] = {}
    references: tuple[str, ...] = Field(min_length=1, strict=False)
    tune: WorkloadTuneConfig = WorkloadTuneConfig()
    floor: float = Field(default=1e-3, gt=0, lt=1e3)

    @model_validator(mode="after")
    def _check(self) -> Self:
        named_as_files(workloads=self.workloads, baselines=self.baselines)
        for name, workload in self.workloads.items():
            if workload.scale != 1 and not workload.ladders:
                raise ValueError(f"workloads.{name}: a scale of {workload.scale:g} needs a ladder")
        if not any(workload.in_suite for workload in self.workloads.values()):
            raise ValueError("workloads: none has scale 1, where every ladder begins")
        for name, fields in self.also.items():
            if name not in self.baselines:
                raise ValueError(f"also: there is no baseline {name!r}{nearest(name, list(self.baselines))}")
            baseline = self.baselines[name]
            if not baseline.tuned or getattr(baseline, "learning_rate", None) is not None:
                raise ValueError(f"also.{name}: a baseline with a learning rate that is tuned is expected")
            for field, values in fields.items():
                for value in values:
                    changed(f"also.{name}", baseline, {field: value})
        return self

    def updates(self, name: str) -> int:
        """Updates in a run on a workload."""
        return self.workloads[name].horizon or self.horizon


def changed(where: str, baseline: BaselineConfig, fields: dict[str, Any]) -> BaselineConfig:
    """A baseline with some fields changed.

    Raises:
      ValueError: it has none of such a name, or they make no sense, or are what is tuned anyway.
    """
    if "learning_rate" in fields or "kind" in fields:
        raise ValueError(f"{where}: expected other fields than kind and learning_rate, which tune has")
    data = {field: getattr(baseline, field) for field in type(baseline).model_fields} | fields
    try:
        return type(baseline).model_validate(data)
    except ValidationError as error:
        raise ValueError(f"{where}: {explain(error, type(baseline), data)}") from None
