"""Recorded studies: shards that depend on the seed alone, verified files, and values that another run finds again."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from pydantic import ValidationError

from l2o.errors import UserError
from l2o.record import ALGORITHMS
from l2o.space.domain import Space
from meta.recordings.dispatch import Part, Queue
from meta.recordings.recorded import TrajectoriesConfig
from meta.recordings.rollouts import Recorder, RolloutsConfig, by_dimension, generate, plan
from meta.recordings.trajectories import ARRAYS, MANIFEST, Studies, concatenate, load, read_manifest
from tasks.hpo import hpo
from tasks.hpo.models import SPACES

TASK = {"kind": "bbob_mixed", "functions": ["sphere", "step_ellipsoid"], "dimensions": [1, 3], "noises": ["none"]}
TEACHERS = [
    {"studies": 22, "optimizer": {"kind": "random"}},
    {"studies": 9, "optimizer": {"kind": "snes", "population_size": 4}, "algorithm": "evolution_strategy"},
]


def rollouts(**fields):
    return RolloutsConfig.model_validate(
        {"task": TASK, "teachers": TEACHERS, "trials": 6, "batch": 3, "shard": 6} | fields
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A finished set; read it, never write it."""
    out = tmp_path_factory.mktemp("recorded") / "set"
    generate(rollouts(), out, seed=5, devices=jax.devices()[:1])
    return out


def files(folder: Path):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_there_are_as_many_studies_as_asked_for_divided_evenly(recorded):
    studies, origins, manifest = load(recorded)
    assert manifest.studies == len(studies.length) == 31
    assert manifest.algorithms == {"evolution_strategy": 9, "random": 22}
    assert origins == ("f1_sphere", "f7_step_ellipsoid")
    random = studies.algorithm == ALGORITHMS.index("random")
    cells = itertools.product((1, 3), (0, 1))
    counts = [int(np.sum(random & (studies.dimension == d) & (studies.origin == o))) for d, o in cells]
    assert counts == [6, 6, 5, 5]
    assert len(set(studies.seed.tolist())) == 31 and manifest.licence


def test_arrays_are_padded_and_points_lie_in_their_spaces(recorded):
    studies = load(recorded).studies
    for name, (axes, dtype) in ARRAYS.items():
        assert getattr(studies, name).dtype == dtype and getattr(studies, name).ndim == len(axes)
    assert studies.x.shape == (31, 6, 3) and np.all(studies.length == 6)
    small = studies.dimension == 1
    assert (
        np.all(studies.high[small, 1:] == 1)
        and np.all(studies.ordered[small, 1:])
        and np.all(studies.x[small, :, 1:] == 0)
    )
    space = Space(*(jnp.asarray(getattr(studies, name)) for name in Space._fields))
    assert np.all(jax.vmap(lambda space, x: jax.vmap(space.contains)(x))(space, studies.x))
    assert set(studies.levels[~small].ravel()) >= {0, 2, 8}


@pytest.mark.slow
def test_another_evaluation_of_the_points_finds_the_values(recorded):
    config, studies = rollouts(), load(recorded).studies
    for d, members in by_dimension(config.task).items():
        for origin, family in enumerate(members):
            rows = (studies.dimension == d) & (studies.origin == origin)

            @jax.jit
            @jax.vmap
            def again(seed, x, family=family):
                task = family.task(family.sample(jax.random.split(jax.random.key(seed), 3)[0]))
                return task.evaluate(jax.random.key(0), x).value

            found = again(studies.seed[rows], studies.x[rows][..., :d])
            np.testing.assert_allclose(found, studies.y[rows], rtol=1e-4, atol=1e-4)
            assert np.std(studies.y[rows]) > 0


@pytest.mark.slow
def test_the_same_seed_makes_the_same_bytes_on_any_number_of_devices_and_another_seed_others(recorded, tmp_path):
    generate(rollouts(), tmp_path / "again", seed=5, devices=jax.devices()[:2])
    assert files(tmp_path / "again") == files(recorded)
    generate(rollouts(teachers=TEACHERS[:1]), tmp_path / "other", seed=6, devices=jax.devices()[:1])
    assert not np.array_equal(load(tmp_path / "other").studies.y[:12], load(recorded).studies.y[:12])


def test_what_was_stopped_goes_on_to_the_same_bytes(recorded, tmp_path):
    class Stop(Exception):
        pass

    def stop(row):
        if row["studies"] >= 10:
            raise Stop

    with pytest.raises(Stop):
        generate(rollouts(), tmp_path, seed=5, report=stop, devices=jax.devices()[:1])
    begun = read_manifest(tmp_path)
    assert 0 < len(begun.shards) < begun.planned
    with pytest.raises(UserError, match="unfinished"):
        load(tmp_path)
    kept = {shard.file: (tmp_path / shard.file).stat().st_mtime_ns for shard in begun.shards}
    (tmp_path / "shard-00005.safetensors").write_bytes(b"half a shard that no manifest lists")
    rows = []
    generate(rollouts(), tmp_path, seed=5, report=rows.append, devices=jax.devices()[:1])
    assert files(tmp_path) == files(recorded)
    assert kept == {name: (tmp_path / name).stat().st_mtime_ns for name in kept}
    assert rows[-1]["studies"] == rows[-1]["total"] == 31 and rows[-1]["seconds_left"] == 0


def test_another_config_does_not_go_on(recorded):
    with pytest.raises(UserError, match="trials changed from 6 to 7"):
        generate(rollouts(trials=7), recorded, seed=5)


@pytest.fixture
def copy(recorded, tmp_path):
    for name, data in files(recorded).items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def edit(folder, **fields):
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda d: (d / "shard-00001.safetensors").unlink(), "shard-00001.*cannot be read"),
        (lambda d: (d / "shard-00001.safetensors").write_bytes(b"x"), "checksum"),
        (lambda d: edit(d, version=9), "format version 9, expected 1"),
        (lambda d: edit(d, format="other"), "format"),
        (lambda d: edit(d, trials="six"), "trials"),
        (lambda d: edit(d, trials=2), r"\[6, 6, 1\]|\[.*6, 3\]"),
        (lambda d: (d / MANIFEST).write_text("{"), "cannot be read"),
        (lambda d: (d / MANIFEST).unlink(), "has no manifest.json"),
    ],
)
def test_harm_is_one_sentence(copy, harm, words):
    harm(copy)
    with pytest.raises(UserError, match=words) as caught:
        load(copy)
    assert "\n" not in str(caught.value)


def test_a_changed_shard_is_refused_when_going_on(copy):
    (copy / "shard-00000.safetensors").write_bytes(b"changed")
    with pytest.raises(UserError, match="checksum"):
        generate(rollouts(), copy, seed=5)


@pytest.mark.parametrize("shard", [1, 2, 5, 7, 1000])
def test_the_plan_has_every_study_once_and_one_size_of_batch_for_each_program(shard):
    config = rollouts(shard=shard, teachers=[*TEACHERS, {"studies": 1, "optimizer": {"kind": "random"}}])
    parts = plan(config, by_dimension(config.task))
    assert [part.number for part in parts] == list(range(len(parts)))
    for i, teacher in enumerate(config.teachers):
        mine = [part for part in parts if part.teacher == i]
        assert sum(sum(part.counts) for part in mine) == teacher.studies
        assert all(0 < sum(part.counts) <= max(shard, 2) and part.batch <= 3 for part in mine)
        assert len({(part.dimension, part.batch) for part in mine}) == len({part.dimension for part in mine})


def test_threads_keep_to_one_program_and_help_when_nothing_else_is_left():
    parts = [Part(i, i // 3, 2, (1,), 1) for i in range(6)]
    queue = Queue(parts)
    first, second = queue.take(None), queue.take(None)
    assert (first, second) == (parts[0], parts[3])
    assert [queue.take(first), queue.take(first), queue.take(first)] == [parts[1], parts[2], parts[4]]
    assert queue.take(second) == parts[5] and queue.take(second) is None


def test_studies_with_and_without_names_follow_each_other():
    def studies(n, t, d, names=None):
        sizes = {"N": n, "T": t, "D": d}
        arrays = {k: np.ones([sizes[a] for a in axes], dtype) for k, (axes, dtype) in ARRAYS.items()}
        if names is None:
            return Studies(**arrays)
        texts = [json.dumps({"name": name}).encode() for name in names]
        return Studies(**arrays, text=np.frombuffer(b"".join(texts), np.uint8), text_end=np.cumsum([*map(len, texts)]))

    whole = concatenate([studies(2, 3, 1), studies(2, 2, 2, ["ä", "b"]), studies(1, 1, 1, ["c"])], 3, 2)
    assert [whole.about(i) for i in range(5)] == [None, None, {"name": "ä"}, {"name": "b"}, {"name": "c"}]
    assert whole.x.shape == (5, 3, 2) and whole.x[4].sum() == 1 and whole.high.sum() == 5 * 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"teachers": [{"studies": 1, "optimizer": {"kind": "sobol"}}]}, "algorithm: found 'sobol'"),
        ({"teachers": []}, "teachers"),
        ({"trials": 0}, "trials"),
    ],
)
def test_bad_fields_are_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        rollouts(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": {"kind": "quadratic"}}, "no space"),
        ({"teachers": [{"studies": 1, "optimizer": {"kind": "tpe"}, "algorithm": "unknown"}]}, "runs on the host"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_is_written(tmp_path, fields, words):
    with pytest.raises(UserError, match=words):
        generate(rollouts(**fields), tmp_path / "set", seed=0)
    assert not (tmp_path / "set").exists()


@pytest.mark.slow
def test_programs_that_call_lapack_run_one_at_a_time():
    """Two at once can wait for each other's threads for ever."""
    settings = {"max_trials": 3, "initial": 1, "candidates": 8, "fit_steps": 1, "ascent_steps": 1}
    teachers = [
        {"optimizer": {"kind": "gp_ucb", **settings}, "studies": 4},
        {"optimizer": {"kind": "random"}, "studies": 4},
    ]
    task = {"kind": "bbob_mixed", "functions": ["sphere"], "dimensions": [1]}
    config = RolloutsConfig.model_validate({"task": task, "teachers": teachers, "trials": 3, "shard": 2})
    recorder = Recorder(config, 0)
    for part in recorder.plan:
        assert recorder.compute(part, jax.devices()[0], lambda: True) is not None
    assert recorder.serial == {(0, 1): True, (1, 1): False}


@pytest.fixture
def tuning(monkeypatch, tmp_path):
    """Two families of one task each, of three parameters, with names."""
    rng = np.random.default_rng(0)
    arrays = {}
    for model in ("knn", "svm"):
        space = SPACES[model]
        settings = [space.from_unit(u) for u in rng.uniform(size=(20, 3))]
        arrays[f"wine.0.{model}.x"] = np.array([space.to_point(s) for s in settings], np.float32)
        arrays[f"wine.0.{model}.accuracy"] = rng.uniform(size=20).astype(np.float32)
    safetensors.numpy.save_file(arrays, tmp_path / "tables.safetensors")
    monkeypatch.setattr(hpo, "TABLES", tmp_path / "tables.safetensors")
    return {"kind": "hpo", "datasets": ["wine"], "models": ["knn", "svm"], "views": [0], "metrics": ["accuracy"]}


def test_studies_of_tasks_with_names_keep_them(tuning, recorded, tmp_path):
    config = rollouts(task=tuning, teachers=TEACHERS[:1], shard=8)
    manifest = generate(config, tmp_path / "named", seed=1, devices=jax.devices()[:1])
    assert manifest.planned == 3 and manifest.origins == ("wine.0.knn.accuracy", "wine.0.svm.accuracy")
    studies = load(tmp_path / "named").studies
    for i in range(22):
        model = ("knn", "svm")[studies.origin[i]]
        assert studies.about(i) == {
            "name": f"{model} on wine", "metric": "accuracy", "goal": "maximize", "space": SPACES[model].to_dict()
        }  # fmt: skip
    assert np.all(studies.y < 0), "what is maximized is recorded as its negative"
    sets = [recorded, tmp_path / "named"]
    records = TrajectoriesConfig(paths=tuple(map(str, sets))).build().studies
    assert len(records.length) == 31 + 22 and np.all(records.names[:31] < 0) and np.all(records.names[31:, :, 0] >= 0)
    both = concatenate([load(path).studies for path in sets], 6, 3)
    assert both.about(0) is None and both.about(52) == studies.about(21)
