"""Studies of Optuna and of HPO-B as recorded studies, and what has no equal here."""

import json

import numpy as np
import optuna
import pytest

from l2o.errors import UserError
from l2o.host.view import NamedView
from l2o.record import ALGORITHMS
from l2o.space.searchspace import SearchSpace
from meta.recordings.imports import HPOBImportConfig, OptunaStudiesConfig
from meta.recordings.trajectories import load

NOWHERE = lambda row: None  # noqa: E731


def recorded(config, out, seed=0):
    out.mkdir(exist_ok=True)
    config.record(out, seed, config.model_dump(mode="json"), NOWHERE)
    return load(out)


@pytest.fixture
def url(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return f"sqlite:///{tmp_path}/studies.db"


def study(url, name="lr", **fields):
    return optuna.create_study(storage=url, study_name=name, sampler=optuna.samplers.RandomSampler(0), **fields)


def suggest(trial):
    rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
    layers = trial.suggest_int("layers", 1, 8)
    return rate * layers + (trial.suggest_categorical("kind", ["a", "b", "ü"]) == "ü")


def test_trials_of_optuna_are_found_again(url, tmp_path):
    made = study(url, direction="maximize")

    def objective(trial):
        value = suggest(trial)
        if trial.number == 2:
            raise RuntimeError("failed")
        if trial.number == 4:
            raise optuna.TrialPruned
        return value

    made.optimize(objective, n_trials=7, catch=(RuntimeError,))
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        made.set_metric_names(["score"])
    early = made.ask()  # failed before anything was suggested
    made.tell(early, state=optuna.trial.TrialState.FAIL)
    suggest(made.ask())  # still running
    study(url, "other").optimize(lambda trial: trial.suggest_float("x", -1, 1, step=0.5), n_trials=3)
    study(url, "empty")
    studies, origins, manifest = recorded(OptunaStudiesConfig(url=url), tmp_path / "out")
    assert origins == ("lr", "other") and manifest.licence is None
    assert studies.length.tolist() == [7, 3] and studies.dimension.tolist() == [3, 1]
    about = studies.about(0)
    assert (about["name"], about["metric"], about["goal"]) == ("lr", "score", "maximize")
    space = SearchSpace.from_dict(about["space"])
    expected = made.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    done = [0, 1, 3, 5, 6]
    assert np.flatnonzero(np.isfinite(studies.y[0])).tolist() == done
    for i, trial in zip(done, expected, strict=True):
        assert studies.y[0, i] == pytest.approx(-trial.value, rel=1e-6)
        found = NamedView(space).assignment(studies.x[0, i], 0)
        assert found["layers"] == trial.params["layers"] and found["kind"] == trial.params["kind"]
        assert found["rate"] == pytest.approx(trial.params["rate"], rel=1e-6)
    assert studies.levels[0].tolist() == [0, 8, 3] and studies.ordered[0].tolist() == [True, True, False]
    assert studies.levels[1].tolist() == [5, 0, 0] and studies.high[1].tolist() == [4, 1, 1]
    assert studies.about(1)["goal"] == "minimize" and set(studies.algorithm) == {0}


def test_numbers_far_from_zero_keep_their_digits(url, tmp_path):
    """Those of parameters and those of values, of which what is far is the same for all."""
    made = study(url)
    made.optimize(lambda trial: 1e9 + (trial.suggest_float("t", 1.7e9, 1.7e9 + 60) - 1.7e9) ** 2, n_trials=9)
    studies, _, _ = recorded(OptunaStudiesConfig(url=url), tmp_path / "out")
    view = NamedView(SearchSpace.from_dict(studies.about(0)["space"]))
    goal = -1 if studies.about(0)["goal"] == "maximize" else 1
    values = np.array([goal * trial.value for trial in made.trials])
    np.testing.assert_allclose(studies.y[0] - studies.y[0].min(), values - values.min(), rtol=1e-5, atol=1e-3)
    for row, trial in zip(studies.x[0], made.trials, strict=True):
        assert view.assignment(row, 0)["t"] == pytest.approx(trial.params["t"], abs=1e-4)


def test_studies_are_chosen_by_name_and_written_in_shards(url, tmp_path):
    for i in range(5):
        study(url, f"s{i}").optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    config = OptunaStudiesConfig(url=url, studies=("s3", "s1", "s0"), shard=2, algorithm="random", licence="CC0")
    studies, origins, manifest = recorded(config, tmp_path / "out")
    assert origins == ("s3", "s1", "s0") and len(manifest.shards) == 2 and manifest.licence == "CC0"
    assert [studies.about(i)["name"] for i in range(3)] == ["s3", "s1", "s0"]
    assert set(studies.algorithm) == {ALGORITHMS.index("random")}


def conditional(trial):
    return trial.suggest_float("x", 0, 1) if trial.number else trial.suggest_float("y", 0, 1)


@pytest.mark.parametrize(
    ("fields", "objective", "words"),
    [
        ({"directions": ["minimize", "maximize"]}, lambda t: (t.suggest_float("x", 0, 1), 1.0), "2 objectives"),
        ({}, conditional, "trial 1 has other parameters"),
        ({}, lambda t: t.suggest_float("x", 0, 1 + t.number), "ranges"),
        ({}, lambda t: 0.0, "no study"),
    ],
)
def test_what_has_no_equal_here_is_refused(url, tmp_path, fields, objective, words):
    study(url, **fields).optimize(objective, n_trials=3)
    with pytest.raises(UserError, match=words) as caught:
        recorded(OptunaStudiesConfig(url=url), tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_studies_as_the_sampler_reads_them(url, tmp_path):
    made = study(url, direction="maximize")

    def objective(trial):
        value = suggest(trial)
        trial.suggest_float("extra", 0, 1 + trial.number)  # its range changes
        trial.suggest_float("one", 2.0, 2.0)
        trial.report(value / 2, trial.number)
        if trial.number == 2:
            raise RuntimeError("failed")
        if trial.number == 4:
            raise optuna.TrialPruned
        return value

    made.optimize(objective, n_trials=6, catch=(RuntimeError,))
    suggest(made.ask())  # still running
    study(url, "conditional").optimize(conditional, n_trials=6)  # no trials share a parameter
    study(url, "two", directions=["minimize"] * 2).optimize(lambda t: (suggest(t), 1.0), n_trials=6)
    study(url, "wide").optimize(lambda t: sum(t.suggest_float(f"x{i}", 0, 1) for i in range(17)), n_trials=6)
    study(url, "short").optimize(suggest, n_trials=4)
    study(url, None).optimize(suggest, n_trials=5)
    config = OptunaStudiesConfig(url=url, as_sampler=True, fewest=5)
    studies, origins, _ = recorded(config, tmp_path / "out")
    assert studies.length.tolist() == [6, 5] and studies.dimension.tolist() == [3, 3]
    assert [studies.about(i)["name"] for i in range(2)] == ["lr", ""] and origins[1].startswith("no-name-")
    space = SearchSpace.from_dict(studies.about(0)["space"])
    assert space.names == ["kind", "layers", "rate"] and studies.about(0)["metric"] == ""
    for i, trial in enumerate(made.get_trials()[:6]):
        value = {2: np.nan, 4: trial.intermediate_values[i]}.get(i, trial.value)
        assert -studies.y[0, i] == pytest.approx(value, rel=1e-6, nan_ok=True)
        assert NamedView(space).assignment(studies.x[0, i], 0)["layers"] == trial.params["layers"]


def test_a_storage_that_is_not_there_is_not_created(url, tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        recorded(OptunaStudiesConfig(url=url), tmp_path / "out")
    assert not (tmp_path / "studies.db").exists()
    (tmp_path / "studies.db").write_text("no database")
    with pytest.raises(UserError, match="cannot be read"):
        recorded(OptunaStudiesConfig(url=url), tmp_path / "out")
    with pytest.raises(UserError, match="cannot be read"):
        recorded(OptunaStudiesConfig(url="nonsense"), tmp_path / "out")
    (tmp_path / "studies.db").unlink()
    study(url)
    with pytest.raises(UserError, match="no study 'mine', only lr"):
        recorded(OptunaStudiesConfig(url=url, studies=("mine",)), tmp_path / "out")


@pytest.fixture
def hpob(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(25, 3)).tolist()
    y = [[float(np.sum(row))] for row in x]
    y[0] = [float("nan")]
    path = tmp_path / "hpob.json"

    def write(**changes):
        tables = {"4796": {"3549": {"X": x, "y": y}, "3918": {"X": [[0.5]], "y": [[0.9]]}}, "5527": {}}
        path.write_text(json.dumps(tables | changes))
        return str(path)

    return write


def test_every_row_of_hpob_is_in_one_study(hpob, tmp_path):
    studies, origins, manifest = recorded(HPOBImportConfig(path=hpob(), trials=10), tmp_path / "out")
    assert origins == ("4796/3549", "4796/3918") and studies.length.tolist() == [10, 10, 5, 1]
    assert studies.dimension.tolist() == [3, 3, 3, 1] and manifest.trials == 10
    rows = np.concatenate([studies.x[i, :n] for i, n in enumerate(studies.length[:3])])
    values = np.concatenate([studies.y[i, :n] for i, n in enumerate(studies.length[:3])])
    finite = np.isfinite(values)
    assert finite.sum() == 24 and len(np.unique(rows, axis=0)) == 25
    np.testing.assert_allclose(values[finite], -rows[finite].sum(1), rtol=1e-6)
    assert studies.about(0)["goal"] == "maximize" and studies.y[3, 0] == pytest.approx(-0.9)
    few = recorded(HPOBImportConfig(path=hpob(), trials=10, most=1, spaces=("4796",)), tmp_path / "few")
    assert few.studies.length.tolist() == [10, 1]
    again = recorded(HPOBImportConfig(path=hpob(), trials=10), tmp_path / "again").studies
    other = recorded(HPOBImportConfig(path=hpob(), trials=10), tmp_path / "other", seed=1).studies
    np.testing.assert_array_equal(again.x, studies.x)
    assert not np.array_equal(other.x, studies.x)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"4796": []}, "4796: found list"),
        ({"4796": {"1": {"X": [[0.5]]}}}, r"4796.1"),
        ({"4796": {"1": {"X": [[0.5], [0.4]], "y": [[1.0]]}}}, "a row for each"),
        ({"4796": {"1": {"X": [[1.5]], "y": [[1.0]]}}}, "between 0 and 1"),
        ({"4796": {"1": {"X": [["a"]], "y": [[1.0]]}}}, "array of numbers"),
        ({"4796": {}}, "no study"),
    ],
)
def test_a_file_that_is_not_of_hpob_is_refused(hpob, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        recorded(HPOBImportConfig(path=hpob(**changes)), tmp_path / "out")


def test_a_missing_file_or_space_of_hpob_is_refused(hpob, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        recorded(HPOBImportConfig(path=str(tmp_path / "none.json")), tmp_path / "out")
    with pytest.raises(UserError, match="no search space '1'"):
        recorded(HPOBImportConfig(path=hpob(), spaces=("1",)), tmp_path / "out")
    hpob()
    (tmp_path / "hpob.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "hpob.json").read_bytes())
    assert len(recorded(HPOBImportConfig(path=str(tmp_path / "hpob.json")), tmp_path / "mark").studies.length) == 2
    (tmp_path / "hpob.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        recorded(HPOBImportConfig(path=str(tmp_path / "hpob.json")), tmp_path / "out")
