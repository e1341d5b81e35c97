"""Studies of imitation: the runs of a prompted model as a plain loop has them, what perfect imitation looks like."""

import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tomli_w

import l2o
from experiments.data import Data
from experiments.study import StudyConfig, pieces
from experiments.study import report as reports
from experiments.study.engine import provenance, run
from experiments.study.imitation import report as report_imitation
from experiments.study.imitation import run as imitation
from experiments.study.imitation.behaviour import MEASURES, PARTS, Runs, best_so_far, features, measured
from experiments.study.imitation.config import Imitation
from experiments.study.imitation.run import cells
from experiments.study.imitation.teachers import own_log_prob
from experiments.study.optformers import models
from experiments.study.pieces import arrays_of, in_batches
from l2o.baselines.grid import GridConfig, ShuffledGridConfig
from l2o.baselines.mutation import HillClimbingConfig, RegularizedEvolutionConfig
from l2o.baselines.search import RandomConfig
from l2o.blackbox.rnn import RNNConfig
from l2o.core import Evaluation, Problem, Trajectory
from l2o.errors import UserError
from l2o.optformer.optformer import OptFormerConfig, stripped
from l2o.space.domain import Space
from l2o.unroll import unroll
from meta.recordings.rollouts import RolloutsConfig, study_keys
from tasks.bbob.mixed import HELD_OUT, BBOBMixedConfig

TRIALS = 8
CONFIG = OptFormerConfig(bins=16, width=16, heads=2, feedforward=16, decoder_layers=1, max_trials=TRIALS)
TINY = {
    "kind": "imitation",
    "description": "tiny",
    "task": {"kind": "bbob_mixed", "functions": ["linear_slope", "sphere"], "dimensions": [2], "noises": ["none"]},
    "teachers": [{"optimizer": {"kind": kind}} for kind in ("random", "grid", "hill_climbing")],
    "trials": TRIALS,
    "instances": 3,
    "examples": 9,
    "batch": 2,
}
NAMES = ["random", "grid", "hill_climbing"]


def made(**fields):
    return Imitation.parse({**TINY, **fields}, "test")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """An OptFormer that has learned nothing, but does very different things when prompted differently."""
    theta = jax.tree.map(lambda a: 3 * a, jax.jit(CONFIG.build().init)(jax.random.key(0)))
    return l2o.save(tmp_path_factory.mktemp("zoo") / "fresh", CONFIG, theta)


@pytest.fixture(scope="module")
def rnn(tmp_path_factory):
    """A learned optimizer of another kind."""
    config = RNNConfig(hidden=4, pooled=2, candidates=0, max_dimension=2)
    return l2o.save(tmp_path_factory.mktemp("zoo") / "rnn", config, config.build().init(jax.random.key(0)))


@pytest.fixture(scope="module", autouse=True)
def few_functions():
    with pytest.MonkeyPatch.context() as patch:  # each one more is a second to compile
        patch.setattr(imitation, "TRAIN", ("sphere", "ellipsoid"))
        yield


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


def pieces_of(out, pattern):
    return sorted(str(path.relative_to(out / "cells")) for path in (out / "cells").glob(pattern))


def held_out(study):
    return [cell for some in cells(study).values() for cell in some if not cell.example]


def loaded(out, cell, file):
    return arrays_of(out / "cells" / cell.name / f"{file}.npz")


def test_runs_are_those_of_a_model_built_for_the_prompt(done):
    (study, out, _), name = done, "hill_climbing"
    (model,) = models(study)
    theta = model.theta
    optimizer = model.config.model_copy(update={"algorithm": name}).build().bind(theta)
    cell = held_out(study)[0]
    found, taught = loaded(out, cell, f"{model.identity}-as-{name}"), loaded(out, cell, name)
    task_key, init_key, run_key = study_keys(jnp.asarray(cell.seeds[1]))
    task = cell.family.task(cell.family.sample(task_key)).with_horizon(TRIALS)
    _, by_hand = unroll(optimizer, task, optimizer.init(init_key, task.problem), run_key, TRIALS)
    np.testing.assert_allclose(found["x"][1], by_hand.x[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["y"][1], by_hand.evaluation.value[:, 0], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found["levels"], taught["levels"], err_msg="the same tasks")


def test_likelihoods_are_those_of_the_architecture(done):
    study, out, results = done
    (model,) = models(study)
    assert model.learned.log_prob is not None
    log_prob, means = jax.jit(model.learned.log_prob), []
    for cell in held_out(study):
        taught = loaded(out, cell, "hill_climbing")
        found = loaded(out, cell, f"{model.identity}-on-hill_climbing")["x"]
        assert found.shape == (3, len(NAMES), TRIALS)
        means.append(found)
        space = Space(*(jnp.asarray(taught[name][2]) for name in Space._fields))
        x, y = jnp.asarray(taught["x"][2]), jnp.asarray(taught["y"][2])
        for i, name in enumerate(NAMES):
            problem = Problem(space, x[0], context=stripped(space, name))
            told = Trajectory(x[:, None], Evaluation(y[:, None]), jnp.ones(TRIALS, bool))
            expected = log_prob(model.theta, problem, told)["x"]
            np.testing.assert_allclose(found[2, i], expected, rtol=1e-4, atol=1e-4)
    row = results["models"]["fresh"]["teachers"]["hill_climbing"]
    expected = np.concatenate(means).mean((0, 2))
    assert [row["log_prob"][name] for name in NAMES] == pytest.approx(expected.tolist())
    assert row["own_log_prob"] > max(expected), "the teacher knows better what it does"


def test_what_a_study_leaves(done, strict_json):
    _, out, results = done
    assert json.loads(json.dumps(results)) == strict_json((out / "results.json").read_text())
    for name in ("curves-fresh.png", "tables-fresh.png", "report.html"):
        assert (out / name).stat().st_size > 1000
    found = results["models"]["fresh"]
    for row in found["teachers"].values():
        assert list(row["best"]) == ["2", "4", "6", "8"]
        assert sum(row["taken_for"].values()) == pytest.approx(1)
        for who in ("model", "teacher"):
            mean = row["curves"][who]["mean"]
            assert mean == sorted(mean, reverse=True) and mean[-1] >= 0
            assert row["best"]["8"][who][0] == pytest.approx(mean[-1])
        mean, low, high = row["best"]["8"]["difference"]
        assert mean == pytest.approx(row["best"]["8"]["model"][0] - row["best"]["8"]["teacher"][0]) and low <= high
    assert found["teachers"]["grid"]["own_log_prob"] == 0
    assert found["judge"]["taken_for"]["grid"]["grid"] > 0.5
    scores = provenance(results)
    assert scores["tables"]["fresh"][1]["log-probability: teacher"] == "0.00"
    html = (out / "report.html").read_text()
    for sentence in report_imitation.explanations(results).values():
        assert sentence.replace("'", "&#x27;") in html


def test_the_lowest_value_is_zero_and_the_median_of_random_search_one(done):
    study, out, results = done
    (model,) = models(study)
    ours = []
    for cell in held_out(study):
        files = [*NAMES, *(f"{model.identity}-as-{name}" for name in NAMES)]
        values = np.stack([loaded(out, cell, file)["y"] for file in files]).astype(float)
        for i in range(study.instances):
            lowest, middle = values[:, i].min(), np.median(values[0, i])
            ours.append((values[1, i, :4].min() - lowest) / (middle - lowest))
    found = results["models"]["fresh"]["teachers"]["grid"]["best"]["4"]["teacher"]
    assert found == pytest.approx([np.mean(ours), np.std(ours, ddof=1)], rel=1e-5)


def test_a_model_that_is_the_teacher_itself(copied):
    study, out, _ = copied
    (model,) = models(study)
    for cell in held_out(study):
        for name in NAMES:
            shutil.copy(out / "cells" / cell.name / f"{name}.npz",
                        out / "cells" / cell.name / f"{model.identity}-as-{name}.npz")  # fmt: skip
    found = run(study, out, lambda line: None, resume=True)["models"]["fresh"]
    assert found["recognised"] == found["judge"]["accuracy"] > 0.7
    for name, row in found["teachers"].items():
        assert all(best["difference"] == [0, 0, 0] for best in row["best"].values())
        assert row["taken_for"] == found["judge"]["taken_for"][name]
        assert row["distance"][name] == 0 and report_imitation.nearest(row) == name
        assert row["curves"]["model"] == row["curves"]["teacher"]


def test_a_resumed_study_makes_no_run_twice(copied, monkeypatch):
    study, out, results = copied
    (model,) = models(study)
    gone = ["ellipsoid-2d/random.npz", f"linear_slope-2d/{model.identity}-as-grid.npz"]
    for name in gone:
        (out / "cells" / name).unlink()
    made_again = []
    original = pieces.save
    monkeypatch.setattr(pieces, "save", lambda path, **arrays: (made_again.append(path), original(path, **arrays)))
    again = run(study, out, lambda line: None, resume=True)
    assert sorted(str(path.relative_to(out / "cells")) for path in made_again) == gone
    assert {**again, "seconds": 0} == {**results, "seconds": 0}


@pytest.mark.slow  # the one before makes what is missing and nothing else, by the names of teachers and of the model
def test_another_model_makes_no_teacher_run_again(copied, tmp_path, monkeypatch):
    study, out, results = copied
    other = l2o.save(tmp_path / "other", CONFIG, CONFIG.build().init(jax.random.key(1)))
    both, original, made_again = made(optimizers=[*study.optimizers, str(other)]), pieces.save, []
    monkeypatch.setattr(pieces, "save", lambda path, **arrays: (made_again.append(path), original(path, **arrays)))
    found = run(both, out, lambda line: None, resume=True)
    assert len(made_again) == 2 * 2 * len(NAMES)
    assert all(path.name.startswith(models(both)[1].identity) for path in made_again)
    assert list(found["models"]) == ["fresh", "other"]
    assert found["models"]["fresh"]["judge"] == results["models"]["fresh"]["judge"]
    assert found["models"]["fresh"]["teachers"] != found["models"]["other"]["teachers"]


def test_a_cell_does_not_depend_on_the_others():
    both, one = (cells(made(task={**TINY["task"], "dimensions": some})) for some in ([2, 3], [3]))
    assert [cell.name for cell in one[3]] == [f"{name}-3d" for name in ("linear_slope", "sphere", "ellipsoid")]
    assert [cell.seeds.tolist() for cell in both[3]] == [cell.seeds.tolist() for cell in one[3]]
    seeds = [seed for some in both.values() for cell in some for seed in cell.seeds]
    assert len(set(seeds)) == len(seeds) == 2 * (2 * 3 + 9)


def test_batches_are_filled_and_cut():
    sizes = []

    def program(rows):
        sizes.append(len(rows["a"]))
        return {"twice": 2 * rows["a"]}

    found = in_batches(program, {"a": np.arange(7)}, 3)
    assert found["twice"].tolist() == [0, 2, 4, 6, 8, 10, 12] and sizes == [3, 3, 3]


def drawn(seed, n=4, t=7):
    """Runs of random points: a real parameter, five numbers, three categories."""
    one = Space.mixed(
        jnp.array([-5.0, 0.0, 0.0]), jnp.array([5.0, 4.0, 2.0]), jnp.array([0, 5, 3]), jnp.zeros(3, jnp.int32),
        jnp.array([True, True, False]),
    )  # fmt: skip
    space = jax.tree.map(lambda a: jnp.stack([a] * n), one)
    keys = jax.random.split(jax.random.key(seed), (n, t))
    x = np.asarray(jax.vmap(jax.vmap(one.sample))(keys))
    return Runs(x, np.random.default_rng(seed).normal(size=(n, t)), space)


def test_measures_by_hand():
    x = np.array([[[-5.0, 0, 0], [-5, 4, 1], [5, 4, 1], [-5, 0, 0]]])
    runs = drawn(0, 1)._replace(x=x, y=np.array([[2.0, 1, 3, 1]]))
    found = dict(zip(MEASURES, measured(runs, 10)[0].T, strict=True))
    assert found["as best"] == pytest.approx([1 / 3, 2 / 3, 1 / 3])
    assert found["as previous"] == pytest.approx([1 / 3, 2 / 3, 0])
    far, one = 0.8**2 + 1, 0.9**2  # tokens of the ends lie a bin apart from them
    assert found["from best"] == pytest.approx(np.sqrt(np.array([far, one, far]) / 3))
    assert found["from previous"] == pytest.approx(np.sqrt(np.array([far, one, one + far]) / 3))
    assert found["from nearest"] == pytest.approx(np.sqrt(np.array([far, one, 0]) / 3))
    assert found["repeats"].tolist() == [0, 0, 1]
    assert found["known"] == pytest.approx([1 / 3, 2 / 3, 1])
    assert found["rank"] == pytest.approx([0, 1, 0])
    assert best_so_far(np.array([[2.0, 1, 3, 1]])).tolist() == [[0, 1, 1, 1]]


def test_features_do_not_look_at_positions():
    runs = drawn(1)
    found = features(runs, 16)
    assert found.shape == (4, len(MEASURES) * len(PARTS) * 2 + 2) and np.isfinite(found).all()
    mirrored = runs._replace(x=np.asarray(runs.space.low + runs.space.high)[:, None] - runs.x)
    np.testing.assert_allclose(features(mirrored, 16), found, atol=1e-5)
    order = jnp.array([2, 0, 1])
    turned = Runs(runs.x[..., np.asarray(order)], 3 * runs.y - 1, jax.tree.map(lambda a: a[:, order], runs.space))
    np.testing.assert_allclose(features(turned, 16), found, atol=1e-5)
    assert np.abs(features(drawn(2), 16) - found).max() > 0.1


@pytest.mark.parametrize("config", [HillClimbingConfig(), RandomConfig()])
def test_own_probabilities_of_all_points_sum_to_one(config):
    bins, before = 6, drawn(3, n=1, t=3)
    one = jax.tree.map(lambda a: a[0], before.space)
    every = jnp.array(list(itertools.product(range(bins), range(5), range(3))))
    last = np.asarray(jax.vmap(lambda tokens: one.from_tokens(tokens, bins))(every))[:, None]
    n = len(every)
    x = np.concatenate([np.repeat(before.x, n, 0), last], 1)
    y = np.concatenate([np.repeat(before.y, n, 0), np.zeros((n, 1))], 1)
    log_probs = own_log_prob(config, Runs(x, y, jax.tree.map(lambda a: jnp.repeat(a, n, 0), before.space)), bins)
    assert log_probs is not None
    assert np.exp(log_probs[:, 3]).sum() == pytest.approx(1)
    np.testing.assert_allclose(log_probs[:, 0], -np.log(bins * 5 * 3))


def test_own_probabilities_of_the_other_teachers():
    runs = drawn(4, t=20)
    own = own_log_prob(ShuffledGridConfig(resolution=2), runs, 16)
    assert own is not None
    np.testing.assert_allclose(own[0], -np.log(30.0 - np.arange(20)))
    again = own_log_prob(ShuffledGridConfig(resolution=2, max_trials=5), runs, 16)
    assert again is not None
    np.testing.assert_allclose(again[0, 5:10], own[0, :5])
    grid = own_log_prob(GridConfig(), runs, 16)
    assert grid is not None and not grid.any()
    assert own_log_prob(RegularizedEvolutionConfig(), runs, 16) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": {"kind": "gp"}}, "task."),
        ({"task": {"functions": ["spere"]}}, "task.functions.0: unknown function 'spere' (did you mean 'sphere'?)"),
        ({"task": {"noises": ["loud"]}}, "task.noises.0: found 'loud'"),
        ({"teachers": TINY["teachers"][:1]}, "teachers: found"),
        ({"teachers": [*TINY["teachers"], {"optimizer": {"kind": "random"}}]}, "teachers: found two named 'random'"),
        ({"teachers": [{"optimizer": {"kind": "rando"}}] * 2}, "teachers.0.optimizer: unknown kind 'rando' (did you"),
        ({"teachers": [{"optimizer": {"kind": "sobol"}}] * 2}, "algorithm: found 'sobol', expected one of unknown,"),
        ({"teachers": [{"optimizer": {"kind": "adam"}, "algorithm": "eagle"}] * 2}, "adam reads gradients"),
        ({"trials": 3}, "trials: found 3"),
        ({"instances": 1}, "instances: found 1"),
        ({"relative_to": "gird"}, "relative_to: 'gird' (did you mean 'grid'?) is none of the teachers"),
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
        ({"optimizers": ["random"]}, "random is a baseline, and a study of imitation prompts optimizers of kind"),
        ({"optimizers": ["nobody"]}, "no optimizer named 'nobody'"),
        ({"optimizers": ["RNN"]}, "is of kind 'rnn', and a study of imitation prompts optimizers of kind 'optformer'"),
        ({"optimizers": ["FRESH", "FRESH"]}, "two optimizers named 'fresh'"),
        ({"trials": 9}, "reads up to 8 trials, and the study has 9"),
        ({"task": {**TINY["task"], "dimensions": [17]}}, "task.dimensions: found 17, expected at most 16"),
        ({"teachers": [*TINY["teachers"], {"optimizer": {"kind": "tpe"}, "algorithm": "gp_ucb"}]},
         "teachers.3: kind 'tpe' runs on the host"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_written(tmp_path, fresh, rnn, fields, words):
    folders, study = {"FRESH": str(fresh), "RNN": str(rnn)}, made(**{"optimizers": ["FRESH"], **fields})
    study = study.model_copy(update={"optimizers": tuple(folders.get(name, name) for name in study.optimizers)})
    with pytest.raises(UserError) as error:
        run(study, tmp_path / "out", lambda line: None)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_all_functions_leave_no_examples():
    with pytest.raises(UserError, match=r"task\.functions: found all functions of examples"):
        made(task={"functions": BBOBMixedConfig().functions})


def test_from_the_command_line(copied, fresh, tmp_path, cli):
    _, out, _ = copied
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(TINY))
    found = cli("study", tmp_path / "mine.toml", "--optimizer", fresh, "--out", out, "--resume")
    assert found.code == 0, found
    for words in ("best at 8: teacher", "fresh: for ", "by chance 33% would be", f"report: {out / 'report.html'}"):
        assert words in found.out


def test_bundled_study():
    study = StudyConfig.load("imitation")
    assert isinstance(study, Imitation) and len(study.algorithms) == 8
    assert study.task.functions == HELD_OUT and study.task == Imitation.model_fields["task"].default
    assert study.instances * len(study.task.dimensions) >= 20 and study.steps == [10, 20, 30, 40]
    taught = {}
    for source in (Data.load(name).source for name in ("bbob_cpu", "bbob_cpu_gp")):
        assert isinstance(source, RolloutsConfig)
        taught |= {t.name: t.optimizer for t in source.teachers if t.name != "unknown"}  # a scatter is nobody's
    assert taught == {teacher.name: teacher.optimizer for teacher in study.teachers}
