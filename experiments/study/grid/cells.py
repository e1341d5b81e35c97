"""The settings of a grid."""

import itertools
from typing import NamedTuple

from experiments.progress import Say
from experiments.study.grid.config import Grid
from l2o.errors import UserError
from l2o.registry import parse
from tasks.family import FamilyConfig


class GridCell(NamedTuple):
    """A setting; its name is a file name. No dataset stands for the centre's."""

    activation: str
    architecture: str
    horizon: int
    dataset: str = ""

    @property
    def name(self) -> str:
        return "-".join([*([self.dataset] if self.dataset else []), *map(str, self[:3])])


def cells(grid: Grid, say: Say = print) -> list[GridCell]:
    """The settings that are run, the centre first. Those whose data are not on this machine are left out, and said."""
    centre = GridCell(grid.centre.activation, grid.centre.architecture, grid.centre.horizon)
    others = [name for name in grid.datasets if name != grid.centre.dataset and _present(grid, name, say)]
    if grid.cross:
        every = itertools.product(grid.activations, grid.architectures, grid.horizons, ["", *others])
        found = [GridCell(*c) for c in every]
    else:
        found = [centre._replace(activation=a) for a in grid.activations]
        found += [centre._replace(architecture=a) for a in grid.architectures]
        found += [centre._replace(horizon=h) for h in grid.horizons]
        found += [centre._replace(dataset=d) for d in others]
        corners = grid.corners
        found += [GridCell(*c) for c in itertools.product(corners.activations, corners.architectures, corners.horizons)]
    return list(dict.fromkeys([centre, *found]))


def _present(grid: Grid, name: str, say: Say) -> bool:
    try:
        grid.datasets[name].load("test")
    except UserError as error:
        say(f"left out the cells on {name}: {error}")
        return False
    return True


def family_of(grid: Grid, cell: GridCell) -> FamilyConfig:
    """The task family of a cell."""
    fields = {"dataset": grid.datasets[cell.dataset or grid.centre.dataset], "activation": cell.activation}
    return parse(FamilyConfig, {**grid.task, **grid.architectures[cell.architecture], **fields})
