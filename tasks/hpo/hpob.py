"""Tables of HPO-B (Pineda Arango et al. 2021): evaluations of machine learning methods on datasets of OpenML.

A folder of it is downloaded by the reader; nothing of it is in this package. A file is JSON, {search space: {dataset:
{"X": points of the unit cube, "y": accuracies}}}, all by identifiers.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64
from pydantic import Field

from l2o.core import Evaluation, Problem, Task
from l2o.errors import UserError
from l2o.registry import register
from l2o.space.domain import Space
from l2o.space.searchspace import SearchSpace
from tasks.family import FamilyConfig, Split, TaskFamily
from tasks.mixture import Mixture


class HPOBTable(NamedTuple):
    """What a file says of one dataset.

    Attributes:
      space, dataset: identifiers.
      x: points of the unit cube.
      y: accuracies; NaN where an evaluation failed.
    """

    space: str
    dataset: str
    x: Float64[np.ndarray, "n d"]
    y: Float64[np.ndarray, "n"]


def read(path: Path, spaces: tuple[str, ...] = ()) -> Iterator[HPOBTable]:
    """The tables of a file, in its order.

    Args:
      path: of a JSON file of HPO-B.
      spaces: identifiers of search spaces, in the order that is wanted; by default all.

    Raises:
      UserError: there is no such file or search space, or something else is in it.
    """
    try:
        tables = _table(json.loads(path.read_text(encoding="utf-8-sig")), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}), expected a file of HPO-B") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    for name in spaces:
        if name not in tables:
            raise UserError(f"{path} has no search space {name!r}")
    for name in spaces or tables:
        for dataset, table in _table(tables[name], f"{path}: {name}").items():
            where = f"{path}: {name}.{dataset}"
            if not {"X", "y"} <= _table(table, where).keys():
                raise UserError(f"{where}: found {', '.join(table) or 'nothing'}, expected X and y")
            x, y = (_numbers(table[field], f"{where}.{field}") for field in ("X", "y"))
            y = y.reshape(-1)
            if x.ndim != 2 or len(x) != len(y) or not x.size:
                raise UserError(
                    f"{where}: found X of shape {list(x.shape)} and {len(y)} values, expected a row for each"
                )
            if not np.all((x >= 0) & (x <= 1)):
                raise UserError(f"{where}.X: found numbers that are not between 0 and 1")
            yield HPOBTable(name, dataset, x, y)


def unit_cube(dimension: int) -> SearchSpace:
    """The space of a table; the files do not name the parameters."""
    return SearchSpace.from_dict({f"x{i}": (0.0, 1.0) for i in range(dimension)})


@register
class HPOBConfig(FamilyConfig):
    """Tables of HPO-B v3, one task for each search space and dataset.

    Attributes:
      path: the folder.
      train: the file of the training tasks.
      test: the file of the test tasks, whose datasets are others.
      search_spaces: identifiers; all by default.
    """

    kind: Literal["hpob"] = "hpob"
    path: str = Field(min_length=1)
    train: str = "meta-train-dataset.json"
    test: str = "meta-test-dataset.json"
    search_spaces: tuple[str, ...] = Field(default=(), strict=False)

    def build(self, split: Split = "train") -> TaskFamily:
        """The family; its parts are one `HPOB` for each number of parameters, with all tables of it.

        Raises:
          UserError: the folder or the file is missing, or something else is in it.
        """
        parts = tuple(self._parts(split).values())
        return parts[0] if len(parts) == 1 else Mixture(parts)

    def indexed(self, split: Split = "train") -> dict[int, tuple["HPOB", ...]]:
        """Families by number of parameters, one for each single task, all of which are one program."""
        return {d: part.single() for d, part in self._parts(split).items()}

    def _parts(self, split: Split) -> "dict[int, HPOB]":
        folder = Path(self.path)
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}, expected that of HPO-B with {self.train} and {self.test}")
        path = folder / (self.train if split == "train" else self.test)
        tables = list(read(path, self.search_spaces))
        if not tables:
            raise UserError(f"{path} has no table")
        names = tuple(f"{table.space}/{table.dataset}" for table in tables)
        dimensions = sorted({table.x.shape[1] for table in tables})
        numbers = {d: [i for i, table in enumerate(tables) if table.x.shape[1] == d] for d in dimensions}
        return {
            d: HPOB(names, np.array(index, np.int32), *_padded([tables[i] for i in index]))
            for d, index in numbers.items()
        }


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HPOB(TaskFamily):
    """Tasks with the same number of parameters, see `HPOBConfig`.

    Every point has the value of the row that is nearest to it, as the benchmark evaluates rows alone; `f_opt` is the
    lowest value of the table. Values are negative accuracies.

    Attributes:
      names: of all tasks of the file, "SEARCH SPACE/DATASET".
      number: index in `names` of n tasks.
      x: rows of each, [n, rows, d]; those that a shorter table does not have are nowhere (infinite).
      y: value of each row, [n, rows].
    """

    names: tuple[str, ...] = field(metadata={"static": True})
    number: Any  # no types, because trees are also made of other things than arrays
    x: Any
    y: Any

    @property
    def origin(self) -> str:
        """Search space and dataset; only where there is one task, and numbers are known."""
        return self.names[np.asarray(self.number).item()]

    @property
    def about(self) -> dict[str, Any]:
        """What recorded studies say of themselves."""
        space = unit_cube(self.x.shape[2]).to_dict()
        return {"name": self.origin.split("/")[0], "metric": "accuracy", "goal": "maximize", "space": space}

    def single(self) -> tuple["HPOB", ...]:
        """A family for each task."""
        rows = [slice(i, i + 1) for i in range(len(self.number))]
        return tuple(HPOB(self.names, self.number[i], self.x[i], self.y[i]) for i in rows)

    def sample(self, key):
        """Which of the n tasks."""
        return jax.random.randint(key, (), 0, self.number.shape[0])

    def task(self, params):
        d = self.x.shape[2]
        rows, values = jnp.asarray(self.x)[params], jnp.asarray(self.y)[params]

        def evaluate(key, x):
            del key
            nearest = jax.vmap(lambda x: jnp.argmin(jnp.sum((rows - jnp.clip(x, 0, 1)[None]) ** 2, 1)))(x)
            return Evaluation(values[nearest])

        space = Space.box(jnp.zeros(d), jnp.ones(d))
        return Task(Problem(space, jnp.full(d, 0.5), 0.2), evaluate, info={"f_opt": jnp.nanmin(values)})


def _padded(tables: list[HPOBTable]) -> tuple[np.ndarray, np.ndarray]:
    """`x` and `y` of tables of one width."""
    rows = max(len(table.y) for table in tables)
    x = np.full((len(tables), rows, tables[0].x.shape[1]), np.inf, np.float32)
    y = np.full((len(tables), rows), np.nan, np.float32)
    for i, table in enumerate(tables):
        x[i, : len(table.y)], y[i, : len(table.y)] = table.x, -table.y
    return x, y


def _table(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UserError(f"{where}: found {type(data).__name__}, expected a table of HPO-B")
    return data


def _numbers(data: Any, where: str) -> Float64[np.ndarray, "..."]:
    try:
        return np.array(data, np.float64)
    except (ValueError, TypeError):
        raise UserError(f"{where}: expected an array of numbers") from None
