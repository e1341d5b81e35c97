"""Typed schema of experiments and studies.

Each room of the project owns its configuration classes; this file only composes them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, SerializeAsAny, ValidationError, model_validator

from experiments.document import HERE, Baseline, Dataset, Document, Task, explain, named_as_files, steps_within
from experiments.study.imitation.config import Imitation
from experiments.study.population.config import Population
from experiments.study.prediction.config import Prediction
from experiments.study.tuning.config import Tuning
from l2o.core import OptimizerConfig
from l2o.errors import UserError
from l2o.loaded import Loaded, load
from l2o.registry import Config, by_kind, kinds, nearest, parse
from meta.trainer import MetaConfig
from tasks.datasets import DigitsConfig
from tasks.family import FamilyConfig
from tasks.supervised import Activation


class Experiment(Document):
    """What `l2o train` runs: meta-train one optimizer on one task family.

    Attributes:
      seed: decides everything random, 0 to 2^31 - 1.
      optimizer: a learned optimizer's architecture.
      task: the family it is trained on.
      meta: how.

    >>> from experiments import Experiment
    >>> Experiment.load("lstm_digits").optimizer.kind
    'lstm'
    """

    seed: int = Field(default=0, ge=0, lt=2**31)
    optimizer: Annotated[SerializeAsAny[OptimizerConfig], by_kind(OptimizerConfig)]
    task: Task
    meta: MetaConfig

    @classmethod
    def folder(cls) -> Path:
        return HERE / "configs"

    def train(self, out: str | Path | None = None, *, resume: bool = False, quiet: bool = False) -> Loaded:
        """Meta-train; returns the trained optimizer. The run directory is `out`, by default a fresh runs/<kind>-<n>.

        Raises:
          UserError: `out` is not empty and `resume` is not set, or the data or a starting optimizer is missing.
        """
        from experiments.run import fresh_directory, train

        path = Path(out) if out is not None else fresh_directory(f"{self.optimizer.kind}_{self.task.kind}")
        train(self, path, resume=resume, quiet=quiet)
        return load(path)


def _measure(value: Any) -> str | int:
    if value in ("each", "mean") or (type(value) is int and value >= 1):
        return value
    raise ValueError(f'found {value!r}, expected "each", "mean" or a step of at least 1')


class RatesConfig(Config):
    """The learning rates that are tried.

    Attributes:
      low, high: their ends, positive.
      per_decade: how many in a factor of ten.
    """

    low: float = Field(default=1e-3, gt=0)
    high: float = Field(default=30.0, gt=0)
    per_decade: int = Field(default=10, ge=1, le=100)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, found {self.low} and {self.high}")
        return self


class TuneConfig(RatesConfig):
    """How a study chooses the learning rate of each baseline, on the training family.

    Attributes:
      runs: tasks each rate is tried on.
      measure: "each" chooses a rate for every reported measure apart (the strictest for a learned optimizer), "mean"
        or the number of a step choose one rate for all.
    """

    runs: int = Field(default=32, ge=1)
    measure: Annotated[str | int, PlainValidator(_measure)] = "each"


class Study(Document):
    """What `l2o study` runs: a comparison on tasks that meta-training never saw.

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

    seed: int = Field(default=0, ge=0, lt=2**31)
    task: Task
    horizon: int = Field(default=200, ge=1)
    runs: int = Field(default=64, ge=2)
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(100, 200), min_length=1, strict=False)
    optimizers: tuple[str, ...] = Field(default=(), strict=False)
    baselines: tuple[Baseline, ...] = Field(default=(), strict=False)
    tune: TuneConfig = TuneConfig()
    batch: int = Field(default=16, ge=1)

    @classmethod
    def folder(cls) -> Path:
        return HERE / "studies"

    @model_validator(mode="after")
    def _check(self) -> Self:
        late = [step for step in (*self.steps, self.tune.measure) if isinstance(step, int) and step > self.horizon]
        if late:
            raise ValueError(f"step {late[0]} lies beyond the horizon of {self.horizon}")
        return self


class GridTuneConfig(RatesConfig):
    """How a grid chooses learning rates: by the mean log final loss on the training split of each cell.

    Attributes:
      runs: runs each rate is tried on, in each cell; also how many are computed side by side.
    """

    high: float = Field(default=10.0, gt=0)
    per_decade: int = Field(default=3, ge=1, le=100)
    runs: int = Field(default=8, ge=1)


class Centre(Config):
    """The setting from which one factor at a time is changed."""

    activation: Activation
    architecture: str
    horizon: int = Field(ge=1)
    dataset: str = "digits"


class Corners(Config):
    """All combinations of these are run too."""

    activations: tuple[Activation, ...] = Field(default=(), strict=False)
    architectures: tuple[str, ...] = Field(default=(), strict=False)
    horizons: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), strict=False)


class Grid(Document):
    """A study over activations, architectures and horizons; `kind = "grid"` in a study's file.

    Attributes:
      seed: decides starts and minibatches, the same for every optimizer.
      task: fields of the task family that all cells share.
      activations, horizons: what is varied.
      architectures: fields of the task family that make each architecture, by its name.
      datasets: datasets by their name; those that are not on this machine are left out.
      centre: see `Centre`; it also stands for the family that a person would tune on.
      corners: see `Corners`.
      cross: run every combination instead of one factor at a time and the corners.
      runs: paired runs of every optimizer in each cell.
      optimizers, baselines: as in `Study`.
      groups: run directories of several meta-training seeds of one config, by a name for them; reported together with
        intervals over the seeds, and each apart.
      reference: the baseline, at its best rate for the whole grid, that the others are divided by.
      tune: how learning rates are chosen.
      floor: losses are clipped here before the logarithm.
    """

    kind: Literal["grid"] = "grid"
    seed: int = Field(default=0, ge=0, lt=2**31)
    task: dict[str, Any]
    activations: tuple[Activation, ...] = Field(min_length=1, strict=False)
    architectures: dict[str, dict[str, Any]] = Field(min_length=1)
    horizons: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1, strict=False)
    datasets: dict[str, Dataset] = {"digits": DigitsConfig()}
    centre: Centre
    corners: Corners = Corners()
    cross: bool = False
    runs: int = Field(default=16, ge=2)
    optimizers: tuple[str, ...] = Field(default=(), strict=False)
    baselines: tuple[Baseline, ...] = Field(default=(), strict=False)
    groups: dict[str, Annotated[tuple[str, ...], Field(min_length=2, strict=False)]] = {}
    reference: str = "adam"
    tune: GridTuneConfig = GridTuneConfig()
    floor: float = Field(default=1e-4, gt=0)

    @classmethod
    def folder(cls) -> Path:
        return HERE / "studies"

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in (self.centre.architecture, *self.corners.architectures):
            if name not in self.architectures:
                raise ValueError(f"architectures has no {name!r}{nearest(name, list(self.architectures))}")
        if self.centre.dataset not in self.datasets:
            raise ValueError(
                f"datasets has no {self.centre.dataset!r}{nearest(self.centre.dataset, list(self.datasets))}"
            )
        for name, fields in self.architectures.items():
            data = {**self.task, **fields, "activation": self.centre.activation}
            try:
                parse(FamilyConfig, data)
            except ValidationError as error:
                known = kinds(FamilyConfig).get(data.get("kind", ""), FamilyConfig)
                raise ValueError(f"architectures.{name}: {explain(error, known, data)}") from None
        return self


class BlackBox(Document):
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
      groups: as in `Grid`.
      relative_to: the column, random search say, whose mean regret that of the others is divided by.
      reference: the column, the best one that is known, for the gap `(regret - reference) / relative_to`.
      batch: runs computed side by side.
      floor: smaller regrets count as equal, as values have single precision, and log axes end here.
    """

    kind: Literal["blackbox"] = "blackbox"
    seed: int = Field(default=0, ge=0, lt=2**31)
    tasks: dict[str, Task] = Field(min_length=1)
    evaluations: int = Field(default=100, ge=1)
    runs: int = Field(default=64, ge=2)
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(20, 50, 100), min_length=1, strict=False)
    workers: int = Field(default=1, ge=1, le=1000)
    optimizers: tuple[str, ...] = Field(default=(), strict=False)
    baselines: dict[str, Baseline] = {}
    groups: dict[str, Annotated[tuple[str, ...], Field(min_length=2, strict=False)]] = {}
    relative_to: str | None = None
    reference: str | None = None
    batch: int = Field(default=64, ge=1)
    floor: float = Field(default=1e-6, gt=0)

    @classmethod
    def folder(cls) -> Path:
        return HERE / "studies"

    @model_validator(mode="after")
    def _check(self) -> Self:
        steps_within(self.steps, self.evaluations, "evaluations")
        named_as_files(tasks=self.tasks, baselines=self.baselines)
        if self.reference is not None and self.relative_to is None:
            raise ValueError("reference needs relative_to, the column that the gap is divided by")
        return self


Comparison = Study | Grid | BlackBox | Population  # of several optimizers
AnyStudy = Comparison | Imitation | Prediction | Tuning
CellStudy = type[Grid] | type[BlackBox] | type[Population] | type[Imitation] | type[Prediction] | type[Tuning]
STUDIES: dict[str, CellStudy] = {
    "grid": Grid, "blackbox": BlackBox, "population": Population, "imitation": Imitation, "prediction": Prediction,
    "tuning": Tuning,
}  # fmt: skip


def load_study(name_or_path: str | Path, overrides: Sequence[str] = ()) -> AnyStudy:
    """A study of any kind.

    Raises:
      UserError: as `Document.load`.
    """
    data, source = Study.read(name_or_path, overrides)
    kind = data.get("kind")
    if kind is None:
        return Study.parse(data, source)
    if kind not in list(STUDIES):
        hint = nearest(kind, list(STUDIES))
        raise UserError(f"{source}: unknown kind {kind!r}{hint}, expected one of {', '.join(STUDIES)}, or none")
    return STUDIES[kind].parse(data, source)
