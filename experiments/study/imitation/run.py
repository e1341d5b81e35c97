"""A study of imitation: does an OptFormer that is prompted with a teacher's name behave as the teacher does?

Every teacher, and the model prompted as each of them, makes one run on each of the same tasks. Other runs of the
teachers, on the functions that recordings are made of, teach a classifier to tell them apart.
"""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.study.imitation.behaviour import Runs
from experiments.study.imitation.config import Imitation
from experiments.study.optformers import Model, models, teachers
from experiments.study.pieces import Arrays, Pieces, in_batches
from l2o.core import Evaluation, Optimizer, Problem, Trajectory
from l2o.errors import UserError
from l2o.optformer.model import SLOTS
from l2o.optformer.optformer import stripped
from l2o.optformer.prompt import Prompt
from l2o.space.domain import Space
from meta.recordings.rollouts import rollout
from tasks.bbob.mixed import TRAIN
from tasks.family import TaskFamily

ByCell = dict[str, Runs]


class ImitationCell(NamedTuple):
    """Tasks of one function in one dimension.

    Attributes:
      name: "sphere-2d".
      family: where they come from; those of one dimension differ in data alone.
      seeds: of the runs.
      example: whether it is for the classifier.
    """

    name: str
    family: TaskFamily
    seeds: np.ndarray
    example: bool


class Plan(NamedTuple):
    """What is going to be run.

    Attributes:
      study: what was asked for.
      models: the OptFormers.
      teachers: by name.
      cells: by dimension.
    """

    study: Imitation
    models: list[Model]
    teachers: dict[str, Optimizer]
    cells: dict[int, list[ImitationCell]]

    @property
    def every(self) -> list[ImitationCell]:
        """All cells."""
        return [cell for some in self.cells.values() for cell in some]

    @property
    def held_out(self) -> list[ImitationCell]:
        """Those that are reported."""
        return [cell for cell in self.every if not cell.example]

    @property
    def opening(self) -> str:
        """How much it is."""
        return (
            f"{len(self.held_out)} cells of {self.study.instances} tasks, {self.study.trials} trials in each run,"
            f" {len(self.teachers)} teachers, each imitated by {', '.join(model.name for model in self.models)}"
        )

    @property
    def pieces(self) -> int:
        """For each teacher those of all cells, and of each that is reported two for each model."""
        return len(self.teachers) * (len(self.every) + 2 * len(self.models) * len(self.held_out))


class ModelRuns(NamedTuple):
    """What an OptFormer did.

    Attributes:
      model: which.
      runs: by the teacher's name in the prompt, and by cell.
      log_probs: of the points of the teachers' own runs, by teacher and cell [n, prompts, trials].
    """

    model: Model
    runs: dict[str, ByCell]
    log_probs: dict[str, dict[str, Float[np.ndarray, "n prompts t"]]]


class Found(NamedTuple):
    """What was found.

    Attributes:
      taught: runs of the teachers on the tasks that are reported, by name and cell.
      examples: their runs for the classifier.
      models: what the models did on the tasks that are reported.
    """

    taught: dict[str, ByCell]
    examples: dict[str, ByCell]
    models: list[ModelRuns]


def plan(study: Imitation) -> Plan:
    """What a study is going to run.

    Raises:
      UserError: an optimizer does not exist or does not fit.
    """
    return Plan(study, models(study), teachers(study), cells(study))


def cells(study: Imitation) -> dict[int, list[ImitationCell]]:
    """The cells by dimension; the tasks of one do not depend on which others there are.

    Raises:
      UserError: more parameters than an OptFormer reads.
    """
    functions = study.task.functions
    if max(study.task.dimensions) > SLOTS:
        raise UserError(f"task.dimensions: found {max(study.task.dimensions)}, expected at most {SLOTS}")
    examples = tuple(name for name in TRAIN if name not in functions)
    indexed = study.task.model_copy(update={"functions": (*functions, *examples)}).indexed()
    found: dict[int, list[ImitationCell]] = {}
    for dimension, families in indexed.items():
        for function, family in zip((*functions, *examples), families, strict=True):
            name, example = f"{function}-{dimension}d", function in examples
            sequence = np.random.SeedSequence(study.seed, spawn_key=(zlib.crc32(name.encode()),))
            seeds = sequence.generate_state(study.examples if example else study.instances)
            found.setdefault(dimension, []).append(ImitationCell(name, family, seeds, example))
    return found


def prompt_as(which: jax.Array, names: list[str], space: Space) -> Prompt:
    """The prompt of a space that names teacher number `which`, which is data, so that all prompts are one program."""
    return jax.tree.map(lambda *a: jnp.stack(a)[which], *(stripped(space, name) for name in names))


def runs_of(model: Model, names: list[str], trials: int) -> Callable[..., dict[str, jax.Array]]:
    """`(theta, which, family, seeds [n]) -> arrays of n studies`, of the model prompted as a teacher."""

    @jax.jit
    def run(theta, which, family, seeds):
        optimizer = model.learned.bind(theta)

        def init(key, problem):
            return optimizer.init(key, problem._replace(context=prompt_as(which, names, problem.space)))

        return rollout(optimizer._replace(init=init), trials)(family, seeds)

    return run


def likelihoods_of(model: Model, names: list[str]) -> Callable[..., dict[str, jax.Array]]:
    """`(theta, runs) -> {"x": log-probabilities of the points [n, prompts, trials]}` of n runs.

    Values are scaled by the range of the whole run, as those of a study are in training.
    """
    log_prob = model.learned.log_prob
    assert log_prob is not None

    @jax.jit
    def likelihoods(theta, runs):
        def one(told):
            x, y, space = told
            run = Trajectory(x[:, None], Evaluation(y[:, None]), jnp.ones(y.size, bool))

            def under(which):
                return log_prob(theta, Problem(space, x[0], context=prompt_as(which, names, space)), run)["x"]

            return jax.lax.map(under, jnp.arange(len(names)))

        return {"x": jax.vmap(one)(runs)}

    return likelihoods


def run(plan: Plan, pieces: Pieces) -> Found:
    """Runs of all teachers, and of all models prompted as each of them."""
    study, names = plan.study, list(plan.teachers)
    made: dict[str, dict[str, Arrays]] = {}  # by file and by cell

    def make(cell: ImitationCell, file: str, what: str, given: Any, program: Callable[[Any], Any]) -> None:
        batches = partial(in_batches, program, given, min(study.batch, study.instances))
        made.setdefault(file, {})[cell.name] = pieces(f"cells/{cell.name}/{file}", f"{what} on {cell.name}", batches)

    for some in plan.cells.values():
        for name, optimizer in plan.teachers.items():
            program = rollout(optimizer, study.trials)
            for cell in some:
                make(cell, name, name, cell.seeds, partial(program, cell.family))
        for model in plan.models:
            program, likelihoods = runs_of(model, names, study.trials), likelihoods_of(model, names)
            for cell in (cell for cell in some if not cell.example):
                for i, name in enumerate(names):
                    imitates = partial(program, model.theta, i, cell.family)
                    make(cell, f"{model.identity}-as-{name}", f"{model.name} as {name}", cell.seeds, imitates)
                    told, reads = as_runs(made[name][cell.name]), partial(likelihoods, model.theta)
                    make(cell, f"{model.identity}-on-{name}", f"{model.name} reading {name}", told, reads)
        jax.clear_caches()  # programs of other dimensions are not needed again

    def collected(file: str, example: bool = False) -> ByCell:
        return {cell.name: as_runs(made[file][cell.name]) for cell in plan.every if cell.example == example}

    def prompted(model: Model) -> ModelRuns:
        imitated = {name: collected(f"{model.identity}-as-{name}") for name in names}
        read = {name: made[f"{model.identity}-on-{name}"] for name in names}
        return ModelRuns(
            model,
            imitated,
            {name: {cell.name: of[cell.name]["x"] for cell in plan.held_out} for name, of in read.items()},
        )

    return Found(
        {name: collected(name) for name in names},
        {name: collected(name, example=True) for name in names},
        [prompted(model) for model in plan.models],
    )


def as_runs(arrays: Arrays) -> Runs:
    """What `meta.recordings.rollouts.rollout` returned, as runs."""
    return Runs(arrays["x"], arrays["y"], Space(**{name: jnp.asarray(arrays[name]) for name in Space._fields}))
