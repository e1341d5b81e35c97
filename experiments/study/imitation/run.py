"""A study of imitation: does an OptFormer that is prompted with a teacher's name behave as the teacher does?

Every teacher, and the model prompted as each of them, makes one run on each of the same tasks. Other runs of the
teachers, on the functions that recordings are made of, teach a classifier to tell them apart.
"""

import hashlib
import json
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import l2o
from experiments.progress import Say, pieces
from experiments.study.curves.run import label
from experiments.study.imitation import report as report_imitation
from experiments.study.imitation.behaviour import Runs
from experiments.study.imitation.config import Imitation
from experiments.study.imitation.results import Prompted, summary
from experiments.study.pieces import arrays_of, begin, save
from experiments.study.prediction.config import Prediction
from l2o.core import BaselineConfig, Evaluation, HostOptimizer, LearnedOptimizer, Optimizer, Problem, Trajectory
from l2o.errors import UserError
from l2o.files import write_whole
from l2o.optformer.model import SLOTS
from l2o.optformer.optformer import OptFormerConfig, stripped
from l2o.optformer.prompt import Prompt
from l2o.registry import kinds
from l2o.space.domain import Space
from meta.recordings.rollouts import rollout
from tasks.bbob.mixed import TRAIN
from tasks.family import TaskFamily

Arrays = dict[str, np.ndarray]


class Model(NamedTuple):
    """An OptFormer of a study.

    Attributes:
      name: its label in the report.
      config: of its architecture.
      learned: the architecture.
      theta: what was trained.
      sha256: checksum of theta.
      identity: a short name of architecture and theta, for files.
    """

    name: str
    config: OptFormerConfig
    learned: LearnedOptimizer
    theta: Any
    sha256: str
    identity: str


class Cell(NamedTuple):
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


def models(study: Imitation | Prediction) -> list[Model]:
    """The OptFormers of a study.

    Raises:
      UserError: there is none, one does not exist, is of another kind, or cannot read as much as the study asks for.
    """
    if not study.optimizers:
        raise UserError("the study has no optimizers, expected a trained OptFormer as --optimizer")
    found = []
    for name in study.optimizers:
        if name in kinds(BaselineConfig):
            raise UserError(f"{name} is a baseline, and a study of {study.kind} prompts optimizers of kind 'optformer'")
        loaded = l2o.load(name)
        config = loaded.config
        if not isinstance(config, OptFormerConfig):
            raise UserError(
                f"{name} is of kind {config.kind!r}, and a study of {study.kind} prompts optimizers of kind 'optformer'"
            )
        loaded = loaded.configured(acquisition="none", lookahead=0)  # what is compared is the policy
        config = loaded.config
        assert isinstance(config, OptFormerConfig)
        if config.max_trials < study.trials:
            raise UserError(f"{name} reads up to {config.max_trials} trials, and the study has {study.trials}")
        whole = loaded.sha256 + json.dumps(config.model_dump(mode="json"), sort_keys=True)
        identity = hashlib.sha256(whole.encode()).hexdigest()[:12]
        found.append(Model(label(name), config, loaded.learned, loaded.theta, loaded.sha256, identity))
    labels = [model.name for model in found]
    twice = sorted({name for name in labels if labels.count(name) > 1})
    if twice:
        raise UserError(f"the study has two optimizers named {twice[0]!r}, expected different names")
    return found


def cells(study: Imitation) -> dict[int, list[Cell]]:
    """The cells by dimension; the tasks of one do not depend on which others there are.

    Raises:
      UserError: more parameters than an OptFormer reads.
    """
    functions = study.task.functions
    if max(study.task.dimensions) > SLOTS:
        raise UserError(f"task.dimensions: found {max(study.task.dimensions)}, expected at most {SLOTS}")
    examples = tuple(name for name in TRAIN if name not in functions)
    indexed = study.task.model_copy(update={"functions": (*functions, *examples)}).indexed()
    found: dict[int, list[Cell]] = {}
    for dimension, families in indexed.items():
        for function, family in zip((*functions, *examples), families, strict=True):
            name, example = f"{function}-{dimension}d", function in examples
            sequence = np.random.SeedSequence(study.seed, spawn_key=(zlib.crc32(name.encode()),))
            seeds = sequence.generate_state(study.examples if example else study.instances)
            found.setdefault(dimension, []).append(Cell(name, family, seeds, example))
    return found


def teachers(study: Imitation | Prediction) -> dict[str, Optimizer]:
    """The teachers by name.

    Raises:
      UserError: one that cannot be compiled.
    """
    found = {}
    for i, teacher in enumerate(study.teachers):
        optimizer = teacher.optimizer.build()
        if isinstance(optimizer, HostOptimizer):
            raise UserError(f"teachers.{i}: kind {teacher.optimizer.kind!r} runs on the host, expected one under jit")
        found[teacher.name] = optimizer
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


def run(study: Imitation, out: Path, say: Say = print, resume: bool = False) -> dict[str, Any]:
    """Run a study into a directory: cells/*/*.npz, results.json, figures, report.html, config.toml.

    Returns:
      The contents of results.json, see `experiments.study.imitation.results.summary`.

    Raises:
      UserError: the directory is in use or holds another study, or an optimizer does not exist or does not fit.
    """
    prompted, by_name, settings = models(study), teachers(study), cells(study)
    folder = begin(study, out, resume)
    names, every = study.algorithms, [cell for some in settings.values() for cell in some]
    held_out = [cell.name for cell in every if not cell.example]
    total = len(names) * (len(every) + 2 * len(prompted) * len(held_out))
    say(
        f"{len(held_out)} cells of {study.instances} tasks, {study.trials} trials in each run, {len(names)} teachers,"
        f" each imitated by {', '.join(model.name for model in prompted)}"
    )
    made: dict[str, dict[str, Arrays]] = {}  # by file and by cell
    took = 0.0
    with pieces(total, say) as done:

        def piece(cell: Cell, file: str, what: str, given: Any, program: Callable[[Any], Any]) -> None:
            nonlocal took
            path = folder / cell.name / f"{file}.npz"
            if not path.is_file():
                start = time.perf_counter()
                arrays = in_batches(program, given, min(study.batch, study.instances))
                save(path, **arrays, took=np.array(time.perf_counter() - start))
            arrays = arrays_of(path)
            took += float(arrays.pop("took"))
            made.setdefault(file, {})[cell.name] = arrays
            done(f"{what} on {cell.name}")

        for some in settings.values():
            for name, optimizer in by_name.items():
                program = rollout(optimizer, study.trials)
                for cell in some:
                    piece(cell, name, name, cell.seeds, partial(program, cell.family))
            for model in prompted:
                program, likelihoods = runs_of(model, names, study.trials), likelihoods_of(model, names)
                for cell in (cell for cell in some if not cell.example):
                    for i, name in enumerate(names):
                        imitates = partial(program, model.theta, i, cell.family)
                        piece(cell, f"{model.identity}-as-{name}", f"{model.name} as {name}", cell.seeds, imitates)
                        told = _runs(made[name][cell.name])
                        reads = partial(likelihoods, model.theta)
                        piece(cell, f"{model.identity}-on-{name}", f"{model.name} reading {name}", told, reads)
            jax.clear_caches()  # programs of other dimensions are not needed again

    def collected(file: str, example: bool = False) -> dict[str, Runs]:
        return {cell.name: _runs(made[file][cell.name]) for cell in every if cell.example == example}

    results = summary(
        study,
        {name: collected(name) for name in names},
        {name: collected(name, example=True) for name in names},
        [
            Prompted(
                model.name, model.sha256, model.config.bins,
                {name: collected(f"{model.identity}-as-{name}") for name in names},
                {name: {cell: made[f"{model.identity}-on-{name}"][cell]["x"] for cell in held_out} for name in names},
            )
            for model in prompted
        ],
    )  # fmt: skip
    results["seconds"] = round(took, 1)
    write_whole(out / "results.json", json.dumps(results) + "\n")
    report_imitation.write(out, results)
    return results


def in_batches(program: Callable[[Any], dict[str, Any]], given: Any, batch: int) -> Arrays:
    """A program on n rows, so many at a time, the last ones repeated to fill a batch."""
    count, found = len(jax.tree.leaves(given)[0]), []
    for first in range(0, count, batch):
        rows = np.minimum(np.arange(first, first + batch), count - 1)
        arrays = program(jax.tree.map(lambda a, rows=rows: np.asarray(a)[rows], given))
        found.append({name: np.asarray(a)[: count - first] for name, a in arrays.items()})
    return {name: np.concatenate([arrays[name] for arrays in found]) for name in found[0]}


def _runs(arrays: Arrays) -> Runs:
    return Runs(arrays["x"], arrays["y"], Space(**{name: jnp.asarray(arrays[name]) for name in Space._fields}))
