"""Tuning tasks: values between the rows of a table, what is held out, names, and one program for all tasks."""

import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from l2o.errors import UserError
from tasks.hpo import hpo
from tasks.hpo.hpo import NAMES, HPOConfig, Name, live
from tasks.hpo.models import DATASETS, GOALS, MODELS, SPACES, VIEWS, metrics, score, title

SMALL = {"datasets": ("digits", "diabetes"), "models": ("knn", "svm", "decision_tree", "mlp"), "views": (0, 2)}
ROWS = 40


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Tables of random settings whose metric is the sum of their unit coordinates; row 3 failed."""
    rng, arrays = np.random.default_rng(0), {}
    for dataset, view, model in itertools.product(SMALL["datasets"], SMALL["views"], SMALL["models"]):
        space = SPACES[model]
        settings = [space.from_unit(u) for u in rng.uniform(size=(ROWS, len(space)))]
        value = np.array([space.to_unit(setting).sum() for setting in settings], np.float32)
        value[3] = np.nan
        prefix = f"{dataset}.{view}.{model}"
        arrays[f"{prefix}.x"] = np.array([space.to_point(setting) for setting in settings], np.float32)
        arrays |= {f"{prefix}.{metric}": value for metric in metrics(dataset, model)}
    path = tmp_path_factory.mktemp("tables") / "hpo.safetensors"
    save_file(arrays, path)
    return path


@pytest.fixture
def small(path, monkeypatch):
    """Families by number of parameters, on those tables."""
    monkeypatch.setattr(hpo, "TABLES", path)
    return HPOConfig(**SMALL).indexed()


@jax.jit
def evaluate(family, x):
    return family.task(family.sample(jax.random.key(0))).evaluate(jax.random.key(1), x).value


def rows(path, family):
    """Points and metric of a family's table, as they are in the file."""
    dataset, view, model, metric = family.name
    arrays = load_file(path)
    return arrays[f"{dataset}.{view}.{model}.x"], arrays[f"{dataset}.{view}.{model}.{metric}"]


def test_the_rows_have_exactly_their_values(small, path):
    for family in (families[i] for families in small.values() for i in (0, -1)):
        x, value = rows(path, family)
        sign = 1 if GOALS[family.name.metric] == "minimize" else -1
        assert len(x) == ROWS and np.isnan(value[3])
        np.testing.assert_array_equal(evaluate(family, x), sign * value)


def test_between_the_rows_are_values_of_the_nearest_ones_weighted_by_squared_distance(small, path):
    """Against a loop over the rows in double precision, with the distances of the named space."""
    svm = next(f for f in small[3] if f.name.model == "svm")  # rows of a space of lists are often equally near
    for family in (svm, small[4][-1]):
        space, (x, value) = SPACES[family.name.model], rows(path, family)
        sign = 1 if GOALS[family.name.metric] == "minimize" else -1
        rng = np.random.default_rng(1)
        settings = [space.from_unit(u) for u in rng.uniform(size=(64, len(space)))]
        found = evaluate(family, np.array([space.to_point(s) for s in settings], np.float32))
        failed = 0
        for setting, y in zip(settings, found, strict=True):
            distances = []
            for row in map(space.from_point, x):
                apart = space.to_unit(setting) - space.to_unit(row)
                for i, p in enumerate(space.parameters):
                    if p.kind == "categorical":
                        apart[i] = setting[p.name] != row[p.name]
                distances.append(np.sum(apart**2))
            near = np.argsort(distances, kind="stable")[: len(space) + 1]
            if np.isnan(value[near[0]]) or distances[near[0]] < 1e-10:
                failed += np.isnan(y)
                np.testing.assert_array_equal(y, sign * value[near[0]])
                continue
            near = [i for i in near if not np.isnan(value[i])]
            expected = np.average(value[near], weights=[1 / distances[i] for i in near])
            np.testing.assert_allclose(y, sign * expected, rtol=1e-4)
            assert min(value[near]) - 1e-5 <= sign * y <= max(value[near]) + 1e-5
        assert failed < 16


def test_a_point_outside_counts_as_the_nearest_one_inside(small):
    family = small[3][0]
    space = SPACES[family.name.model].space
    outside, inside = jnp.stack([space.high + 7, space.low - 7]), jnp.stack([space.high, space.low])
    np.testing.assert_array_equal(evaluate(family, outside), evaluate(family, inside))


def test_the_task_starts_inside_and_knows_the_lowest_and_the_median_value(small, path):
    for family in (small[3][0], small[4][0]):
        task = family.task(family.sample(jax.random.key(0)))
        assert task.problem.space.contains(task.problem.start)
        _, value = rows(path, family)
        sign = 1 if GOALS[family.name.metric] == "minimize" else -1
        np.testing.assert_allclose(task.info["f_opt"], np.nanmin(sign * value))
        np.testing.assert_allclose(task.info["median"], np.nanmedian(sign * value), rtol=1e-6)
        x = jax.vmap(task.problem.space.sample)(jax.random.split(jax.random.key(2), 64))
        assert np.nanmin(evaluate(family, x)) >= task.info["f_opt"] - 1e-5


def test_one_program_serves_all_tasks_with_the_same_number_of_parameters(small):
    traces = []

    @jax.jit
    def run(family, x):
        traces.append(family)
        return family.task(family.sample(jax.random.key(4))).evaluate(jax.random.key(5), x).value

    for d, families in small.items():
        found = {run(family, jnp.ones((1, d))).item() for family in families}
        assert len(families) == 2 * 2 * 2 * 2 and len(found) > 1
    assert len(traces) == 2


@pytest.mark.slow
def test_parts_of_the_family_have_all_tasks_of_a_number_of_parameters(small, path):
    parts = HPOConfig(**SMALL).build().parts
    assert len(parts) == 2
    part = parts[0]
    sampled = jax.vmap(part.sample)(jax.random.split(jax.random.key(0), 256))
    assert set(np.asarray(sampled.number)) == {family.tables.number[0] for family in small[3]}
    value = jax.vmap(lambda p: part.task(p).evaluate(jax.random.key(0), jnp.ones((1, 3))).value)(sampled)
    alone = {int(f.tables.number[0]): evaluate(f, jnp.ones((1, 3))) for f in small[3]}
    for number, found in zip(np.asarray(sampled.number), value, strict=True):
        np.testing.assert_allclose(found, alone[int(number)], rtol=1e-6)
    assert len(HPOConfig(**(SMALL | {"models": ("knn",)})).build().parts) == 1


def test_a_blend_is_a_mean_of_tables_of_one_model(path, monkeypatch):
    monkeypatch.setattr(hpo, "TABLES", path)
    config = HPOConfig(**SMALL, blend=3)
    families = config.indexed()[3]
    family = next(f for f in families if f.name == Name("digits", 2, "svm", "accuracy"))
    assert {NAMES[n].model for n in family.pool.number} == {"svm"} and len(family.pool.number) == 8
    assert family.about["name"] == "svm on digits, part 2"
    tasks = [family.sample(key) for key in jax.random.split(jax.random.key(0), 8)]
    for params in tasks:
        assert NAMES[int(params.own.number)] == family.name and params.share.shape == (2,)
        assert np.all(params.share >= 0) and params.share.sum() <= 0.6
    assert len({float(params.share[0]) for params in tasks}) == 8
    x = jax.vmap(SPACES["svm"].space.sample)(jax.random.split(jax.random.key(1), 50))
    params = tasks[0]
    task = family.task(params)
    mean, units = 0.0, []
    for share, table in zip(
        [1 - params.share.sum(), *params.share],
        [params.own, *(jax.tree.map(operator.itemgetter(i), params.others) for i in (0, 1))],
        strict=True,
    ):
        least, median = np.nanmin(table.value), np.nanmedian(table.value)
        units.append((median, median - least))
        mean += share * (jax.vmap(lambda x, t=table: hpo.interpolated(t, x))(x) - median) / (median - least)
    found = task.evaluate(jax.random.key(0), x).value
    np.testing.assert_allclose(found, units[0][0] + units[0][1] * mean, rtol=1e-4)
    assert np.nanmin(found) >= task.info["f_opt"] - 1e-5
    pure = family.task(params._replace(share=0 * params.share)).evaluate(jax.random.key(0), x).value
    own = family.task(params.own).evaluate(jax.random.key(0), x).value
    failed = np.isnan(pure)
    np.testing.assert_allclose(pure[~failed], own[~failed], rtol=1e-4)
    shapes = {str(jax.tree.map(jnp.shape, f)) for f in families}
    assert len(shapes) == 1, "one program serves all"
    assert len(config.build().parts) == len(families) + len(config.indexed()[4])


def test_tasks_have_names():
    assert len(NAMES) == len(set(NAMES)) == len(DATASETS) * len(MODELS) * VIEWS * 2
    assert NAMES[0] == Name("digits", 0, "knn", "accuracy")
    assert {name.metric for name in NAMES} == set(GOALS) == set(HPOConfig().metrics)


def test_a_family_of_one_task_says_which(small):
    family = next(f for f in small[4] if f.name == Name("diabetes", 2, "mlp", "r2"))
    assert family.origin == "diabetes.2.mlp.r2"
    assert family.about == {
        "name": title("diabetes", "mlp", 2), "metric": "r2", "goal": "maximize", "space": SPACES["mlp"].to_dict()
    }  # fmt: skip


def test_held_out_datasets_are_for_testing_and_held_out_models_for_neither():
    train, test = (set(HPOConfig().names(split)) for split in ("train", "test"))
    assert {name.dataset for name in train} == {"digits", "wine", "diabetes"}
    assert {name.dataset for name in test} == {"breast_cancer"}
    assert {name.model for name in train} == {name.model for name in test} == set(MODELS) - {"gradient_boosting"}
    assert len(train) == 3 * 7 * VIEWS * 2 and len(test) == 7 * VIEWS * 2
    listed = HPOConfig(
        datasets=("digits", "wine", "diabetes"), models=("gradient_boosting",), held_out_models=(), views=(0,)
    )
    assert len(listed.names("test")) == 6 and listed.names("test") == listed.names("train")
    assert not set(listed.names()) & (train | test)
    chosen = HPOConfig(metrics=("r2", "accuracy"), views=(1,)).names()
    assert len(chosen) == 21 and {name.metric for name in chosen} == {"r2", "accuracy"}


@pytest.mark.parametrize(
    ("fields", "split"),
    [({"datasets": ("breast_cancer",)}, "train"), ({"models": ("gradient_boosting",)}, "test"),
     ({"datasets": ("digits",), "metrics": ("mae",)}, "train")],
)  # fmt: skip
def test_a_split_without_tasks_is_refused(fields, split):
    with pytest.raises(UserError, match=f"no task for {split}"):
        HPOConfig(**fields).build(split)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"datasets": ("iris",)}, "digits"), ({"models": ()}, "models"), ({"views": (VIEWS,)}, "views"),
     ({"metrics": ("auc",)}, "accuracy")],
)  # fmt: skip
def test_bad_fields_are_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        HPOConfig(**fields)


def test_missing_tables_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(hpo, "TABLES", tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="is missing: expected the tables"):
        HPOConfig().build()


def test_the_tables_of_the_package_are_whole():
    arrays = load_file(hpo.TABLES)
    assert len(arrays) == len(NAMES) * 3 // 2
    for name in NAMES:
        prefix, space = f"{name.dataset}.{name.view}.{name.model}", SPACES[name.model].space
        x, value = arrays[f"{prefix}.x"], arrays[f"{prefix}.{name.metric}"]
        assert x.shape == (256, len(SPACES[name.model])) and value.shape == (256,)
        assert np.all((x >= np.asarray(space.low)) & (x <= np.asarray(space.high)))
        assert np.ptp(value[np.isfinite(value)]) > 0


def test_a_row_of_the_package_is_what_the_model_does():
    table = load_file(hpo.TABLES)
    setting = SPACES["knn"].from_point(table["wine.1.knn.x"][5])
    assert live("wine", "knn", "accuracy", setting, 1) == pytest.approx(table["wine.1.knn.accuracy"][5], abs=0.02)
    assert live("wine", "knn", "log_loss", setting, 1) == score("wine", "knn", setting, 1)["log_loss"]
