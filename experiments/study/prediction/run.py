"""A study of prediction: how well does an OptFormer tell the value of the next trial, against a Gaussian process?

Teachers make runs on tasks that no model has seen. Of some trials in each, the model and the process predict the value,
p(y_t | metadata, trials before, x_t), as a distribution over the same bins.

Both see the same trials: those before, and the point whose value is asked for, in the unit cube. Values are scaled by
the range of the trials before, on the model's own scale (`l2o.optformer.prompt.Range`), and truths by the same range.
What is before is told to the process as it is, and to the model as tokens. The model is told the metadata, too, as the
task has them: names of the hpo tasks, types alone of BBOB's, and the algorithm, or in a column of its own that it is
unknown. The process is a normal distribution, integrated over the bins, on a scale without the kink that the model's
has at the least value. Values beyond the unit interval count as in the first or last bin, and so does the process's
mass there; or it is truncated to the interval and normalised, as Chen et al. (2022) do: what is likelier on the tasks
to tune on is compared with, and the truncated one stands beside it.

Trials that failed are in histories: as a token of their own, and for the process as the worst value. As targets they
are left out, and so is what has no two different values before it, as there is no range then.
"""

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.study.optformers import Model, models, teachers
from experiments.study.pieces import Arrays, Pieces, in_batches
from experiments.study.prediction.choice import Chosen, Predicted, chosen
from experiments.study.prediction.config import GroupName, PredictionStudy
from experiments.study.prediction.gp import predictor
from experiments.study.prediction.model import logits_of, named, prompts, scaled
from l2o.core import Optimizer
from l2o.errors import UserError
from l2o.optformer.model import SLOTS
from l2o.optformer.prompt import prompt
from l2o.space.domain import Space
from meta.recordings.rollouts import rollout
from tasks.family import Split, TaskFamily

UNKNOWN = "unknown"


class PredictionCell(NamedTuple):
    """Tasks of one function in one dimension, or one tuning task.

    Attributes:
      name: "bbob-test-f1_sphere-2d".
      group: that it is reported in.
      split: "train" where it is for tuning.
      dimension: parameters of its tasks.
      family: where they come from; those of one group and dimension differ in data alone.
      seeds: of the runs, the same for every teacher.
    """

    name: str
    group: GroupName
    split: Split
    dimension: int
    family: TaskFamily
    seeds: np.ndarray

    @property
    def tasks(self) -> list[str]:
        """What task each seed stands for: an instance of its own of a function, or always the same one."""
        apart = self.group == "bbob"
        return [f"{self.name}-{i}" if apart else self.name for i in range(len(self.seeds))]


class Plan(NamedTuple):
    """What is going to be run.

    Attributes:
      study: what was asked for.
      models: the OptFormers.
      teachers: by name.
      cells: what is predicted, and what is tuned on.
    """

    study: PredictionStudy
    models: list[Model]
    teachers: dict[str, Optimizer]
    cells: list[PredictionCell]

    def of(self, split: Split, group: GroupName | None = None) -> list[PredictionCell]:
        """The cells of a split, in all groups or in one."""
        return [cell for cell in self.cells if cell.split == split and group in (None, cell.group)]

    @property
    def opening(self) -> str:
        """How much it is."""
        return (
            f"values of trials {', '.join(map(str, self.study.steps))} of runs of {', '.join(self.teachers)}:"
            f" {len(self.of('test'))} cells, and {len(self.of('train'))} to tune on"
        )

    @property
    def pieces(self) -> int:
        """Those that do not depend on what is chosen: of teachers, models, and processes on tasks to tune on."""
        both = len(self.cells) * (len(self.teachers) + len(self.models))
        return (
            both + len(self.of("test")) * len(self.models) + len(self.of("train")) * len(self.study.tuning.surrogates)
        )


class Reading(NamedTuple):
    """What was predicted of the tasks of a group that are reported, for one model.

    Attributes:
      model: which.
      choice: what was chosen on other tasks.
      told: logits of the model when it is told the algorithm.
      untold: when it is not.
      normals: of processes, by the label of the fit.
      asked: predictions, those included that do not count.
    """

    model: Model
    choice: Chosen
    told: Predicted
    untold: Predicted
    normals: dict[str, Predicted]
    asked: int


Found = dict[GroupName, list[Reading]]


def plan(study: PredictionStudy) -> Plan:
    """What a study is going to run.

    Raises:
      UserError: an optimizer does not exist or does not fit.
    """
    return Plan(study, models(study), teachers(study), cells(study))


def cells(study: PredictionStudy) -> list[PredictionCell]:
    """All cells, those of one group and dimension after each other; one does not depend on which others there are.

    Raises:
      UserError: more parameters than an OptFormer reads, or no hpo task in a split.
    """
    if max(study.bbob.dimensions) > SLOTS:
        raise UserError(f"bbob.dimensions: found {max(study.bbob.dimensions)}, expected at most {SLOTS}")
    tuning, found = study.tuning, []

    def add(group: GroupName, split: Split, dimension: int, family: Any, count: int) -> None:
        name = f"{group}-{split}-{family.origin}-{dimension}d"
        sequence = np.random.SeedSequence(study.seed, spawn_key=(zlib.crc32(name.encode()),))
        found.append(PredictionCell(name, group, split, dimension, family, sequence.generate_state(count)))

    if "bbob" in study.groups:
        held_out = len(study.bbob.functions)
        both = study.bbob.model_copy(update={"functions": (*study.bbob.functions, *tuning.functions)})
        for d, families in both.indexed().items():
            for family in families[:held_out]:
                add("bbob", "test", d, family, study.instances)
            for family in families[held_out:]:
                add("bbob", "train", d, family, tuning.instances)
    if "hpo" in study.groups:
        tested, trained = study.hpo.indexed("test"), tuning.hpo.indexed("train")
        every = [(d, family) for d, families in trained.items() for family in families]
        order = np.random.default_rng(study.seed).permutation(len(every))[: tuning.tasks]
        for d in sorted({*tested, *trained}):
            for family in tested.get(d, ()):
                add("hpo", "test", d, family, study.repeats)
            for i in sorted(order):
                if every[i][0] == d:
                    add("hpo", "train", d, every[i][1], tuning.repeats)
    return found


class Made:
    """What was made of each cell.

    Args:
      study: what is asked.
      every: all cells.
      pieces: makes what is not there yet.
    """

    def __init__(self, study: PredictionStudy, every: Sequence[PredictionCell], pieces: Pieces):
        self.study, self._pieces = study, pieces
        self._made: dict[tuple[str, str], Arrays] = {}
        self._targets: dict[str, Arrays] = {}
        self._scaled = scaled(study.steps)
        rooms: dict[int, int] = {}  # one length of metadata for each dimension, so that it is one program
        for cell in every:
            record = named(cell.family, UNKNOWN)
            if record is not None:
                rooms[cell.dimension] = max(rooms.get(cell.dimension, 0), prompt(record).token.size)
        self._rooms = rooms

    def _make(
        self, cell: PredictionCell, file: str, what: str, given: Callable[[], Any], program: Callable[[Any], Any]
    ) -> None:
        def batches() -> Arrays:
            return in_batches(program, given(), self.study.batch)  # always as many, so that it is one program

        if (cell.name, file) not in self._made:
            made = self._pieces(f"cells/{cell.name}/{file}", f"{what} on {cell.name}", batches)
            self._made[cell.name, file] = made

    def of_teacher(self, name: str, cell: PredictionCell, program: Callable[[Any], Any]) -> None:
        """Runs of a teacher."""
        self._make(cell, name, name, lambda: cell.seeds, program)

    def of_teachers(self, cell: PredictionCell) -> Arrays:
        """Runs of all teachers that were made, teacher after teacher."""
        made = [self._made[cell.name, name] for name in self.study.algorithms]
        return {name: np.concatenate([arrays[name] for arrays in made]) for name in made[0]}

    def targets(self, cell: PredictionCell) -> Arrays:
        """What there is to predict of them, see `scaled`."""
        if cell.name not in self._targets:
            found = self._scaled(self.of_teachers(cell))
            self._targets[cell.name] = {name: np.asarray(a) for name, a in found.items()}
        return self._targets[cell.name]

    def told(self, cell: PredictionCell, known: bool) -> Any:
        """What a model reads of them; the algorithm only where that is to be known."""
        runs = self.of_teachers(cell)
        space = Space(**{name: jnp.asarray(runs[name]) for name in Space._fields})
        names = [name if known else UNKNOWN for name in self.study.algorithms for _ in cell.seeds]
        return runs["x"], runs["y"], space, prompts(cell.family, space, names, self._rooms.get(cell.dimension, 0))

    def of_model(self, model: Model, cell: PredictionCell, known: bool, program: Callable[[Any, Any], Any]) -> None:
        """What a model predicts of these runs."""
        file, given = _file_of_model(model, known), partial(self.told, cell, known)
        self._make(cell, file, model.name, given, partial(program, model.theta))

    def of_process(self, label: str, cell: PredictionCell, program: Callable[[Any], Any]) -> None:
        """What a process that is fitted in this way predicts."""

        def given() -> Arrays:
            found = self.targets(cell)
            return {name: found[name] for name in ("u", "categories", "share", "step")}

        self._make(cell, f"gp-{label}", label, given, program)

    def logits(self, some: Sequence[PredictionCell], model: Model, known: bool) -> Predicted:
        """All that a model predicted in these cells."""
        return self._with_truths(some, [self._made[cell.name, _file_of_model(model, known)]["logits"] for cell in some])

    def normals(self, some: Sequence[PredictionCell], label: str) -> Predicted:
        """All that a process predicted in them."""
        made = [self._made[cell.name, f"gp-{label}"] for cell in some]
        return self._with_truths(some, [np.stack([arrays["mean"], arrays["deviation"]], -1) for arrays in made])

    def _with_truths(self, some: Sequence[PredictionCell], values: list[np.ndarray]) -> Predicted:
        """With the truths, one row for each prediction that counts."""
        names, steps = self.study.algorithms, len(self.study.steps)
        targets = [self.targets(cell) for cell in some]

        def flat(name: str) -> np.ndarray:
            return np.concatenate([target[name].reshape(-1) for target in targets])

        usable = flat("usable")
        tasks = [task for cell in some for _ in names for task in cell.tasks]
        teachers = [name for cell in some for name in names for _ in cell.seeds]
        return Predicted(
            np.concatenate([a.reshape(-1, a.shape[-1]) for a in values])[usable],
            flat("truth")[usable].astype(np.float64), np.repeat(tasks, steps)[usable],
            np.repeat(teachers, steps)[usable], flat("step")[usable], flat("curved")[usable].astype(np.float64),
        )  # fmt: skip


def _file_of_model(model: Model, known: bool) -> str:
    return model.identity if known else f"{model.identity}-{UNKNOWN}"


def run(plan: Plan, pieces: Pieces) -> Found:
    """What models and processes predict: first what is tuned on and what does not depend on that, then the rest."""
    study = plan.study
    made = Made(study, plan.cells, pieces)
    fits = {setting.label: predictor(setting) for setting in study.tuning.surrogates}
    for name, optimizer in plan.teachers.items():
        program = rollout(optimizer, study.trials)
        for cell in plan.cells:
            made.of_teacher(name, cell, partial(program, cell.family))
    for model in plan.models:
        program = logits_of(model, study.steps)
        for cell in plan.cells:
            for known in (True, False) if cell.split == "test" else (True,):
                made.of_model(model, cell, known, program)
    for label, program in fits.items():
        for cell in plan.of("train"):
            made.of_process(label, cell, program)

    choices: dict[tuple[GroupName, str], Chosen] = {}
    for group in study.groups:
        here = plan.of("train", group)
        processes = {label: made.normals(here, label) for label in fits}
        for model in plan.models:
            told = made.logits(here, model, True)
            choices[group, model.name] = chosen(study.tuning, model.config.bins, told, processes)
    wanted: dict[tuple[GroupName, str], None] = dict.fromkeys(
        (group, process.surrogate)
        for (group, _), choice in choices.items() for process in (choice.process, choice.truncated)
    )  # fmt: skip
    pieces.more(sum(len(plan.of("test", group)) for group, _ in wanted))
    for group, label in wanted:
        for cell in plan.of("test", group):
            made.of_process(label, cell, fits[label])

    found: Found = {}
    for group in study.groups:
        here = plan.of("test", group)
        asked = sum(made.targets(cell)["usable"].size for cell in here)
        normals = {label: made.normals(here, label) for other, label in wanted if other == group}
        for model in plan.models:
            told, untold = (made.logits(here, model, known) for known in (True, False))
            reading = Reading(model, choices[group, model.name], told, untold, normals, asked)
            found.setdefault(group, []).append(reading)
    return found
