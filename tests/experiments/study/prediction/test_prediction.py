"""Studies of prediction: scores of distributions that are known, the process, and what the model is told."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tomli_w
from scipy import stats

import l2o
from experiments.study import StudyConfig, pieces
from experiments.study import report as reports
from experiments.study.engine import provenance, run
from experiments.study.optformers import models
from experiments.study.pieces import arrays_of
from experiments.study.prediction import report as report_prediction
from experiments.study.prediction import scores as scores
from experiments.study.prediction.choice import Predicted, by_task, even
from experiments.study.prediction.config import PredictionStudy, Surrogate
from experiments.study.prediction.gp import fitted, numbers, predictor
from experiments.study.prediction.model import logits_of, prompts, scaled
from experiments.study.prediction.run import cells
from l2o.baselines.hyperparameters import centre, fit, log_posterior, pack, unpack
from l2o.errors import UserError
from l2o.host.policy import Policy
from l2o.optformer.optformer import OptFormerConfig
from l2o.optformer.prompt import Range, stripped
from l2o.record import Record, RecordedTrial
from l2o.space.domain import Space
from l2o.space.searchspace import SearchSpace
from tasks.bbob.mixed import HELD_OUT, TRAIN
from tasks.hpo.hpo import HPOConfig

TRIALS, STEPS = 8, (3, 8)
CONFIG = OptFormerConfig(bins=32, width=32, heads=2, feedforward=64, decoder_layers=1, max_trials=TRIALS)
TINY = {
    "kind": "prediction",
    "description": "tiny",
    "bbob": {"kind": "bbob_mixed", "functions": ["linear_slope"], "dimensions": [3], "noises": ["none"]},
    "hpo": {"kind": "hpo", "models": ["knn"], "views": [0]},
    "instances": 2,
    "repeats": 1,
    "teachers": [{"optimizer": {"kind": kind}} for kind in ("random", "grid")],
    "trials": TRIALS,
    "steps": list(STEPS),
    "batch": 2,
    "tuning": {
        "functions": ["sphere"],
        "instances": 2,
        "hpo": {"kind": "hpo", "models": ["knn"], "views": [0]},
        "tasks": 2,
        "temperatures": [0.5, 1.0, 4.0],
        "surrogates": [{"fit_steps": 5}, {"fit_steps": 5, "kernel": "squared_exponential", "noise_floor": 1e-2}],
        "inflations": [1.0, 1.5],
        "uniforms": [0.0, 0.1],
    },
}


def made(**fields):
    return PredictionStudy.parse({**TINY, **fields}, "test")


def tuning(**fields):
    return {"tuning": {**TINY["tuning"], **fields}}


def forecasts(n, shift=0.0, bins=64):
    """Normal forecasts of many widths, and truths that are drawn from them, moved afterwards."""
    generator = np.random.default_rng(0)
    log_probs = scores.of_normal(
        generator.uniform(0, 1, n), 10 ** generator.uniform(-2, 0, n), np.linspace(0, 1, bins + 1)
    )
    cumulative = np.cumsum(np.exp(log_probs), 1)
    chosen = (generator.uniform(size=(n, 1)) > cumulative).sum(1)
    return log_probs, (chosen + generator.uniform(size=n)) / bins + shift


def total(found):
    return scores.Calibration(*(a.sum(0) for a in found))


def test_a_uniform_forecaster_knows_nothing():
    log_probs, truth = np.full((1000, 64), -np.log(64)), np.linspace(0, 0.9999, 1000)
    np.testing.assert_allclose(scores.log_density(log_probs, truth), 0, atol=1e-12)
    assert scores.error(total(scores.calibration(log_probs, truth))) == pytest.approx(0, abs=1e-9)
    assert scores.distance(scores.pit(log_probs, truth, 0)) < 0.05


def test_densities_by_hand():
    log_probs = np.log([[0.25, 0.75]] * 4)
    found = scores.log_density(log_probs, np.array([0.1, 0.6, -3.0, 2.0]))
    np.testing.assert_allclose(found, np.log([0.5, 1.5, 0.5, 1.5]))  # beyond the interval: the first or last bin
    low, high, *_ = scores.pit(log_probs, np.array([0.1, 0.6, -3.0, 2.0]), 0)
    assert 0 <= low <= 0.25 <= high <= 1
    assert scores.distance(np.array([0.5])) == 0.5 and scores.distance(np.array([0.0, 0.0])) == 1.0


def test_a_calibrated_forecaster():
    log_probs, truth = forecasts(10_000)
    expected = np.sum(np.exp(log_probs) * log_probs, 1) + np.log(64)  # its negative entropy
    assert scores.log_density(log_probs, truth).mean() == pytest.approx(expected.mean(), abs=0.02)
    assert scores.distance(scores.pit(log_probs, truth, 0)) < 0.015
    assert scores.error(total(scores.calibration(log_probs, truth))) < 0.05
    assert scores.error(total(scores.calibration(log_probs, truth, likeliest=True))) < 1.5


def test_one_that_is_wrong_by_a_tenth():
    calibrated, (log_probs, truth) = forecasts(10_000), forecasts(10_000, shift=0.1)
    assert scores.log_density(log_probs, truth).mean() < scores.log_density(*calibrated).mean() - 0.5
    assert scores.distance(scores.pit(log_probs, truth, 0)) > 0.1
    assert scores.error(total(scores.calibration(log_probs, truth))) > 0.15
    assert scores.error(total(scores.calibration(log_probs, truth, likeliest=True))) > 5


def test_calibration_errors_by_hand():
    sure = np.full((1, 100), -np.inf)
    sure[0, 3] = 0.0  # certain of one interval
    for truth, all_of_them, likeliest in ((0.035, 0, 0), (0.5, 2, 100)):
        found = np.array([truth])
        assert scores.error(total(scores.calibration(sure, found))) == pytest.approx(all_of_them)
        assert scores.error(total(scores.calibration(sure, found, likeliest=True))) == pytest.approx(likeliest)
    # three quarters on one of two intervals, which half of the truths are in: |0.75 - 0.5| and |0.25 - 0.5| of 100
    two = np.full((2, 100), -np.inf)
    two[:, 7], two[:, 8] = np.log(0.75), np.log(0.25)
    found = scores.calibration(two, np.array([0.075, 0.085]))
    assert scores.error(total(found)) == pytest.approx(100 * (0.25 + 0.25) / 100)
    assert found.events.sum() == 200 and found.events[:, 7].tolist() == [1, 1] and found.hits[:, 7].tolist() == [1, 0]


@pytest.mark.parametrize("bins", [7, 100, 256, 1000])
def test_intervals_are_differences_of_the_cumulative_distribution(bins):
    log_probs = scores.of_logits(np.random.default_rng(1).normal(size=(5, bins)), 0.3)
    found = scores.intervals(log_probs)
    for row, probabilities in zip(found, np.exp(log_probs), strict=True):
        cumulative = np.append(0.0, np.cumsum(probabilities))
        expected = np.diff(np.interp(np.arange(101) / 100, np.arange(bins + 1) / bins, cumulative))
        np.testing.assert_allclose(row, expected, atol=1e-12)


def test_truncated_normals_agree_with_scipy():
    mean, deviation = np.array([0.5, -0.2, 1.1, 0.3]), np.array([0.1, 0.4, 0.05, 20.0])
    edges = np.linspace(0, 1, 17)
    found = np.exp(scores.of_normal(mean, deviation, edges))
    for row, m, s in zip(found, mean, deviation, strict=True):
        expected = np.diff(stats.truncnorm((0 - m) / s, (1 - m) / s, loc=m, scale=s).cdf(edges))
        np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1e-12)
    far = scores.of_normal(np.array([50.0, -1e6]), np.array([1e-3, 1e-7]), edges)
    assert np.isfinite(far).all() and far[0].argmax() == 15 and far[1].argmax() == 0
    np.testing.assert_allclose(np.exp(np.concatenate([scores.of_normal(mean, deviation, edges), far])).sum(1), 1)
    kept = np.exp(scores.of_normal(mean, deviation, edges, truncated=False))
    for row, m, s in zip(kept, mean, deviation, strict=True):
        ends = np.concatenate([[-np.inf], edges[1:-1], [np.inf]])
        np.testing.assert_allclose(row, np.diff(stats.norm(m, s).cdf(ends)), rtol=1e-6, atol=1e-12)
    mixed = scores.with_uniform(far, 0.2)
    np.testing.assert_allclose(np.exp(mixed).sum(1), 1)
    np.testing.assert_allclose(np.exp(mixed[0, 0]), 0.2 / 16)


def test_a_process_is_integrated_on_a_scale_without_a_kink():
    """Where values below the least one are as far from it as those above, by logarithms of units."""
    scaling = Range.of(jnp.array([1.0, 2.0, 3.0, 9.0]), jnp.ones(4, bool))
    curved = np.log1p(float(scaling.curve * scaling.span))
    (edges,) = even(20, np.array([curved]))
    units = float(scaling.curve) * (np.asarray(scaling.value(jnp.linspace(0, 1, 21))) - 1)
    np.testing.assert_allclose(edges, 0.2 + 0.6 * np.sign(units) * np.log1p(np.abs(units)) / curved, atol=1e-5)


def test_intervals_of_errors():
    log_probs, truth = forecasts(400)
    units = scores.Calibration(*(a.reshape(20, 20, -1).sum(1) for a in scores.calibration(log_probs, truth)))
    others = scores.Calibration(*(a.reshape(20, 20, -1).sum(1) for a in scores.calibration(log_probs, truth - 0.2)))
    (same, again), none = scores.errors([units, units], 0)
    assert same == again and none == [0, 0, 0]
    (worse, ours), difference = scores.errors([others, units], 0)
    assert ours == same and ours[1] <= ours[0] <= ours[2]
    assert difference[0] == pytest.approx(worse[0] - ours[0]) and difference[1] > 0


def test_means_by_task():
    of = Predicted(
        np.zeros((3, 1)), np.zeros(3), np.array(["b", "a", "b"]), np.array(["x"] * 3), np.array([3] * 3), np.ones(3)
    )
    np.testing.assert_allclose(by_task(of, np.array([1.0, 5.0, 3.0])), [5, 2])


def rows_of(n=2, t=TRIALS, d=3):
    """What there is to predict of runs of random points on a smooth function, where one trial failed."""
    generator = np.random.default_rng(3)
    u = generator.uniform(size=(n, t, d))
    y = np.sin(3 * u).sum(2)
    y[:, 1] = np.nan
    one = Space.mixed(jnp.zeros(d), jnp.ones(d), jnp.zeros(d, int), jnp.zeros(d, int), jnp.arange(d) > 0)
    space = {name: np.stack([a] * n) for name, a in one._asdict().items()}
    return {"x": u.astype(np.float32), "y": y.astype(np.float32), **space}


def test_scaled_values_know_nothing_of_later_ones():
    runs = rows_of()
    found = jax.tree.map(np.asarray, scaled(STEPS)(runs))
    for i, step in enumerate(STEPS):
        y = jnp.asarray(runs["y"][0])
        scaling = Range.of(y, jnp.arange(TRIALS) < step - 1)
        np.testing.assert_allclose(found["truth"][0, i], scaling.share(y)[step - 1], rtol=1e-5)
        known = found["share"][0, i]
        assert np.isnan(known[[1, *range(step - 1, TRIALS)]]).all()
        if step > 3:
            np.testing.assert_allclose([np.nanmin(known), np.nanmax(known)], [0.2, 0.8], rtol=1e-5)
    assert found["usable"].tolist() == [[False, True]] * 2, "one value alone has no range"


def test_the_process_sees_what_is_before_and_no_more():
    program = predictor(Surrogate(fit_steps=5))
    rows = jax.tree.map(np.asarray, scaled((5, 8))(rows_of()))
    rows = {name: rows[name] for name in ("u", "categories", "share", "step")}
    found = program(rows)
    later = {**rows, "share": np.where(np.arange(TRIALS) >= 4, 0.9, rows["share"])}
    np.testing.assert_allclose(program(later)["mean"][:, 0], found["mean"][:, 0], rtol=1e-9)
    assert np.abs(program(later)["mean"][:, 1] - found["mean"][:, 1]).max() > 1e-3
    worst = np.where(np.isnan(rows["share"]), 0.8, rows["share"])  # of what is known, the greatest lies there
    np.testing.assert_allclose(program({**rows, "share": worst})["mean"], found["mean"], rtol=1e-4)
    less = program({**rows, "share": 0.5 * rows["share"] - 1})
    np.testing.assert_allclose(less["mean"], 0.5 * found["mean"] - 1, rtol=1e-6)
    np.testing.assert_allclose(less["deviation"], 0.5 * found["deviation"], rtol=1e-6)


@pytest.mark.slow
def test_fits_are_more_probable_than_those_of_the_baseline():
    generator = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(generator.uniform(size=(30, 2)))
        y = jnp.sin(6 * x[:, 0]) + 0.1 * jnp.asarray(generator.normal(size=30))
        y, count, categories = (y - y.mean()) / y.std(), jnp.asarray(30), jnp.zeros(2, bool)
        best = jax.jit(fitted, static_argnums=1)
        begun = unpack(centre(2))._replace(categories=categories)
        theirs = log_posterior(pack(jax.jit(fit, static_argnums=4)(begun, x, y, count, 10)), x, y, count, categories)
        ours = best(numbers(Surrogate()), 50, x, y, count, categories)
        assert log_posterior(pack(ours), x, y, count, categories) > theirs + 0.1
        assert float(ours.length_scale[0]) < float(ours.length_scale[1]) and float(ours.matern) == 1
        other = best(numbers(Surrogate(kernel="squared_exponential", noise_floor=0.3)), 50, x, y, count, categories)
        assert float(other.matern) == 0 and float(other.noise / other.variance) >= 0.3 * 0.999


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """An OptFormer that has learned nothing, but predicts very different values of different trials."""
    theta = jax.tree.map(lambda a: 3 * a, CONFIG.build().init(jax.random.key(0)))
    return l2o.save(tmp_path_factory.mktemp("zoo") / "fresh", CONFIG, theta)


def test_logits_are_those_of_the_policy_without_what_comes_later(fresh):
    (family,) = HPOConfig(models=("knn",), views=(0,), metrics=("accuracy",)).indexed("test")[3]
    about = family.about
    space = SearchSpace.from_dict(about["space"])
    generator = np.random.default_rng(5)
    x = np.stack([space.space.sample(jax.random.key(i)) for i in range(TRIALS)])
    y = generator.normal(size=TRIALS).astype(np.float32)
    y[1] = np.nan
    (model,) = models(made(optimizers=[str(fresh)]))
    one = jax.tree.map(lambda a: jnp.asarray(a)[None], space.space)
    told = prompts(family, one, ["hill_climbing"], 192)
    program = logits_of(model, (4, 8))
    found = np.asarray(program(model.theta, (x[None], y[None], one, told))["logits"])[0]
    other = np.where(np.arange(TRIALS) >= 3, 7.0, y)
    np.testing.assert_allclose(program(model.theta, (x[None], other[None], one, told))["logits"][0, 0], found[0])
    policy = Policy(l2o.load(fresh).configured(algorithm="hill_climbing"))
    assert about["goal"] == "maximize"
    for row, step in zip(found, (4, 8), strict=True):
        trials = [
            RecordedTrial(space.from_point(x[i]), None if np.isnan(y[i]) else -float(y[i]),
                          "infeasible" if np.isnan(y[i]) else "complete")
            for i in range(step - 1)
        ]  # fmt: skip
        record = Record(space, about["name"], about["metric"], about["goal"], trials=trials)
        (expected,) = policy.predict(record, [space.from_point(x[step - 1])])
        probabilities = np.exp(scores.of_logits(row[None], 1.0))[0]
        np.testing.assert_allclose(probabilities[::-1], expected.probabilities, rtol=2e-3, atol=1e-6)


def test_prompts_without_names_are_stripped():
    (cell, *_) = cells(made(groups=["bbob"]))
    runs = rows_of(d=2)
    space = Space(**{name: jnp.asarray(runs[name]) for name in Space._fields})
    found = prompts(cell.family, space, ["random", "unknown"], 0)
    for i, name in enumerate(["random", "unknown"]):
        expected = stripped(jax.tree.map(lambda a, i=i: a[i], space), name)
        np.testing.assert_array_equal(found.token[i], expected.token)
        np.testing.assert_array_equal(found.slot[i], expected.slot)


@pytest.fixture(scope="module")
def done(tmp_path_factory, fresh):
    """A finished study: what was asked for, its directory and results."""
    study, out = made(optimizers=[str(fresh)]), tmp_path_factory.mktemp("study") / "out"
    with jax.numpy_rank_promotion("raise"):
        return study, out, run(study, out, lambda line: None)


@pytest.fixture
def copied(done, tmp_path, monkeypatch):
    """The same in a directory of one's own, whose report is not written anew."""
    study, out, results = done
    monkeypatch.setattr(reports, "write", lambda out, results, report: None)
    return study, shutil.copytree(out, tmp_path / "out"), results


def test_what_a_study_leaves(done, strict_json):
    _, out, results = done
    assert json.loads(json.dumps(results)) == strict_json((out / "results.json").read_text())
    for name in ("predictions-bbob-fresh.png", "predictions-hpo-fresh.png", "report.html"):
        assert (out / name).stat().st_size > 1000
    assert list(results["groups"]) == ["bbob", "hpo"]
    for group, tasks in (("bbob", 2), ("hpo", 2)):
        found = results["groups"][group]["fresh"]
        assert found["tasks"] == tasks and found["bins"] == CONFIG.bins
        assert found["predictions"] + found["left_out"] == 2 * tasks * len(STEPS)
        assert list(found["columns"]) == ["model", "unknown", "gp", "truncated"]
        for row in found["columns"].values():
            assert list(row["by_step"]) == ["3", "8"] and list(row["by_teacher"]) == ["random", "grid"]
            mean, low, high = row["log_density"]
            assert low <= mean <= high and mean <= np.log(CONFIG.bins)
            assert sum(row["pit"]) == pytest.approx(1) and 0 < row["distance"] <= 1
            assert 0 <= row["ece"][0] <= 2 and 0 <= row["ece_likeliest"][0] <= 100
        model, process = found["columns"]["model"], found["columns"]["gp"]
        assert model["difference"][0] == pytest.approx(model["log_density"][0] - process["log_density"][0])
        assert process["difference"] == [0, 0, 0] == process["ece_difference"]
        assert model["log_density"] != found["columns"]["unknown"]["log_density"]
    assert provenance(results)["tables"]["fresh on hpo"][2]["less GP's"] == "-"
    html = (out / "report.html").read_text()
    assert report_prediction.notes().replace("'", "&#x27;") in html and "told the algorithm" in html


def test_what_is_best_on_other_tasks_is_chosen(done):
    study, out, results = done
    for group in study.groups:
        tuned = results["groups"][group]["fresh"]["tuned"]
        assert len(tuned["temperatures"]) == 3 and len(tuned["processes"]) == 2 * 2 * 2 * 2
        assert tuned["temperature"] == max(tuned["temperatures"], key=lambda pair: pair[1])[0]
        assert tuned["process"] == max(tuned["processes"], key=lambda process: process["score"])
        cut = [process for process in tuned["processes"] if process["truncated"]]
        assert tuned["truncated"] == max(cut, key=lambda process: process["score"]) and len(cut) == 8
        fits = {path.stem for path in (out / "cells").glob(f"{group}-test-*/gp-*.npz")}
        assert fits == {f"gp-{tuned[name]['surrogate']}" for name in ("process", "truncated")}


def test_scores_are_those_of_the_pieces(done):
    """One task's mean log density, from the files."""
    study, out, results = done
    (model,) = models(study)
    temperature = results["groups"]["bbob"]["fresh"]["tuned"]["temperature"]
    folder = out / "cells" / "bbob-test-f5_linear_slope-3d"
    logits = arrays_of(folder / f"{model.identity}.npz")["logits"]
    densities: dict[int, list[float]] = {0: [], 1: []}
    for k, name in enumerate(study.algorithms):
        taught = arrays_of(folder / f"{name}.npz")
        for i in range(2):
            y = jnp.asarray(taught["y"][i])
            for s, step in enumerate(STEPS):
                scaling = Range.of(y, jnp.arange(TRIALS) < step - 1)
                if scaling.span > 0:
                    share = float(scaling.share(y)[step - 1])
                    token = min(max(int(np.floor(share * CONFIG.bins)), 0), CONFIG.bins - 1)
                    log_probs = jax.nn.log_softmax(logits[2 * k + i, s] / temperature)
                    densities[i].append(float(log_probs[token]) + np.log(CONFIG.bins))
    expected = np.mean([np.mean(densities[0]), np.mean(densities[1])])
    found = results["groups"]["bbob"]["fresh"]["columns"]["model"]["log_density"][0]
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_resumed_study_makes_no_piece_twice(copied, monkeypatch):
    study, out, results = copied
    (model,) = models(study)
    gone = ["bbob-train-f1_sphere-3d/gp-matern-5-1e-05.npz", f"bbob-test-f5_linear_slope-3d/{model.identity}.npz"]
    for name in gone:
        (out / "cells" / name).unlink()
    made_again, original = [], pieces.save
    monkeypatch.setattr(pieces, "save", lambda path, **arrays: (made_again.append(path), original(path, **arrays)))
    again = run(study, out, lambda line: None, resume=True)
    assert sorted(str(path.relative_to(out / "cells")) for path in made_again) == sorted(gone)
    assert {**again, "seconds": 0} == {**results, "seconds": 0}


def test_from_the_command_line(copied, fresh, tmp_path, cli):
    _, out, _ = copied
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(TINY))
    found = cli("study", tmp_path / "mine.toml", "--optimizer", fresh, "--out", out, "--resume")
    assert found.code == 0, found
    for words in ("fresh on hpo:", "log density", "Gaussian process", f"report: {out / 'report.html'}"):
        assert words in found.out


def test_a_cell_does_not_depend_on_the_others():
    several, one = cells(made()), cells(made(groups=["hpo"]))
    assert [c.name for c in several if c.group == "hpo"] == [c.name for c in one]
    assert [c.seeds.tolist() for c in several if c.group == "hpo"] == [c.seeds.tolist() for c in one]
    assert {(c.split, "breast_cancer" in c.name) for c in one} == {("test", True), ("train", False)}
    seeds = [seed for cell in several for seed in cell.seeds]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": [3, 9]}, "step 9 lies beyond the 8 trials of a run"),
        ({"steps": [2]}, "steps.0: found 2"),
        ({"groups": ["bob"]}, "groups.0: found 'bob'"),
        ({"groups": ["hpo", "hpo"]}, "groups: found two named 'hpo'"),
        ({"teachers": [{"optimizer": {"kind": "random"}}] * 2}, "teachers: found two named 'random'"),
        ({"teachers": [{"optimizer": {"kind": "adam"}, "algorithm": "eagle"}]}, "adam reads gradients"),
        (tuning(functions=["linear_slope"]), "tuning.functions: found 'linear_slope', which is predicted"),
        (tuning(surrogates=[{}, {}]), "surrogates: found matern-60-1e-05 twice"),
        (tuning(surrogates=[{"kernel": "cubic"}]), "tuning.surrogates.0.kernel: found 'cubic'"),
        (tuning(uniforms=[1.0]), "tuning.uniforms.0: found 1.0"),
        ({"runs": 3}, "runs is an unknown field"),
    ],
)
def test_bad_studies_are_one_sentence(fields, words):
    with pytest.raises(UserError) as error:
        made(**fields)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizers": []}, "no optimizers, expected a trained OptFormer as --optimizer"),
        ({"optimizers": ["random"]}, "random is a baseline, and a study of prediction prompts optimizers of kind"),
        ({"trials": 9}, "reads up to 8 trials, and the study has 9"),
        ({"bbob": {**TINY["bbob"], "dimensions": [17]}}, "bbob.dimensions: found 17, expected at most 16"),
        ({"teachers": [{"optimizer": {"kind": "tpe"}, "algorithm": "gp_ucb"}]}, "teachers.0: kind 'tpe' runs on the"),
    ],
)
def test_refused_before_anything_is_written(tmp_path, fresh, fields, words):
    with pytest.raises(UserError) as error:
        run(made(**{"optimizers": [str(fresh)], **fields}), tmp_path / "out", lambda line: None)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_bundled_study():
    study = StudyConfig.load("function_prediction")
    assert isinstance(study, PredictionStudy) and study.bbob.functions == HELD_OUT
    assert study.bbob == PredictionStudy.model_fields["bbob"].default
    assert set(study.tuning.functions) <= set(TRAIN) and len(study.tuning.surrogates) >= 6
    assert study.tuning.temperatures == (0.8, 1.0, 1.1, 1.2, 1.3, 1.5) and study.steps[-1] == study.trials
    (imitated,) = (teacher for teacher in StudyConfig.load("imitation").teachers if teacher.name == "gp_ucb")
    assert study.teachers[1] == imitated
    every = cells(study)
    tested = [cell for cell in every if cell.split == "test"]
    assert len(tested) == 15 + 56 and sum(len(cell.seeds) for cell in tested) == 15 * 4 + 56 * 2
    assert len({task for cell in tested for task in cell.tasks}) == 60 + 56
