"""Schema of the studies of surrogates."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from experiments.document import Task
from experiments.study.base import StudyConfig
from l2o.registry import Config


class Process(Config):
    """A Gaussian process with a Matern-5/2 or squared exponential kernel.

    Attributes:
      hyperparameters: "given" are the true ones, of tasks that tell their prior; those of "own" and "botorch" are the
        most probable ones, see the field `hyperprior` of `gp_ei`.
      fit_steps: Adam steps on them.
    """

    hyperparameters: Literal["given", "own", "botorch"] = "own"
    fit_steps: int = Field(default=60, ge=1, le=10_000)


class SurrogateStudy(StudyConfig):
    """Predictions of surrogates and of Gaussian processes; `kind = "surrogates"` in a study's file.

    Attributes:
      seed: decides functions, points and noise, the same for all.
      priors: families whose functions are predicted, by name.
      told: how many points are told, each given the ones before it.
      queries: points that are predicted.
      functions: of each family.
      optimizers: learned optimizers that predict, by name or directory.
      processes: that they are compared with, by name. What is compared with the first one has an interval.
      batch: functions computed side by side.
    """

    shipped: ClassVar[tuple[str, ...]] = ("description", "seed", "functions", "told")

    kind: Literal["surrogates"] = "surrogates"
    priors: dict[str, Task] = Field(min_length=1)
    told: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 3, 10, 30, 50), min_length=1, strict=False)
    queries: int = Field(default=32, ge=1)
    functions: int = Field(default=64, ge=2)
    processes: dict[str, Process] = Field(default_factory=lambda: {"gp": Process()})
    batch: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.told) != sorted(set(self.told)):
            raise ValueError(f"told must increase, found {', '.join(map(str, self.told))}")
        return self
