"""Schema of the studies of prediction: how well a model, and a Gaussian process, tell the value of the next trial."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from experiments.document import steps_within
from experiments.study.base import StudyConfig
from experiments.study.optformers import Imitated
from l2o.registry import Config
from tasks.bbob.bbob import FunctionName
from tasks.bbob.mixed import HELD_OUT, BBOBMixedConfig
from tasks.hpo.hpo import HPOConfig

GroupName = Literal["bbob", "hpo"]


class Surrogate(Config):
    """A way to fit a Gaussian process.

    Attributes:
      kernel: Matern-5/2 or squared exponential, with a length scale for each parameter.
      fit_steps: Adam steps on the hyperparameters, from each of several first guesses.
      noise_floor: least variance of the noise, as a part of that of the function.
      hyperprior: maximise the posterior of the hyperparameters; otherwise their likelihood alone.
    """

    kernel: Literal["matern", "squared_exponential"] = "matern"
    fit_steps: int = Field(default=60, ge=1, le=10_000)
    noise_floor: float = Field(default=1e-5, ge=1e-8, le=0.5)
    hyperprior: bool = True

    @property
    def label(self) -> str:
        """A name for tables and files."""
        start = {"matern": "matern", "squared_exponential": "se"}[self.kernel]
        return f"{start}-{self.fit_steps}-{self.noise_floor:g}{'' if self.hyperprior else '-ml'}"


class PredictionTuneConfig(Config):
    """What is tuned, on tasks that models are trained on, by log-likelihood, for each group of tasks apart.

    Attributes:
      functions: of BBOB, none of which is predicted on.
      instances: tasks of each of them and of each dimension.
      hpo: family whose training tasks are taken.
      tasks: how many of these, drawn at random.
      repeats: runs of every teacher on each.
      temperatures: that the model's logits of values may be divided by.
      surrogates: fits of the Gaussian process.
      inflations: factors of its predictive standard deviation.
      uniforms: shares of the uniform distribution that is mixed with what it predicts.
    """

    functions: tuple[FunctionName, ...] = Field(min_length=1, strict=False)
    instances: int = Field(default=2, ge=1)
    hpo: HPOConfig = HPOConfig()
    tasks: int = Field(default=24, ge=1)
    repeats: int = Field(default=1, ge=1)
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1.0,), min_length=1, strict=False)
    surrogates: tuple[Surrogate, ...] = Field(default=(Surrogate(),), min_length=1, strict=False)
    inflations: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1.0,), min_length=1, strict=False)
    uniforms: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(default=(0.0,), min_length=1, strict=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        labels = [surrogate.label for surrogate in self.surrogates]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"surrogates: found {twice[0]} twice, expected different ones")
        return self


class PredictionStudy(StudyConfig):
    """Predictions of an OptFormer and of a Gaussian process; `kind = "prediction"` in a study's file.

    Attributes:
      seed: decides tasks and all other randomness, the same for both.
      groups: of tasks, reported apart.
      bbob: the functions that are predicted, by default those that no bundled recording has.
      instances: tasks of each of these functions and of each dimension.
      hpo: the family whose test split is predicted.
      repeats: runs of every teacher on each of its tasks.
      teachers: whose runs are read.
      trials: of each run.
      steps: which trials are predicted, counted from 1, each given all trials before it.
      tuning: what is tuned, and on what.
      optimizers: trained OptFormers, by name or directory.
      batch: runs computed side by side.
    """

    shipped: ClassVar[tuple[str, ...]] = ("description", "seed", "steps", "trials", "groups")

    kind: Literal["prediction"] = "prediction"
    groups: tuple[GroupName, ...] = Field(default=("bbob", "hpo"), min_length=1, strict=False)
    bbob: BBOBMixedConfig = BBOBMixedConfig(functions=HELD_OUT, dimensions=(2, 3, 4), noises=("none",))
    instances: int = Field(default=4, ge=1)
    hpo: HPOConfig = HPOConfig()
    repeats: int = Field(default=2, ge=1)
    teachers: tuple[Imitated, ...] = Field(min_length=1, strict=False)
    trials: int = Field(default=40, ge=4, le=10_000)
    steps: tuple[Annotated[int, Field(ge=3)], ...] = Field(default=(5, 10, 20, 30, 40), min_length=1, strict=False)
    tuning: PredictionTuneConfig
    batch: int = Field(default=8, ge=1)

    @property
    def algorithms(self) -> list[str]:
        """Names of the teachers."""
        return [teacher.name for teacher in self.teachers]

    @model_validator(mode="after")
    def _check(self) -> Self:
        steps_within(self.steps, self.trials, "trials")
        for what, names in (("groups", self.groups), ("teachers", self.algorithms)):
            twice = sorted({name for name in names if list(names).count(name) > 1})
            if twice:
                raise ValueError(f"{what}: found two named {twice[0]!r}, expected different names")
        both = sorted(set(self.bbob.functions) & set(self.tuning.functions))
        if both:
            raise ValueError(f"tuning.functions: found {both[0]!r}, which is predicted, expected other functions")
        return self
