"""Tables of HPO-B: the nearest row counts, tables of any length are one program, and every mistake is one sentence."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.errors import UserError
from meta.recordings.rollouts import RolloutsConfig, generate
from meta.recordings.trajectories import load
from tasks.hpo.hpob import HPOBConfig, read

TRAIN, TEST = "meta-train-dataset.json", "meta-test-dataset.json"


def tables(rng, **shapes):
    """{search space: {dataset: rows}} of so many rows and columns; all values are different."""
    return {
        space: {
            name: {"X": rng.uniform(size=shape).tolist(), "y": rng.uniform(size=(shape[0], 1)).tolist()}
            for name, shape in datasets.items()
        }
        for space, datasets in shapes.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("hpob")
    train = tables(rng, s4796={"3": (12, 3), "31": (5, 3)}, s5527={"3": (7, 2)}, s5636={"7": (9, 3)})
    train["s4796"]["3"]["y"][2] = [float("nan")]
    (folder / TRAIN).write_text(json.dumps(train))
    (folder / TEST).write_text(json.dumps(tables(rng, s4796={"37": (6, 3)})))
    return folder


@jax.jit
def evaluate(family, x):
    return family.task(family.sample(jax.random.key(0))).evaluate(jax.random.key(1), x).value


def test_a_point_has_the_value_of_the_nearest_row_and_values_are_negated(folder):
    families = HPOBConfig(path=str(folder)).indexed()
    found = {family.origin: family for members in families.values() for family in members}
    assert set(found) == {"s4796/3", "s4796/31", "s5527/3", "s5636/7"}
    rng = np.random.default_rng(1)
    for table in read(folder / TRAIN):
        family = found[f"{table.space}/{table.dataset}"]
        np.testing.assert_array_equal(evaluate(family, table.x.astype(np.float32)), -table.y.astype(np.float32))
        x = rng.uniform(size=(50, table.x.shape[1]))
        nearest = np.argmin(np.sum((x[:, None] - table.x[None]) ** 2, -1), 1)
        np.testing.assert_allclose(evaluate(family, x.astype(np.float32)), -table.y[nearest], rtol=1e-6)
        task = family.task(family.sample(jax.random.key(0)))
        np.testing.assert_allclose(task.info["f_opt"], -np.nanmax(table.y), rtol=1e-6)
        assert task.problem.space.contains(task.problem.start)


def test_tables_of_any_length_are_one_program_and_parts_have_all_of_them(folder):
    traces = []

    @jax.jit
    def run(family, key):
        traces.append(family)
        return family.task(family.sample(key)).evaluate(jax.random.key(1), jnp.full((1, 3), 0.3)).value[0]

    config = HPOBConfig(path=str(folder))
    alone = {run(family, jax.random.key(0)).item() for family in config.indexed()[3]}
    assert len(alone) == 3 and len(traces) == 1
    parts = config.build().parts
    assert [part.x.shape for part in parts] == [(1, 7, 2), (3, 12, 3)]
    assert {run(parts[1], key).item() for key in jax.random.split(jax.random.key(2), 32)} == alone
    (only,) = HPOBConfig(path=str(folder), search_spaces=("s5527",)).build().parts
    assert only.origin == "s5527/3"


def test_the_splits_are_the_files(folder):
    config = HPOBConfig(path=str(folder))
    assert [family.origin for family in config.indexed("test")[3]] == ["s4796/37"]
    assert config.build("test").parts[0].about == {
        "name": "s4796", "metric": "accuracy", "goal": "maximize",
        "space": {f"x{i}": {"kind": "float", "low": 0.0, "high": 1.0} for i in range(3)},
    }  # fmt: skip
    swapped = HPOBConfig(path=str(folder), train=TEST, test=TRAIN)
    assert len(swapped.indexed("test")[3]) == 3


def test_they_can_be_recorded(folder, tmp_path):
    config = RolloutsConfig.model_validate({
        "task": {"kind": "hpob", "path": str(folder)}, "trials": 4, "batch": 2,
        "teachers": [{"studies": 8, "optimizer": {"kind": "random"}}],
    })  # fmt: skip
    generate(config, tmp_path / "set", seed=0, devices=jax.devices()[:1])
    studies, origins, _ = load(tmp_path / "set")
    assert sorted(origins[i] for i in studies.origin) == sorted(2 * ["s4796/3", "s4796/31", "s5527/3", "s5636/7"])
    assert {studies.about(i)["name"] for i in range(8)} == {"s4796", "s5527", "s5636"}


@pytest.mark.parametrize(
    ("fields", "split", "words"),
    [
        ({"path": "nowhere"}, "train", "there is no folder nowhere"),
        ({"test": "none.json"}, "test", "none.json cannot be read"),
        ({"train": "broken.json"}, "train", "not valid JSON"),
        ({"train": "list.json"}, "train", "found list"),
        ({"train": "empty.json"}, "train", "has no table"),
        ({"search_spaces": ("s5527",)}, "test", "no search space 's5527'"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(folder, fields, split, words):
    for name, text in (("broken", "{"), ("list", "[]"), ("empty", "{}")):
        (folder / f"{name}.json").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        HPOBConfig(**({"path": str(folder)} | fields)).build(split)
    assert "\n" not in str(caught.value)
