"""Schema of the studies over a grid of settings."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from experiments.document import Baseline, Dataset, explain
from experiments.study.base import StudyConfig
from experiments.study.rates import RatesConfig
from l2o.registry import Config, kinds, nearest, parse
from tasks.datasets import DigitsConfig
from tasks.family import FamilyConfig
from tasks.networks.layers import Activation


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


class Grid(StudyConfig):
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
      optimizers, baselines: as in `experiments.study.curves.config.Curves`.
      groups: run directories of several meta-training seeds of one config, by a name for them; reported together with
        intervals over the seeds, and each apart.
      reference: the baseline, at its best rate for the whole grid, that the others are divided by.
      tune: how learning rates are chosen.
      floor: losses are clipped here before the logarithm.
    """

    shipped: ClassVar[tuple[str, ...]] = ("description", "seed", "runs", "task", "tune", "floor")
    shipped_results: ClassVar[tuple[str, ...]] = ("cells",)

    kind: Literal["grid"] = "grid"
    task: dict[str, Any]
    activations: tuple[Activation, ...] = Field(min_length=1, strict=False)
    architectures: dict[str, dict[str, Any]] = Field(min_length=1)
    horizons: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1, strict=False)
    datasets: dict[str, Dataset] = {"digits": DigitsConfig()}
    centre: Centre
    corners: Corners = Corners()
    cross: bool = False
    runs: int = Field(default=16, ge=2)
    baselines: tuple[Baseline, ...] = Field(default=(), strict=False)
    groups: dict[str, Annotated[tuple[str, ...], Field(min_length=2, strict=False)]] = {}
    reference: str = "adam"
    tune: GridTuneConfig = GridTuneConfig()
    floor: float = Field(default=1e-4, gt=0)

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
