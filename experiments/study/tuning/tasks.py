"""The tasks of a study of tuning: single ones, which differ in data alone where they have as many parameters."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study.tuning.config import TABLES, TUNE, Group, Tune, Tuning
from l2o.errors import UserError
from l2o.optformer.model import SLOTS
from l2o.optformer.prompt import Prompt, prompt
from l2o.record import Record
from l2o.space.searchspace import SearchSpace
from tasks.bbob.functions import FUNCTIONS
from tasks.bbob.mixed import BBOBMixed, BBOBMixedConfig
from tasks.family import TaskFamily
from tasks.hpo.hpo import HPO, HPOConfig, Name

SAMPLES = 256  # random points whose median is that of a task, where it knows none; tables have as many rows
STEP = 64  # lengths of prompts are rounded up to a multiple of this


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Fixed(TaskFamily):
    """A single task of a family, as a family. Its parameters are data."""

    family: TaskFamily
    params: Any

    def sample(self, key):
        del key
        return self.params

    def task(self, params):
        return self.family.task(params)


class TuningCell(NamedTuple):
    """A task.

    Attributes:
      group: where it is reported, or "tune".
      name: within the group.
      family: the task; those with the same number of parameters are one program.
      dimension: number of parameters.
      about: title, metric, goal and named space of a table, see `tasks.hpo.hpo.HPO.about`; None for a task without.
      which: what is known of a task of kind "hpo".
      seeds: of the runs; the first ones are the same, however many there are.
      least: a value that no setting is below.
      median: of the values of settings spread over the space.
    """

    group: str
    name: str
    family: Fixed
    dimension: int
    about: dict[str, Any] | None
    which: Name | None
    seeds: np.ndarray
    least: float
    median: float


def cells(study: Tuning) -> list[TuningCell]:
    """The tasks of all groups, and those for choosing settings; none depends on which others there are.

    Raises:
      UserError: a family without such tasks, or with more parameters than an OptFormer reads, or settings are to be
        chosen on a task that is reported.
    """
    drawn = {group: _tasks_of_group(study, group, which) for group, which in _groups_by_name(study).items()}
    every = [task for tasks in drawn.values() for task in tasks]
    both = {name for name, *_ in drawn.get(TUNE, [])} & {
        name for group, tasks in drawn.items() if group != TUNE for name, *_ in tasks
    }
    if both:
        raise UserError(f"tune: {min(both)} is reported, too, expected other tasks")
    found = []
    for group, tasks in drawn.items():
        runs = study.tune.runs if group == TUNE and study.tune else study.runs
        for name, family, params in tasks:
            single = Fixed(_in_data_alone(family, [other for _, other, _ in every]), params)
            words = _seeds_of_task(study, name, 1 + runs)
            least, median = map(float, _least_and_median(single, words[0]))
            about = getattr(family, "about", None)
            which = family.name if isinstance(family, HPO) else None
            dimension = _dimension(single)
            if dimension > SLOTS:
                raise UserError(f"{group}: {name} has {dimension} parameters, expected at most {SLOTS}")
            found.append(TuningCell(group, name, single, dimension, about, which, words[1:], least, median))
    return found


def prompts(some: Sequence[TuningCell], algorithm: str) -> dict[tuple[str, str], Prompt]:
    """What an OptFormer is told of each task that has names, by group and name.

    Those of the same number of parameters are padded to a common length.
    """
    records: dict[int, dict[tuple[str, str], Record]] = {}
    for cell in some:
        if cell.about:
            about, space = cell.about, SearchSpace.from_dict(cell.about["space"])
            record = Record(space, about["name"], about["metric"], about["goal"], algorithm)
            records.setdefault(cell.dimension, {})[cell.group, cell.name] = record
    found = {}
    for alike in records.values():
        longest = max(prompt(record).token.size for record in alike.values())
        room = -(-longest // STEP) * STEP
        found |= {which: prompt(record, room) for which, record in alike.items()}
    return found


def _groups_by_name(study: Tuning) -> dict[str, Group]:
    return {**({TUNE: study.tune} if study.tune else {}), **study.tasks}


def _tasks_of_group(study: Tuning, name: str, group: Group) -> list[tuple[str, Any, Any]]:
    """Name, family and parameters of each task of a group."""
    if isinstance(group.task, TABLES):
        split = "train" if name == TUNE and "train" in group.task.splits else "test"
        families = [family for some in group.task.indexed(split).values() for family in some]
        named = [(family.origin, family) for family in families]
    else:
        families = [family for some in group.task.indexed().values() for family in some]  # pyright: ignore
        named = [
            (f"{family.functions[int(family.index)]}-{family.dimension}d-{i}", family)
            for family in families
            for i in range(group.instances)
        ]
    if isinstance(group, Tune):
        if len(named) < group.tasks:
            raise UserError(f"tune.tasks: found {group.tasks}, expected at most {len(named)}, which there are")
        rows = np.random.default_rng(study.seed).permutation(len(named))[: group.tasks]
        named = [named[row] for row in sorted(rows)]
    return [(title, family, _sampled_params(family, _seeds_of_task(study, title, 1)[0])) for title, family in named]


def _seeds_of_task(study: Tuning, name: str, count: int) -> np.ndarray:
    """Seeds that belong to a task."""
    return np.random.SeedSequence(study.seed, spawn_key=(zlib.crc32(name.encode()),)).generate_state(count)


def _dimension(family: Fixed) -> int:
    """Number of parameters of a task."""
    return jax.eval_shape(lambda family: family.task(family.params).problem.start, family).size


@jax.jit
def _sampled_params(family: TaskFamily, seed: jax.Array) -> Any:
    return family.sample(jax.random.key(seed))


@jax.jit
def _least_and_median(family: Fixed, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The least value of a task and its median one."""
    task = family.task(family.params)
    if "median" in task.info:
        return task.info["f_opt"], task.info["median"]
    sample_key, evaluate_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    points = jax.vmap(task.problem.space.sample)(jax.random.split(sample_key, SAMPLES))
    return task.info["f_opt"], jnp.nanmedian(task.evaluate(evaluate_key, points).value)


def _in_data_alone(family: TaskFamily, others: list[TaskFamily]) -> TaskFamily:
    """The family, so that it differs from the others in data alone, if its tasks' parameters do.

    What it draws may be different then, but not the task of given parameters.
    """
    if isinstance(family, HPO):
        return replace(family, config=HPOConfig())
    if not isinstance(family, BBOBMixed):
        return family
    name, peaks = family.functions[int(family.index)], _peaks_of_functions(family)
    known = [other for other in others if isinstance(other, BBOBMixed) and _peaks_of_functions(other) == peaks]
    functions: Any = tuple(sorted({function for other in known for function in other.functions}))
    config = BBOBMixedConfig(functions=functions, noises=family.config.noises, scale=family.config.scale)
    return replace(family, config=config, functions=functions, index=np.int32(functions.index(name)))


def _peaks_of_functions(family: BBOBMixed) -> int:
    """Of the functions that have some, how many: a shape of an instance."""
    return max(FUNCTIONS[name].peaks for name in family.functions)
