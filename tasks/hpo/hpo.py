"""Tuning of real models on real datasets: tables of measured settings, and what lies between their rows.

A task is a dataset, a part of it, a model and a metric of `tasks.hpo.models`. Its table has the metric of 256 settings
spread over the model's search space, each measured once by `tasks.hpo.tables`. A task has no noise and costs no fits,
so a thousand runs of an optimizer are one program; `live` measures a setting for real.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from pydantic import Field
from safetensors.numpy import load_file

from l2o.core import Evaluation, Problem, Task
from l2o.errors import UserError
from l2o.registry import register
from l2o.space.domain import Space
from tasks.family import FamilyConfig, Split, TaskFamily
from tasks.hpo.models import DATASETS, GOALS, MODELS, SPACES, VIEWS, Dataset, Model, metrics, score, title
from tasks.mixture import Mixture

TABLES = Path(__file__).parent.parent / "tables" / "hpo.safetensors"
Metric = Literal["accuracy", "log_loss", "f1_macro", "r2", "mae"]
METRICS: tuple[Metric, ...] = get_args(Metric)
CLOSE = 1e-10  # squared distance in the unit cube below which two points are the same


class Name(NamedTuple):
    """What tells one task from another."""

    dataset: Dataset
    view: int
    model: Model
    metric: str


NAMES = tuple(
    Name(dataset, view, model, metric)
    for dataset in DATASETS for view in range(VIEWS) for model in MODELS for metric in metrics(dataset, model)
)  # fmt: skip


@register
class HPOConfig(FamilyConfig):
    """Real tuning tasks, some of them held out.

    Training tasks are those of which neither the dataset nor the model is held out. Test tasks are those of the
    held-out datasets, and of models that are not held out. A study that wants other tasks lists them and holds nothing
    out: where none of `datasets` is held out, both splits are the same. So the held-out model on known datasets is
    `datasets = ["digits", "wine", "diabetes"], models = ["gradient_boosting"], held_out_models = []`.

    Attributes:
      datasets: those that come with scikit-learn.
      models: of scikit-learn; each has its own search space.
      views: 0 is a whole dataset, the others are random parts of its rows and columns.
      metrics: every task has two of them, see `tasks.hpo.models.metrics`.
      held_out_datasets: that meta-training never touches.
      held_out_models: that neither split touches.
      blend: tables that a task is made of. With several, a task is a random mean of one and of others of the same model
        in the same split, so that there is no end of tasks. A network that trains on a few tables alone might learn
        them by heart.
    """

    kind: Literal["hpo"] = "hpo"
    datasets: tuple[Dataset, ...] = Field(default=DATASETS, min_length=1, strict=False)
    models: tuple[Model, ...] = Field(default=MODELS, min_length=1, strict=False)
    views: tuple[Annotated[int, Field(ge=0, lt=VIEWS)], ...] = Field(
        default=tuple(range(VIEWS)), min_length=1, strict=False
    )
    metrics: tuple[Metric, ...] = Field(default=METRICS, min_length=1, strict=False)
    held_out_datasets: tuple[Dataset, ...] = Field(default=("breast_cancer",), strict=False)
    held_out_models: tuple[Model, ...] = Field(default=("gradient_boosting",), strict=False)
    blend: int = Field(default=1, ge=1, le=8)

    def names(self, split: Split = "train") -> tuple[Name, ...]:
        """The tasks of a split.

        Raises:
          UserError: there is none.
        """
        held_out = set(self.datasets) & set(self.held_out_datasets)
        datasets = held_out or set(self.datasets) if split == "test" else set(self.datasets) - held_out
        models = set(self.models) - set(self.held_out_models)
        found = tuple(
            name
            for name in NAMES
            if name.dataset in datasets
            and name.view in self.views
            and name.model in models
            and name.metric in self.metrics
        )
        if not found:
            raise UserError(
                f"kind 'hpo' has no task for {split}: expected datasets and models that are not held out, with metrics "
                "that they have"
            )
        return found

    def build(self, split: Split = "train") -> TaskFamily:
        """The family; its parts are one `HPO` for each number of parameters, with all its tables; of blends, more."""
        if self.blend > 1:
            parts = tuple(part for parts in self.indexed(split).values() for part in parts)
        else:
            parts = tuple(HPO(self, stacked(tables)) for tables in self._tables(split).values())
        return parts[0] if len(parts) == 1 else Mixture(parts)

    def indexed(self, split: Split = "train") -> dict[int, tuple["HPO", ...]]:
        """Families by number of parameters, one for each single task, all of which are one program."""

        def single(table: HPOTable, tables: "list[HPOTable]") -> HPO:
            alike = [other for other in tables if NAMES[int(other.number)].model == NAMES[int(table.number)].model]
            return HPO(self, stacked([table]), stacked(alike) if self.blend > 1 else None)

        return {d: tuple(single(table, tables) for table in tables) for d, tables in self._tables(split).items()}

    def _tables(self, split: Split) -> "dict[int, list[HPOTable]]":
        found: dict[int, list[HPOTable]] = {}
        for name in self.names(split):
            found.setdefault(len(SPACES[name.model]), []).append(table(name, TABLES))
        return found


class HPOTable(NamedTuple):
    """One task.

    Attributes:
      number: index in `NAMES`.
      space: of the model.
      u: rows in the unit cube; of a category, its index.
      value: of each row, minimised; NaN where the fit failed.
    """

    number: Int[Array, ""]
    space: Space
    u: Float[Array, "r d"]
    value: Float[Array, "r"]


class Blend(NamedTuple):
    """A task that is a mean of others.

    Attributes:
      own: the table whose name and units it has.
      others: with a leading axis.
      share: of each of these, not negative; the rest, 0.4 to 1, is that of `own`.
    """

    own: HPOTable
    others: HPOTable
    share: Float[Array, "k"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HPO(TaskFamily):
    """Tasks with the same number of parameters, see `HPOConfig`.

    The value of a point is the mean of those of the d + 1 nearest rows of the table, weighted by the inverse of the
    squared distance (Shepard 1968), and of a row exactly its own. Distances are those of the unit cube; two different
    categories are 1 apart. Rows that failed have no weight, but where the nearest one failed, so does the point.

    The lowest value of the table is `f_opt`, because no point has a lower one, though the model itself may; so reports,
    which subtract it, show what is left to the best row. `median` is that of the rows. Of a blend, these are its own
    table's, and no point has a value below `f_opt` either.
    """

    config: HPOConfig = field(metadata={"static": True})
    tables: Any  # a `HPOTable` with a leading axis; no type, because trees are also made of other things than arrays
    pool: Any = None  # a `HPOTable` with a leading axis, of what is blended

    @property
    def name(self) -> Name:
        """Which task it is; only where there is one, and numbers are known."""
        return NAMES[np.asarray(self.tables.number).item()]

    @property
    def origin(self) -> str:
        """One word for the task."""
        return "{}.{}.{}.{}".format(*self.name)

    @property
    def about(self) -> dict[str, Any]:
        """Title, metric, its goal and the named space of the task: what recorded studies say of themselves."""
        dataset, view, model, metric = self.name
        return {
            "name": title(dataset, model, view), "metric": metric, "goal": GOALS[metric],
            "space": SPACES[model].to_dict(),
        }  # fmt: skip

    def sample(self, key):
        own_key, other_key, rest_key, share_key = jax.random.split(key, 4)
        index = jax.random.randint(own_key, (), 0, self.tables.number.shape[0])
        own: HPOTable = jax.tree.map(lambda a: jnp.asarray(a)[index], self.tables)
        if self.pool is None:
            return own
        others = jax.random.randint(other_key, (self.config.blend - 1,), 0, self.pool.number.shape[0])
        share = jax.random.dirichlet(share_key, jnp.ones(self.config.blend - 1))
        share = share * jax.random.uniform(rest_key, maxval=0.6)
        return Blend(own, jax.tree.map(lambda a: jnp.asarray(a)[others], self.pool), share)

    def task(self, params):
        own = params.own if isinstance(params, Blend) else params
        space, d = own.space, own.u.shape[1]

        def value(x):
            return blended(params, x) if isinstance(params, Blend) else interpolated(params, x)

        def evaluate(key, x):
            del key
            return Evaluation(jax.vmap(value)(x))

        info = {"f_opt": jnp.nanmin(own.value), "median": jnp.nanmedian(own.value)}
        return Task(Problem(space, space.from_unit(jnp.full(d, 0.5)), 0.2), evaluate, info=info)


def places(space: Space, x: Float[Array, "d"]) -> Float[Array, "d"]:
    """Where a point lies in the unit cube; of a category, its index."""
    return jnp.where(jnp.asarray(space.ordered), space.to_unit(x), x)


def interpolated(table: HPOTable, x: Float[Array, "d"]) -> Float[Array, ""]:
    """The value of a point, see `HPO`."""
    apart = table.u - places(table.space, table.space.project(x))[None]
    apart = jnp.where(jnp.asarray(table.space.ordered)[None], apart**2, apart != 0)
    nearness, rows = jax.lax.top_k(-jnp.sum(apart, 1), x.size + 1)
    value = table.value[rows]
    weight = jnp.where(jnp.isnan(value), 0.0, 1 / jnp.maximum(-nearness, CLOSE))
    mean = jnp.sum(weight * jnp.nan_to_num(value)) / jnp.sum(weight)
    return jnp.where((-nearness[0] < CLOSE) | jnp.isnan(value[0]), value[0], mean)


def blended(blend: Blend, x: Float[Array, "d"]) -> Float[Array, ""]:
    """The weighted mean of the tables' values, each in units in which its lowest value is -1 and its median 0.

    In the end these are the units of `own`. Where one of them fails, so does the point.
    """

    def units(table: HPOTable) -> tuple[Float[Array, ""], Float[Array, ""]]:
        median = jnp.nanmedian(table.value)
        return median, jnp.maximum(median - jnp.nanmin(table.value), 1e-6)

    def share(table: HPOTable) -> Float[Array, ""]:
        median, unit = units(table)
        return (interpolated(table, x) - median) / unit

    mean = (1 - jnp.sum(blend.share)) * share(blend.own) + jnp.sum(blend.share * jax.vmap(share)(blend.others))
    median, unit = units(blend.own)
    return median + unit * mean


@jax.jit
def rows_in_cube(space: Space, x: Float[Array, "r d"]) -> Float[Array, "r d"]:
    """`places` of every row."""
    return jax.vmap(lambda x: places(space, x))(x)


@functools.cache
def measured(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the file that `tasks.hpo.tables` makes.

    Raises:
      UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: expected the tables that python -m tasks.hpo.tables makes")
    return load_file(path)


@functools.cache
def table(name: Name, path: Path = TABLES) -> HPOTable:
    """The table of a task; its arrays are numpy's."""
    arrays, prefix = measured(path), f"{name.dataset}.{name.view}.{name.model}"
    sign = np.float32(1 if GOALS[name.metric] == "minimize" else -1)
    space = SPACES[name.model].space
    u = rows_in_cube(space, arrays[f"{prefix}.x"])
    found: Any = (np.int32(NAMES.index(name)), space, u, sign * arrays[f"{prefix}.{name.metric}"])
    return HPOTable(*jax.tree.map(np.asarray, found))


def stacked(tables: list[HPOTable]) -> HPOTable:
    """Several tables of the same number of parameters as one, with a leading axis."""
    return jax.tree.map(lambda *a: np.stack(a), *tables)


def live(dataset: Dataset, model: Model, metric: str, assignment: dict[str, Any], view: int = 0) -> float:
    """The metric of a setting, in its own direction, by fitting the model; NaN where that fails.

    >>> live("wine", "knn", "accuracy", {"n_neighbors": 5, "weights": "uniform", "p": 2}) > 0.9
    True
    """
    return score(dataset, model, assignment, view)[metric]
