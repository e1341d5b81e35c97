"""The cells of a study of evolution strategies: those that are reported, and those that columns are tuned on."""

import zlib
from typing import NamedTuple

import jax

from experiments.study.cells import shape_of_problem, sole_family
from experiments.study.population.config import Population
from l2o.errors import UserError
from tasks.bbob.bbob import BBOBConfig
from tasks.family import TaskFamily


class PopulationCell(NamedTuple):
    """Tasks of one family.

    Attributes:
      name: in the study.
      task: the entry of the study's tasks that it comes from.
      function: of BBOB, else "".
      dimension: number of coordinates. Cells of one task and dimension run in the same programs.
      family: where its tasks come from.
      key: decides them, and all other randomness of the runs.
    """

    name: str
    task: str
    function: str
    dimension: int
    family: TaskFamily
    key: jax.Array


def cells(study: Population, tuning: bool = False) -> list[PopulationCell]:
    """The cells that are reported, or those that columns are tuned on; one does not depend on which others there are.

    Raises:
      UserError: a family that is no cell of such a study, or two cells of one name.
    """
    several = sum(isinstance(config, BBOBConfig) for config in study.tasks.values()) > 1
    found: list[PopulationCell] = []
    for task, config in study.tasks.items():
        if isinstance(config, BBOBConfig):
            found += _cells_of_bbob(study, task, config, f"{task}-" if several else "", tuning)
            continue
        family = sole_family(task, config, "train" if tuning else "test")
        dimension = sum(leaf.size for leaf in jax.tree.leaves(shape_of_problem(family).start))
        found.append(PopulationCell(task, task, "", dimension, family, _key_of_cell(study, task, tuning)))
    for cell in found:
        if not shape_of_problem(cell.family).space.is_free:
            raise UserError(
                f"tasks.{cell.task}: its points have bounds, expected a free space, on which strategies begin with the"
                " scale of the problem"
            )
    names = [cell.name for cell in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"tasks: two cells are named {twice!r}, expected different names")
    return found


def _cells_of_bbob(study: Population, task: str, config: BBOBConfig, prefix: str, tuning: bool) -> list[PopulationCell]:
    # one family for what is tuned on and what is reported, and so the same programs
    trained = study.trained.functions or config.functions
    tried = study.tune.dimensions or config.dimensions
    functions = tuple(dict.fromkeys((*config.functions, *trained)))
    dimensions = tuple(dict.fromkeys((*config.dimensions, *tried)))
    families = config.model_copy(update={"functions": functions, "dimensions": dimensions}).indexed()
    return [
        PopulationCell(
            name := f"{prefix}{function}-d{d}", task, function, d, families[d][i], _key_of_cell(study, name, tuning)
        )
        for d in dimensions if d in (tried if tuning else config.dimensions)
        for i, function in enumerate(functions) if function in (trained if tuning else config.functions)
    ]  # fmt: skip


def _key_of_cell(study: Population, name: str, tuning: bool) -> jax.Array:
    whole = f"tuning on {name}" if tuning else name  # which is the name of no cell
    return jax.random.fold_in(jax.random.key(study.seed), zlib.crc32(whole.encode()))
