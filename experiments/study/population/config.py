"""Schema of the studies of evolution strategies."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from experiments.document import Baseline, Task, named_as_files, steps_within
from experiments.study.base import StudyConfig
from l2o.registry import Config, nearest
from tasks.bbob.functions import FUNCTIONS

Dimensions = tuple[Annotated[int, Field(ge=2, le=1000)], ...]


class Trained(Config):
    """What meta-training saw; cells outside are held out.

    Attributes:
      functions: of BBOB; none for no such distinction.
      dimensions: likewise.
    """

    functions: tuple[str, ...] = Field(default=(), strict=False)
    dimensions: Dimensions = Field(default=(), strict=False)

    @field_validator("functions")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in FUNCTIONS:
                hint = nearest(name, list(FUNCTIONS))
                raise ValueError(f"unknown function {name!r}{hint}, expected some of {', '.join(FUNCTIONS)}")
        return names


class PopulationTune(Config):
    """How a study tunes every column, learned or not, for each family of tasks: by the mean rank at the end of runs on
    its training split, or, for BBOB, on instances of the functions that meta-training saw.

    Ranked are the lowest values, or, in a study with measures, what is judged in the last generations.

    Attributes:
      scales: what the initial standard deviation that a task gives is multiplied with.
      learning_rates: for columns that have one and leave it open.
      runs: in each cell.
      dimensions: of BBOB; none for those of the study.
    """

    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.1, 0.3, 1.0, 3.0), min_length=1, strict=False)
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.01, 0.03, 0.1, 0.3), min_length=1, strict=False
    )
    runs: int = Field(default=8, ge=1)
    dimensions: Dimensions = Field(default=(10,), strict=False)


class Population(StudyConfig):
    """A comparison of evolution strategies on free spaces; `kind = "population"` in a study's file.

    Attributes:
      seed: decides tasks and all other randomness, the same for every optimizer.
      tasks: task families; what is run comes from their test splits. Each is a cell of its name, but `bbob` is one for
        each dimension and function: "sphere-d10".
      population_size: of every column that has one. Others get as many rounds as fit into the same evaluations.
      generations: of populations of that size, in each run.
      runs: paired runs of every optimizer in each cell.
      steps: generations after which columns are compared.
      trained: see `Trained`.
      tune: see `PopulationTune`.
      measures: measures of tasks, such as "heldout_accuracy", to be reported too: at the best member of the last
        generation, wherever a task has them.
      higher: whether a higher measure is the better one.
      optimizers: learned optimizers by name or directory.
      baselines: other optimizers, by the names of their columns.
      batch: runs computed side by side.
      floor: smaller regrets count as equal, and the colours of the figure end here.
    """

    shipped: ClassVar[tuple[str, ...]] = ("description", "seed", "runs", "generations", "population_size", "tasks")

    kind: Literal["population"] = "population"
    tasks: dict[str, Task] = Field(min_length=1)
    population_size: int = Field(default=16, ge=2)
    generations: int = Field(default=256, ge=1)
    runs: int = Field(default=15, ge=2)
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(64, 256), min_length=1, strict=False)
    trained: Trained = Trained()
    tune: PopulationTune = PopulationTune()
    measures: tuple[str, ...] = Field(default=(), strict=False)
    higher: bool = True
    baselines: dict[str, Baseline] = {}
    batch: int = Field(default=32, ge=1)
    floor: float = Field(default=1e-8, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        steps_within(self.steps, self.generations, "generations")
        named_as_files(tasks=self.tasks, baselines=self.baselines)
        return self
