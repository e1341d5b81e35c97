"""A study tunes what it should, runs everything on the same tasks, and writes down what happened."""

import json
import math

import jax
import numpy as np
import pytest

import l2o
from experiments import Curves
from experiments.study import engine
from experiments.study.columns import columns
from experiments.study.curves import run as module
from experiments.study.curves.results import compare
from experiments.study.curves.run import measures, tune
from experiments.study.rates import rates_of
from l2o.baselines.optax import AdamConfig, SGDConfig
from l2o.errors import UserError
from l2o.gradient.lstm import LSTMConfig
from meta.evaluate import evaluate
from tasks.quadratic import QuadraticConfig

DATA = {
    "description": "tiny",
    "seed": 1,
    "horizon": 6,
    "runs": 4,
    "steps": [2, 6],
    "baselines": [{"kind": "sgd"}, {"kind": "adam"}],
    "tune": {"low": 0.01, "high": 10.0, "per_decade": 1, "runs": 3},
    "task": {"kind": "quadratic", "dimension": 2, "start_scale": 1.0},
}


def study_of(**edits):
    tuning = {**DATA["tune"], **edits.pop("tune", {})}
    return Curves.parse({**DATA, "tune": tuning, **edits}, "here")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A learned optimizer that has learned nothing."""
    config = LSTMConfig(layers=1, hidden=2)
    return l2o.save(tmp_path_factory.mktemp("zoo") / "fresh", config, config.build().init(jax.random.key(0)))


@pytest.fixture(scope="module")
def done(tmp_path_factory, fresh):
    """A finished study: its directory, results and what it said."""
    out, said = tmp_path_factory.mktemp("study") / "out", []
    results = engine.run(study_of(optimizers=[str(fresh)]), out, said.append)
    return out, results, said


def values(config, rate, split, folded, tasks, study):
    key = jax.random.fold_in(jax.random.key(study.seed), folded)
    out = evaluate(config.build, rate, study.task.build(split), key, tasks=tasks, horizon=6, batch=study.batch)
    return np.asarray(out["value"], np.float64)


def test_the_directory_holds_everything(done, strict_json):
    out, results, _ = done
    assert {path.name for path in out.iterdir()} == {
        "config.toml",
        "results.json",
        "curves.png",
        "report.html",
        "cells",
    }
    assert strict_json((out / "results.json").read_text()) == json.loads(json.dumps(results))
    assert Curves.load(out / "config.toml") == Curves.parse(results["study"], "results")


def test_one_row_for_each_optimizer_task_and_seed(done):
    _, results, _ = done
    found = [(row["optimizer"], row["task"], row["seed"]) for row in results["rows"]]
    assert found == [(name, "quadratic", seed) for name in ("fresh", "sgd", "adam") for seed in range(4)]
    for row in results["rows"]:
        assert math.isfinite(row["step 2"]) and math.isfinite(row["step 6"]) and row["diverged"] is False


def test_learned_optimizers_are_told_apart(done):
    _, results, said = done
    assert results["learned"] == ["fresh"]
    assert set(results["chosen"]) == {"sgd", "adam"}
    assert [line.split(":")[0] for line in said if "left" not in line] == [
        "4 runs of 6 steps for each of 3 optimizers", "ran fresh", "tuned sgd", "ran sgd", "tuned adam", "ran adam",
    ]  # fmt: skip
    assert sum(line.startswith("5/5 | ran adam") for line in said) == 1
    pairs = [(c["optimizer"], c["against"], c["measure"]) for c in results["comparisons"]]
    measured = ("step 2", "step 6", "mean to 2", "mean to 6")
    assert pairs == [("fresh", other, measure) for other in ("sgd", "adam") for measure in measured]


@pytest.mark.parametrize("config", [SGDConfig(), AdamConfig()], ids=lambda config: config.kind)
def test_the_tuned_rate_is_the_best_of_the_grid_on_the_training_split(done, config):
    _, results, _ = done
    study = Curves.parse(results["study"], "results")
    rates = [0.01, 0.1, 1.0, 10.0]
    tried = [values(config, rate, "train", 1, 3, study) for rate in rates]
    for step in (2, 6):
        losses = [value[:, step].mean() for value in tried]
        best = rates[int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))]
        assert results["chosen"][config.kind][f"step {step}"] == pytest.approx(best)


@pytest.mark.parametrize("config", [SGDConfig(), AdamConfig()], ids=lambda config: config.kind)
def test_rows_are_the_runs_at_the_chosen_rate_on_the_test_split(done, config):
    _, results, _ = done
    study = Curves.parse(results["study"], "results")
    rows = [row for row in results["rows"] if row["optimizer"] == config.kind]
    for step in (2, 6):
        rate = results["chosen"][config.kind][f"step {step}"]
        expected = values(config, rate, "test", 0, 4, study)[:, step]
        np.testing.assert_allclose([row[f"step {step}"] for row in rows], expected, rtol=1e-5)


def test_tuning_and_reporting_see_other_tasks(done):
    _, results, _ = done
    study = Curves.parse(results["study"], "results")
    tuned, reported = values(SGDConfig(), 0.1, "train", 1, 3, study), values(SGDConfig(), 0.1, "test", 0, 4, study)
    assert not set(tuned[:, 0]) & set(reported[:, 0])


def test_rates_are_tuned_on_the_training_split_and_rows_are_of_the_test_split(tmp_path, monkeypatch):
    """The splits of the quadratics above are one distribution, so that their numbers would not tell."""

    class Split(QuadraticConfig):
        def build(self, split="train"):
            return QuadraticConfig(dimension=2, start_scale={"train": 1.0, "test": 2.0}[split]).build()

    seen = []

    def evaluated(make, argument, family, key, *, tasks, horizon, **options):
        seen.append((tasks, family.start_scale))
        return {"value": np.ones((tasks, horizon + 1))}

    monkeypatch.setattr(module, "evaluate", evaluated)
    monkeypatch.setattr(engine.reports, "write", lambda out, results, report: None)
    study = study_of(baselines=[{"kind": "sgd"}]).model_copy(update={"task": Split(dimension=2)})
    engine.run(study, tmp_path / "out", lambda line: None)
    # 3 runs for each of the rates that are tried, and 4 that are reported
    assert seen == [(3, 1.0)] * 4 + [(4, 2.0)]


def test_every_optimizer_starts_at_the_same_points(done):
    _, results, _ = done
    starts = {name: curve["mean"][0] for name, curve in results["curves"].items()}
    assert len(starts) == 3 and len(set(starts.values())) == 1
    study = Curves.parse(results["study"], "results")
    assert starts["sgd"] == pytest.approx(values(SGDConfig(), 0.1, "test", 0, 4, study)[:, 0].mean(), rel=1e-6)
    assert all(len(curve["mean"]) == 7 for curve in results["curves"].values())


def without_time(results):
    return {name: value for name, value in results.items() if name != "seconds"}


def test_the_same_seed_gives_the_same_rows(done, tmp_path, fresh):
    _, results, _ = done
    again = engine.run(study_of(optimizers=[str(fresh)]), tmp_path / "again", lambda line: None)
    assert without_time(again) == without_time(results)
    other = engine.run(study_of(optimizers=[str(fresh)], baselines=[], seed=2), tmp_path / "other", lambda line: None)
    for ours, theirs in zip(results["rows"], other["rows"], strict=False):
        assert ours["step 6"] != theirs["step 6"]


def test_the_size_of_a_batch_changes_nothing(done, tmp_path, fresh):
    _, results, _ = done
    again = engine.run(study_of(optimizers=[str(fresh)], batch=3), tmp_path / "again", lambda line: None)
    assert again["chosen"] == results["chosen"]
    for ours, theirs in zip(results["rows"], again["rows"], strict=True):
        assert ours["step 6"] == pytest.approx(theirs["step 6"], rel=1e-4)


def test_a_learned_optimizer_can_be_a_run_directory(trained, tmp_path):
    study = study_of(optimizers=[str(trained)], baselines=[{"kind": "sgd", "learning_rate": 0.1}])
    results = engine.run(study, tmp_path / "out", lambda line: None)
    assert results["learned"] == [trained.name]


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        ({"low": 0.01, "high": 10.0, "per_decade": 1}, [0.01, 0.1, 1.0, 10.0]),
        ({"low": 1e-3, "high": 1e-1, "per_decade": 2}, [10**-3, 10**-2.5, 10**-2, 10**-1.5, 10**-1]),
        ({"low": 0.1, "high": 1.0, "per_decade": 10}, 10 ** np.linspace(-1, 0, 11)),
        ({"low": 1e-3, "high": 30.0, "per_decade": 10}, 10 ** (np.arange(-30, 16) / 10)),
    ],
)
def test_the_grid_holds_powers_of_ten(tune, expected):
    np.testing.assert_allclose(rates_of(study_of(tune=tune).tune), expected, rtol=1e-12)


def test_measures_are_read_off_the_right_steps():
    study = study_of(horizon=200, steps=[20, 100, 200])
    value = np.arange(201.0)[None] * np.array([[1.0], [2.0]])
    found = {name: measure(value).tolist() for name, measure in measures(study).items()}
    assert found == {
        "step 20": [20.0, 40.0], "step 100": [100.0, 200.0], "step 200": [200.0, 400.0],
        "mean to 20": [10.5, 21.0], "mean to 100": [50.5, 101.0], "mean to 200": [100.5, 201.0],
    }  # fmt: skip


class Now:
    """Makes pieces on the spot, and keeps nothing but what is said."""

    def __init__(self):
        self.said = []
        self.say = self.said.append

    def __call__(self, path, what, program):
        return program()


MEASURES = ("step 2", "step 6", "mean to 2", "mean to 6")
BEST = {"step 2": 1.0, "step 6": 0.1}  # what minimises each measure in the stand-in below
MEAN = 0.01


@pytest.fixture
def stand_in(monkeypatch):
    """Losses that are known: rate 1 is best at step 2, 0.1 at step 6, and 0.01 in the mean and at step 3."""
    tried = []

    def evaluate(study, make, rate, family, key, runs, measure):
        tried.append((rate, family, runs))
        value = np.full((runs, 7), 5.0)
        value[:, 2] -= 1.0 * np.isclose(rate, BEST["step 2"])
        value[:, 6] -= 1.0 * np.isclose(rate, BEST["step 6"])
        value[:, 3] -= 2.0 * np.isclose(rate, MEAN)
        value[:, 0] -= 100.0 * np.isclose(rate, 10.0)  # the start is not to be counted
        return {"value": value}

    monkeypatch.setattr(module, "_values_of_runs", evaluate)
    return tried


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("each", {"step 2": 1.0, "step 6": 0.1, "mean to 2": 1.0, "mean to 6": 0.01}),
        ("mean", dict.fromkeys(MEASURES, 0.01)),
        (6, dict.fromkeys(MEASURES, 0.1)),
        (3, dict.fromkeys(MEASURES, 0.01)),
    ],
)
def test_what_the_rate_is_chosen_for(stand_in, measure, expected):
    study, pieces = study_of(tune={"measure": measure}), Now()
    (column, _) = columns(study)
    assert tune(study, column, "the training family", pieces) == pytest.approx(expected)
    said = pieces.said
    np.testing.assert_allclose([rate for rate, *_ in stand_in], [0.01, 0.1, 1.0, 10.0])
    assert {more for _, *more in map(list, stand_in) for more in more} == {"the training family", 3}
    assert len(said) == 1 and said[0].startswith("tuned sgd: ")
    for rate in set(expected.values()):
        assert f"{rate:.3g}" in said[0]
    assert ("edge of the grid" in said[0]) == (0.01 in expected.values())


def test_rates_that_diverge_are_never_chosen(monkeypatch):
    def evaluate(study, make, rate, family, key, runs, measure):
        return {"value": np.full((runs, 7), 3.0 if np.isclose(rate, 0.1) else math.nan if rate > 1 else math.inf)}

    monkeypatch.setattr(module, "_values_of_runs", evaluate)
    study = study_of()
    assert tune(study, columns(study)[0], None, Now()) == pytest.approx(dict.fromkeys(MEASURES, 0.1))


def test_a_grid_on_which_everything_diverges(monkeypatch):
    monkeypatch.setattr(module, "_values_of_runs", lambda *arguments, **more: {"value": np.full((3, 7), math.nan)})
    study = study_of()
    with pytest.raises(UserError, match=r"^sgd: no learning rate from 0\.01 to 10 gives a finite loss$"):
        tune(study, columns(study)[0], None, Now())


def test_a_fixed_rate_is_not_tuned(tmp_path):
    said = []
    study = study_of(baselines=[{"kind": "sgd", "learning_rate": 0.03}])
    results = engine.run(study, tmp_path / "out", said.append)
    assert results["chosen"] == {"sgd": dict.fromkeys(("step 2", "step 6", "mean to 2", "mean to 6"), 0.03)}
    assert not [line for line in said if "tuned" in line]


def test_a_diverging_baseline_is_counted_and_breaks_nothing(tmp_path, fresh, strict_json):
    study = study_of(
        optimizers=[str(fresh)],
        baselines=[{"kind": "sgd", "learning_rate": 1e12}, {"kind": "adam", "learning_rate": 0.1}],
    )
    out = tmp_path / "out"
    engine.run(study, out, lambda line: None)
    results = strict_json((out / "results.json").read_text())
    rows = {name: [row for row in results["rows"] if row["optimizer"] == name] for name in ("fresh", "sgd", "adam")}
    assert all(row["diverged"] is True and row["step 6"] is None for row in rows["sgd"])
    assert not any(row["diverged"] for row in rows["fresh"] + rows["adam"])
    assert results["curves"]["sgd"]["mean"][0] is not None and results["curves"]["sgd"]["mean"][-1] is None
    (pair,) = (c for c in results["comparisons"] if c["against"] == "sgd" and c["measure"] == "step 6")
    assert pair["win_rate"] == 1.0 and pair["difference"] is None
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "diverged" in page and "a run diverged" in page and ">4</td>" in page and "nan" not in page


def test_a_baseline_that_always_diverges_leaves_a_report(tmp_path):
    study = study_of(baselines=[{"kind": "sgd", "learning_rate": 1e30}])
    engine.run(study, tmp_path / "out", lambda line: None)
    assert (tmp_path / "out" / "report.html").is_file() and (tmp_path / "out" / "curves.png").is_file()


def test_names_of_baselines_are_optimizers_too(tmp_path):
    study = study_of(baselines=[]).model_copy(update={"optimizers": ("sgd", "momentum")})
    found = columns(study)
    assert [(c.name, c.tuned, c.learned) for c in found] == [("sgd", True, False), ("momentum", True, False)]
    results = engine.run(study, tmp_path / "out", lambda line: None)
    assert results["learned"] == [] and set(results["chosen"]) == {"sgd", "momentum"}


@pytest.mark.parametrize(
    "edits",
    [
        {"baselines": [{"kind": "sgd"}, {"kind": "sgd", "learning_rate": 0.1}]},
        {"optimizers": ["sgd", "sgd"], "baselines": []},
    ],
)
def test_two_optimizers_of_one_name(tmp_path, edits):
    with pytest.raises(UserError, match=r"two optimizers named '(sgd|adam)'"):
        engine.run(study_of(**edits), tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()


def test_a_baseline_that_is_asked_for_by_name_replaces_the_configured_one():
    study = study_of(optimizers=["adam"], baselines=[{"kind": "sgd"}, {"kind": "adam", "learning_rate": 0.5}])
    assert [(column.name, column.tuned) for column in columns(study)] == [("adam", True), ("sgd", True)]


def test_two_directories_of_one_name_are_told_apart_by_their_paths(tmp_path, fresh):
    other = l2o.save(tmp_path / "fresh", l2o.load(fresh).config, l2o.load(fresh).theta)
    found = columns(study_of(optimizers=[str(fresh), str(other)], baselines=[]))
    assert [column.name for column in found] == ["fresh", str(other)]


def test_a_study_of_nothing(tmp_path):
    with pytest.raises(UserError, match="optimizer"):
        engine.run(study_of(baselines=[]), tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()


def test_comparisons_are_paired_by_run():
    rows = [{"optimizer": name, "seed": seed, "loss": loss} for name, losses in
            (("a", [1.0, 10.0, 100.0]), ("b", [2.0, 11.0, 101.0]), ("c", [0.0, 12.0, None]))
            for seed, loss in enumerate(losses)]  # fmt: skip
    ab, ac = compare(rows, ["a", "b", "c"], ["a"], ["loss"])
    assert (ab["against"], ab["difference"], ab["low"], ab["high"], ab["win_rate"]) == ("b", -1.0, -1.0, -1.0, 1.0)
    assert (ac["against"], ac["difference"], ac["win_rate"]) == ("c", None, pytest.approx(2 / 3))
