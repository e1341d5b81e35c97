"""Schema of the studies of tuning: black-box methods on mixed search spaces, trained ones among them."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from experiments.document import Baseline, Task, explain, named_as_files, steps_within
from experiments.study.base import StudyConfig
from l2o.registry import Config
from tasks.bbob.mixed import BBOBMixedConfig
from tasks.hpo.hpo import HPOConfig
from tasks.tables import TablesConfig

TABLES = HPOConfig | TablesConfig  # families of tables, each of them a task
TUNE = "tune"  # a folder's name, beside those of the groups
Settings = dict[str, Any]


class Group(Config):
    """Tasks that are reported together.

    Attributes:
      task: of kind "hpo" or "tables", of whose test split every task is taken, or "bbob_mixed", without noise.
      instances: of each function and dimension of "bbob_mixed".
    """

    task: Task
    instances: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not isinstance(self.task, TABLES | BBOBMixedConfig):
            raise ValueError(f"task: found kind {self.task.kind!r}, expected 'hpo', 'tables' or 'bbob_mixed'")
        if isinstance(self.task, BBOBMixedConfig) and self.task.noises != ("none",):
            raise ValueError(f"task.noises: found {list(self.task.noises)}, expected ['none']")
        if isinstance(self.task, TABLES) and self.instances > 1:
            raise ValueError(f"instances: found {self.instances}, and a task of kind {self.task.kind!r} has one")
        return self


class Tune(Group):
    """Where settings are chosen: tasks that are not reported.

    Attributes:
      task: as of a group, but it is the train split of a family that has one.
      instances: as of a group.
      tasks: how many of them, drawn at random.
      runs: of every setting on each.
    """

    tasks: int = Field(default=8, ge=1)
    runs: int = Field(default=1, ge=1)


class Variant(Config):
    """A column that is a given optimizer with other settings, see `l2o.Loaded.configured`.

    Attributes:
      of: kind of the optimizer, of which one alone is given.
      settings: that are fixed.
      choices: settings that differ; where there are several, the best on the tuning tasks is reported.
      named: whether an OptFormer reads what a task, its metric and its parameters are called, where a task has names.
      runs: on each task; by default as many as the study has.
    """

    of: str = "optformer"
    settings: Settings = {}
    choices: tuple[Settings, ...] = Field(default=({},), min_length=1, strict=False)
    named: bool = True
    runs: int | None = Field(default=None, ge=1)


class Rival(Config):
    """A column that is a baseline; one that lacks a package or a file is left out, and the report says so.

    Attributes:
      optimizer: with the settings that are fixed.
      choices: as of a variant.
      runs: as of a variant.
    """

    optimizer: Baseline
    choices: tuple[Settings, ...] = Field(default=({},), min_length=1, strict=False)
    runs: int | None = Field(default=None, ge=1)

    def chosen(self, choice: Settings) -> Any:
        """The config of a choice."""
        return type(self.optimizer).model_validate(self.optimizer.model_dump() | choice)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.optimizer.reads_gradients:
            raise ValueError(f"optimizer: {self.optimizer.kind} reads gradients, and these tasks give none")
        for i, choice in enumerate(self.choices):
            try:
                self.chosen(choice)
            except ValidationError as error:
                reason = explain(error, type(self.optimizer), self.optimizer.model_dump() | choice)
                raise ValueError(f"choices.{i}: {reason}") from None
        return self


class Live(Config):
    """A check of tables: what columns found in them, by fitting models.

    Attributes:
      group: of kind "hpo".
      columns: whose best settings are tried, of the first run on each task.
      trial: after how many trials.
      view: the tasks of this part of the datasets, see `tasks.hpo.hpo.HPOConfig`.
    """

    group: str
    columns: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    trial: int = Field(default=25, ge=1)
    view: int = Field(default=0, ge=0)


class Tuning(StudyConfig):
    """A comparison of black-box methods by the best value so far; `kind = "tuning"` in a study's file.

    Attributes:
      seed: decides tasks and all other randomness, the same for every column.
      trials: of each run.
      runs: on each task.
      steps: trials after which columns are compared.
      tasks: in groups, by name.
      tune: where settings are chosen.
      variants: columns that are a given optimizer with other settings, by name.
      baselines: other columns, by name.
      compared: the column that is compared with all others.
      live: see `Live`.
      timed: whether the seconds of a suggestion are measured, too: asking for it and telling its value, in a loop on
        the host on the first task of each group, compilation apart.
      optimizers: trained ones, by name or directory. One of which there are no variants is a column of its own.
      batch: runs computed side by side.
    """

    shipped: ClassVar[tuple[str, ...]] = ("description", "seed", "runs", "trials", "tasks")

    kind: Literal["tuning"] = "tuning"
    trials: int = Field(default=50, ge=1, le=10_000)
    runs: int = Field(default=2, ge=1)
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(10, 25, 50), min_length=1, strict=False)
    tasks: dict[str, Group] = Field(min_length=1)
    tune: Tune | None = None
    variants: dict[str, Variant] = {}
    baselines: dict[str, Rival] = {}
    compared: str
    live: Live | None = None
    timed: bool = False
    batch: int = Field(default=2, ge=1)

    @property
    def columns(self) -> dict[str, Variant | Rival]:
        """By name, in the order of the report."""
        return {**self.variants, **self.baselines}

    @model_validator(mode="after")
    def _check(self) -> Self:
        steps_within(self.steps, self.trials, "trials")
        named_as_files(tasks=self.tasks, variants=self.variants, baselines=self.baselines)
        if TUNE in self.tasks:
            raise ValueError(f"tasks: found the name {TUNE!r}, expected another one")
        twice = sorted(set(self.variants) & set(self.baselines))
        if twice:
            raise ValueError(f"baselines.{twice[0]}: a variant has this name, expected another one")
        for name, column in self.columns.items():
            if (column.runs or 1) > self.runs:
                raise ValueError(f"column {name}: found {column.runs} runs, expected at most the study's {self.runs}")
            if len(column.choices) > 1 and self.tune is None:
                raise ValueError(f"column {name} has several choices, and the study has no [tune] to choose on")
        if self.live:
            group = self.tasks.get(self.live.group)
            if group is None or not isinstance(group.task, HPOConfig):
                raise ValueError(f"live.group: {self.live.group!r} is no group of tasks of kind 'hpo'")
            if self.live.trial > self.trials:
                raise ValueError(f"live.trial: found {self.live.trial}, expected at most {self.trials}")
        return self
