"""Studies of tuning: known numbers, tasks that share programs, settings chosen on tuning tasks alone, real fits."""

import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tomli_w

import l2o
from experiments.study import StudyConfig, pieces
from experiments.study import report as reports
from experiments.study.engine import provenance, run, text
from experiments.study.pieces import arrays_of, save
from experiments.study.statistics import wins
from experiments.study.tuning.columns import columns, compiled, on_host, on_its_own, trained
from experiments.study.tuning.config import Tuning, Variant
from experiments.study.tuning.live import best_setting, fitted
from experiments.study.tuning.results import compared, ranks
from experiments.study.tuning.score import normalised, score
from experiments.study.tuning.tasks import cells, prompts
from l2o.baselines.optuna import TPEConfig
from l2o.blackbox.rnn import RNNConfig
from l2o.core import Optimizer
from l2o.errors import UserError
from l2o.optformer.optformer import OptFormerConfig
from l2o.registry import kinds
from l2o.surrogate.pfn import PFNConfig
from meta.recordings.rollouts import study_keys
from tasks import tables
from tasks.bbob.mixed import HELD_OUT, TRAIN, BBOBMixedConfig
from tasks.hpo.hpo import HPOConfig, interpolated
from tasks.tables import Axis, Benchmark, TablesConfig

TRIALS = 6
CONFIG = OptFormerConfig(bins=16, width=16, heads=2, feedforward=16, encoder_layers=0, decoder_layers=1, max_trials=4)
TINY = {
    "kind": "tuning",
    "trials": TRIALS,
    "runs": 2,
    "steps": [2, TRIALS],
    "compared": "ei",
    "tasks": {"datasets": {"task": {"kind": "hpo", "models": ["knn"], "views": [0]}}},
    "tune": {"task": {"kind": "hpo", "datasets": ["wine"], "models": ["knn"], "views": [0, 1]}, "tasks": 2},
    "variants": {"ei": {"settings": {"acquisition": "expected_improvement", "candidates": 3}}},
    "baselines": {
        "random": {"optimizer": {"kind": "random"}},
        "tpe": {"optimizer": {"kind": "tpe", "initial": 2}, "choices": [{"candidates": 4}, {"candidates": 5}]},
    },
    "live": {"group": "datasets", "columns": ["ei", "random"], "trial": 4},
}
MIXED = {"kind": "bbob_mixed", "functions": ["linear_slope"], "dimensions": [2, 3], "noises": ["none"]}


def made(**fields):
    return Tuning.parse({**TINY, **fields}, "test")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """An OptFormer that has learned nothing."""
    theta = jax.tree.map(lambda a: 3 * a, CONFIG.build().init(jax.random.key(0)))
    return l2o.save(tmp_path_factory.mktemp("zoo") / "fresh", CONFIG, theta)


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


def written(monkeypatch):
    """Paths that a study writes from now on."""
    paths, original = [], pieces.save
    monkeypatch.setattr(pieces, "save", lambda path, **arrays: (paths.append(path), original(path, **arrays)))
    return paths


def test_normalised_by_hand():
    values = np.array([[9.0, 4.0, 6.0, 2.0], [np.nan, 5.0, 1.0, 3.0]])
    found = normalised(values, least=2.0, median=6.0)
    np.testing.assert_allclose(found, [[1, 0.5, 0.5, 0], [1, 0.75, 0, 0]])
    np.testing.assert_array_equal(normalised(values, 2.0, 2.0), [[1, 1, 1, 0], [1, 1, 0, 0]])


def test_comparisons_by_hand():
    ours, theirs = np.array([[0.1], [0.2], [0.3], [0.4]]), np.array([[0.2], [0.2], [0.5], [0.3]])
    found = compared(ours, theirs, seed=0)
    assert found["difference"] == pytest.approx(-0.05)
    assert -0.2 <= found["low"] < -0.05 < found["high"] <= 0.1
    assert found["win_rate"] == 2.5 / 4 and found["win_rate_low"] == pytest.approx(0.15, abs=0.01)
    assert compared(ours, ours, seed=0) | wins(ours[:, 0], ours[:, 0]) == compared(ours, ours, seed=0)
    equal = compared(ours, ours + 0.1, seed=0)
    assert [equal[k] for k in ("difference", "low", "high", "win_rate")] == pytest.approx([-0.1, -0.1, -0.1, 1])


def test_ranks_by_hand():
    found = ranks({"a": np.array([0.1, 0.5, 0.2]), "b": np.array([0.2, 0.5, 0.1]), "c": np.array([0.3, 0.6, 0.1])})
    assert {name: of.tolist() for name, of in found.items()} == {
        "a": [1, 1.5, 3], "b": [2, 1.5, 1.5], "c": [3, 3, 1.5]
    }  # fmt: skip


def test_scores_are_means_over_runs_then_tasks_then_steps():
    study = made()
    few = [cell._replace(least=0.0, median=1.0) for cell in cells(study) if cell.group == "datasets"]
    first, second = np.ones((2, TRIALS)), np.full((2, TRIALS), 0.5)
    first[0, 4:] = 0.2
    assert score(study, few, [first, second]) == pytest.approx(((1 + 0.5) / 2 + (0.6 + 0.5) / 2) / 2)


def test_tasks_that_have_as_many_parameters_are_one_program():
    study = made(
        tasks={
            "datasets": {"task": {"kind": "hpo"}},
            "models": {"task": {"kind": "hpo", "datasets": ["wine"], "models": ["gradient_boosting"],
                                "held_out_models": []}},
        }, tune={"task": {"kind": "hpo"}, "tasks": 5}, live=None,
    )  # fmt: skip
    every = cells(study)
    assert [sum(cell.group == group for cell in every) for group in ("tune", "datasets", "models")] == [5, 56, 8]
    told, shapes = prompts(every, "gp_ucb"), {}
    for cell in every:
        tree, leaves = (
            jax.tree.structure((cell.family, told[cell.group, cell.name])),
            jax.tree.map(jnp.shape, cell.family),
        )
        shapes.setdefault(cell.dimension, set()).add((tree, str(leaves), told[cell.group, cell.name].token.shape))
    assert {d: len(some) for d, some in shapes.items()} == {3: 1, 4: 1}
    held_out = [cell for cell in every if cell.group != "tune"]
    assert not {cell.name for cell in held_out} & {cell.name for cell in every if cell.group == "tune"}
    assert all(cell.about is not None and cell.least < cell.median for cell in every)


@pytest.mark.slow
def test_functions_are_tasks_of_their_own_seeds():
    groups = {"functions": {"task": MIXED, "instances": 2}}
    tune = {"task": {**MIXED, "functions": ["sphere"]}, "tasks": 1}
    both = cells(made(tasks=groups, tune=tune, live=None))
    alone = cells(made(tasks={"functions": {"task": {**MIXED, "dimensions": [3]}, "instances": 3}}, live=None, runs=3))
    alone = {cell.name: cell for cell in alone}
    assert [cell.name for cell in both[1:]] == [f"linear_slope-{d}d-{i}" for d in (2, 3) for i in (0, 1)]
    for cell in both[3:]:
        same = alone[cell.name]
        jax.tree.map(np.testing.assert_array_equal, cell.family.params, same.family.params)
        assert (cell.least, cell.median) == (same.least, same.median)
        assert cell.seeds.tolist() == same.seeds[:2].tolist() and cell.about is None
    assert len({seed for cell in both for seed in cell.seeds}) == 9
    cell = both[3]
    task = cell.family.task(cell.family.sample(jax.random.key(0)))
    x = jax.vmap(task.problem.space.sample)(jax.random.split(jax.random.key(1), 64))
    values = np.asarray(task.evaluate(jax.random.key(2), x).value)
    assert values.min() >= cell.least and np.quantile(values, 0.3) < cell.median < np.quantile(values, 0.7)
    assert prompts(both, "gp_ucb") == {}


def test_prompts_are_data_of_each_task(caplog):
    """An optimizer that proposes a share of the space that its prompt decides."""
    several = [cell for cell in cells(made()) if cell.group == "datasets"]
    told = prompts(several, "gp_ucb")

    def bind(theta):
        def init(key, problem):
            return problem.space.from_unit(theta * (jnp.sum(problem.context.token) % 7) / 7 * jnp.ones(3))

        return Optimizer(init, lambda key, x: (x[None], x), lambda key, x, points, evaluation: x)

    program = compiled(bind, 2)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        points = [np.asarray(program(1.0, told[c.group, c.name], c.family, c.seeds)["x"]) for c in several]
    assert sum(line.startswith("Compiling jit(run)") for line in caplog.messages) == 1
    for cell, x in zip(several, points, strict=True):
        share = int(told[cell.group, cell.name].token.sum()) % 7 / 7
        expected = cell.family.params.space.from_unit(jnp.full(3, share))
        np.testing.assert_allclose(x, np.broadcast_to(expected, (2, 2, 3)), rtol=1e-6)
    assert not np.array_equal(*points)


def test_public_tables_are_tasks(tmp_path, monkeypatch):
    axes = {"rate": Axis("log", (0.01, 0.1, 1.0)), "act": Axis("category", ("relu", "tanh"))}
    toy = Benchmark("toy", ("first", "second"), ("val_loss", "validation loss"), "minimize", axes)
    monkeypatch.setitem(tables.BENCHMARKS, "hpobench", toy)
    monkeypatch.setattr(tables, "folder", lambda: tmp_path)
    tables.table.cache_clear()
    (tmp_path / "hpobench").mkdir()
    for name in toy.datasets:
        rows = {f"{i}{j}": {"val_loss": [2.0 * i + j, 2.0 * i + j + 2]} for i in range(3) for j in range(2)}
        (tmp_path / "hpobench" / f"{name}.pkl").write_bytes(pickle.dumps(rows))
    task = {"kind": "tables", "benchmarks": ["hpobench"]}
    tune = {"task": {**task, "datasets": ["first"]}, "tasks": 1}
    study = made(tasks={"toy": {"task": {**task, "datasets": ["second"]}}}, tune=tune, live=None)
    first, second = cells(study)
    assert (first.group, first.name, second.group, second.name) == ("tune", "hpobench.first", "toy", "hpobench.second")
    assert (second.least, second.median, second.dimension, second.which) == (1.0, 3.5, 2, None)
    assert set(prompts([first, second], "gp_ucb")) == {("tune", "hpobench.first"), ("toy", "hpobench.second")}
    found = on_host(TPEConfig(initial=2).build(), 4)(second.family, second.seeds)
    rows = 2 * np.round(np.log10(found["x"][..., 0]) + 2) + found["x"][..., 1]
    np.testing.assert_allclose(found["y"], rows + 1)
    with pytest.raises(UserError, match=r"tune: hpobench\.second is reported, too"):
        cells(made(tasks={"toy": {"task": {**task, "datasets": ["second"]}}}, live=None,
                   tune={"task": {**task, "datasets": ["second"]}, "tasks": 1}))  # fmt: skip
    tables.table.cache_clear()


def test_what_cannot_be_run_is_left_out_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(TPEConfig, "lacks", property(lambda self: "tpe needs a thing"))
    monkeypatch.setattr(reports, "write", lambda out, results, report: None)
    fields = {"variants": {}, "live": None, "tune": None, "trials": 3, "steps": [3], "timed": True}
    baselines = {"random": {"optimizer": {"kind": "random"}}, "tpe": {"optimizer": {"kind": "tpe"}}}
    study, said = made(**fields, baselines=baselines, compared="random"), []
    results = run(study, tmp_path / "out", said.append)
    sentence = "left out tpe: tpe needs a thing"
    assert results["left_out"] == [sentence] and sentence in said[0].splitlines()
    column = results["groups"]["datasets"]["columns"]
    assert list(column) == ["random"] and 0 < column["random"]["seconds"] < 10
    shown = text(results)
    assert sentence in shown and "seconds" in shown and "mean ranks" in shown
    with pytest.raises(UserError, match="compared: tpe needs a thing"):
        run(made(**fields, baselines=baselines, compared="tpe"), tmp_path / "other", said.append)


@pytest.mark.slow
def test_an_optimizer_on_its_own_has_its_prompt_and_makes_the_same_runs(fresh):
    study = made(optimizers=[str(fresh)])
    cell = next(cell for cell in cells(study) if cell.group == "datasets")
    setting = columns(study, trained(study))[0].settings[0]
    assert 0 < setting.time(cells(study), cell) < 60
    told = prompts([cell], "unknown")[cell.group, cell.name]

    def bind(theta):
        def init(key, problem):
            return problem.space.from_unit(theta * (jnp.sum(problem.context.token) % 7) / 7 * jnp.ones(3))

        return Optimizer(init, lambda key, x: (x[None], x), lambda key, x, points, evaluation: x)

    compiled_x = compiled(bind, 2)(1.0, told, cell.family, cell.seeds)["x"]
    np.testing.assert_array_equal(on_host(on_its_own(bind, 1.0, told), 2)(cell.family, cell.seeds)["x"], compiled_x)


def test_any_trained_optimizer_is_a_column(tmp_path, fresh, monkeypatch):
    """Of its own, or with settings that differ; and its runs are those of a plain loop."""
    monkeypatch.setattr(reports, "write", lambda out, results, report: None)
    config = PFNConfig(width=4, heads=1, feedforward=4, layers=1, parameter_width=4, processes=1, buckets=4)
    pfn = str(l2o.save(tmp_path / "tiny", config, config.build().init(jax.random.key(0))))
    few = {"candidates": 8, "ascent_steps": 0, "initial": 2}
    own = made(optimizers=[pfn], variants={}, compared="tiny", baselines={"random": TINY["baselines"]["random"]},
               tune=None, live=None)  # fmt: skip
    assert [column.name for column in columns(own, trained(own))] == ["tiny", "random"]
    study = own.model_copy(update={"variants": {"few": Variant(of="pfn", settings=few)}, "compared": "few"})
    results = run(study, tmp_path / "out", lambda line: None)
    assert results["learned"] == ["tiny"] and list(results["groups"]["datasets"]["columns"]) == ["few", "random"]
    cell = cells(study)[0]
    arrays = arrays_of(next((tmp_path / "out" / "cells" / "datasets" / cell.name).glob("few-*.npz")))
    chosen = l2o.load(pfn).configured(max_trials=TRIALS, **few)
    plain = on_host(on_its_own(chosen.learned.bind, chosen.theta, None), TRIALS)(cell.family, cell.seeds)
    np.testing.assert_array_equal(plain["x"][:, :2], arrays["x"][:, :2])
    assert all(len(np.unique(x, axis=0)) == TRIALS for x in arrays["x"])
    with pytest.raises(UserError, match=r"kind 'pfn' as --optimizer, found fresh \(optformer\)"):
        columns(study, trained(study.model_copy(update={"optimizers": (str(fresh),)})))


def test_runs_on_the_host_are_those_of_a_plain_loop():
    cell = cells(made())[0]
    optimizer = TPEConfig(initial=2).build()
    found = on_host(optimizer, 4)(cell.family, cell.seeds)
    params = cell.family.params
    for seed, x, y in zip(cell.seeds, found["x"], found["y"], strict=True):
        state = optimizer.init(study_keys(jnp.asarray(seed))[1], cell.family.task(cell.family.params).problem)
        for point, value in zip(x, y, strict=True):
            asked, state = optimizer.ask(jax.random.key(0), state)
            np.testing.assert_array_equal(asked[0], point)
            assert float(interpolated(params, jnp.asarray(point))) == pytest.approx(float(value), rel=1e-6)
            state = optimizer.tell(jax.random.key(0), state, asked, l2o.Evaluation(jnp.asarray(value)[None]))


def test_what_a_study_leaves(done, strict_json):
    study, out, results = done
    assert json.loads(json.dumps(results)) == strict_json((out / "results.json").read_text())
    assert (out / "curves.png").stat().st_size > 1000
    found = results["groups"]["datasets"]
    assert found["tasks"] == ["breast_cancer.0.knn.accuracy", "breast_cancer.0.knn.log_loss"]
    assert list(found["columns"]) == ["ei", "random", "tpe"]
    settings = {column.name: column.settings for column in columns(study, trained(study))}
    for name, column in found["columns"].items():
        chosen = results["chosen"][name]["settings"]
        (setting,) = [s for s in settings[name] if s.choice == chosen]
        by_hand = []
        for task in found["tasks"]:
            arrays = arrays_of(out / "cells" / "datasets" / task / f"{name}-{setting.identity}.npz")
            (cell,) = [cell for cell in cells(study) if (cell.group, cell.name) == ("datasets", task)]
            values = [float(interpolated(cell.family.params, jnp.asarray(x))) for x in arrays["x"].reshape(-1, 3)]
            np.testing.assert_allclose(arrays["y"].ravel(), values, rtol=1e-5)
            by_hand.append(normalised(arrays["y"], cell.least, cell.median).mean(0))
        mean = np.mean(by_hand, 0)
        np.testing.assert_allclose(column["curve"]["mean"], mean)
        assert [column["mean"]["2"][0], column["mean"]["6"][0]] == pytest.approx([mean[1], mean[5]])
        assert column["by_task"]["6"] == pytest.approx([task[5] for task in by_hand])
        assert column["mean"]["2"][1] <= mean[1] <= column["mean"]["2"][2]
    ei, random = (found["columns"][name]["mean"]["6"][0] for name in ("ei", "random"))
    (pair,) = [c for c in found["comparisons"] if (c["against"], c["step"]) == ("random", 6)]
    assert pair["difference"] == pytest.approx(ei - random)
    assert {c["against"] for c in found["comparisons"]} == {"random", "tpe"}
    html = (out / "report.html").read_text()
    for words in ("best at 6", "difference at 2", "candidates = 4", "tried for real", "knn.log_loss"):
        assert words in html
    assert set(provenance(results)["tables"]) == {
        "datasets",
        "datasets, ei against the others",
        "chosen settings",
        "tried for real",
    }


def test_settings_are_chosen_on_tuning_tasks_alone(copied, monkeypatch):
    study, out, results = copied
    (tpe,) = [column for column in columns(study, trained(study)) if column.name == "tpe"]
    scores = [s["score"] for s in results["chosen"]["tpe"]["scores"]]
    assert results["chosen"]["tpe"]["settings"] == tpe.settings[int(np.argmin(scores))].choice
    tuned = sorted((out / "cells" / "tune").glob("*/*.npz"))
    assert len(tuned) == 4, "two settings of one column on two tasks, and of the others none"
    other = tpe.settings[1 - int(np.argmin(scores))]
    by_name = {cell.name: cell for cell in cells(study) if cell.group == "tune"}
    for name, cell in by_name.items():
        path = out / "cells" / "tune" / name / f"tpe-{other.identity}.npz"
        arrays = arrays_of(path)
        save(path, **{**arrays, "y": np.full_like(arrays["y"], cell.least)})
    paths = written(monkeypatch)
    again = run(study, out, lambda line: None, resume=True)
    assert again["chosen"]["tpe"]["settings"] == other.choice
    assert {path.name for path in paths} == {f"tpe-{other.identity}.npz"}
    assert {path.parent.parent.name for path in paths} == {"datasets"}
    for path in (out / "cells" / "datasets").glob("*/tpe-*.npz"):  # what is reported has no say
        arrays = arrays_of(path)
        save(path, **{**arrays, "y": np.full_like(arrays["y"], 0.0 if other.identity not in path.name else 1e6)})
    third = run(study, out, lambda line: None, resume=True)
    assert third["chosen"] == again["chosen"]


def test_a_resumed_study_makes_no_run_twice(copied, monkeypatch):
    study, out, results = copied
    gone = (
        sorted((out / "cells" / "datasets").glob("*/random-*.npz"))[:1]
        + sorted((out / "cells").glob("tune/*/tpe-*"))[:1]
    )
    for path in gone:
        path.unlink()
    paths = written(monkeypatch)
    again = run(study, out, lambda line: None, resume=True)
    assert sorted(paths) == sorted(gone)
    assert {**again, "seconds": 0} == {**results, "seconds": 0}


def test_what_was_found_is_tried_for_real(done):
    study, _, results = done
    live = results["live"]
    assert set(live["columns"]) == {"ei", "random"} and len(live["tasks"]) == 2
    for cell in (cell for cell in cells(study) if cell.group == "datasets"):
        rows, values = cell.family.params, np.asarray(cell.family.params.value)
        best = int(np.nanargmin(values))
        x = np.asarray(jnp.where(rows.space.ordered, rows.space.from_unit(rows.u[best]), rows.u[best]))
        arrays = {"x": np.stack([x, x])[None], "y": np.array([[np.nan, values[best]]])}
        sign = -1 if cell.about["goal"] == "maximize" else 1
        setting, said = best_setting(cell, arrays, 2)
        assert set(setting) == {"n_neighbors", "weights", "p"} and said == pytest.approx(sign * cell.least)
        assert said == pytest.approx(live["tasks"][cell.name]["best"])
        found = fitted(study, cell, arrays)
        assert found["live"] == pytest.approx(found["table"], abs=1e-5), "rows of a table were measured so"
    for name, column in live["columns"].items():
        shares = []
        for cell in (cell for cell in cells(study) if cell.group == "datasets"):
            sign = -1 if cell.about["goal"] == "maximize" else 1
            worth = live["tasks"][cell.name]["columns"][name]["live"]
            shares.append(min((sign * worth - cell.least) / (cell.median - cell.least), 1))
        assert column["live"][0] == pytest.approx(np.mean(shares))


def test_from_the_command_line(copied, fresh, tmp_path, cli):
    _, out, _ = copied
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(TINY))
    found = cli("study", tmp_path / "mine.toml", "--optimizer", fresh, "--out", out, "--resume")
    assert found.code == 0, found
    for words in ("best at 6", "ei against", "chosen", "by the table", f"report: {out / 'report.html'}"):
        assert words in found.out


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tasks": {"a": {"task": {"kind": "bbob"}}}}, "task: found kind 'bbob', expected 'hpo', 'tables' or"),
        ({"tasks": {"a": {"task": {"kind": "bbob_mixed"}}}}, "task.noises: found ['none', 'gaussian_mod"),
        ({"tasks": {"a": {"task": {"kind": "hpo"}, "instances": 2}}}, "instances: found 2, and a task of kind 'hpo'"),
        ({"tasks": {"tune": TINY["tasks"]["datasets"]}}, "tasks: found the name 'tune', expected another one"),
        ({"tasks": {"a/b": TINY["tasks"]["datasets"]}}, "tasks: found the name 'a/b'"),
        ({"steps": [2, 7]}, "step 7 lies beyond the 6 trials of a run"),
        ({"live": {"group": "dataset", "columns": ["ei"]}}, "live.group: 'dataset' is no group"),
        ({"live": {"group": "datasets", "columns": ["ei"], "trial": 9}}, "live.trial: found 9, expected at most 6"),
        ({"baselines": {"ei": {"optimizer": {"kind": "random"}}}}, "baselines.ei: a variant has this name"),
        ({"baselines": {"a": {"optimizer": {"kind": "adam"}}}}, "baselines.a: optimizer: adam reads gradients"),
        ({"baselines": {"a": {"optimizer": {"kind": "tpe"}, "choices": [{"inital": 2}]}}},
         "baselines.a: choices.0: inital is an unknown field (did you mean 'initial'?)"),
        ({"baselines": {"a": {"optimizer": {"kind": "tpe"}, "choices": []}}}, "choices: found"),
        ({"baselines": {"a": {"optimizer": {"kind": "tpe"}, "runs": 3}}}, "column a: found 3 runs, expected at most"),
        ({"tune": None}, "column tpe has several choices, and the study has no [tune]"),
    ],
)  # fmt: skip
def test_bad_studies_are_one_sentence(fields, words):
    with pytest.raises(UserError) as error:
        made(**fields)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizers": []}, "variants.ei: expected one optimizer of kind 'optformer' as --optimizer, found none"),
        ({"optimizers": ["FRESH", "FRESH"]}, "optimizers: two are called fresh, expected different names"),
        ({"optimizers": ["random"]}, "optimizers: random is a baseline, expected a trained optimizer"),
        ({"optimizers": ["mlp"]}, "optimizers: mlp reads gradients, and these tasks give none"),
        ({"optimizers": ["nobody"]}, "no optimizer named 'nobody'"),
        ({"optimizers": ["RNN"]}, "expected one optimizer of kind 'optformer' as --optimizer, found rnn (rnn)"),
        ({"optimizers": ["FRESH", "RNN"], "baselines": {"rnn": {"optimizer": {"kind": "random"}}}},
         "optimizers: another column is called rnn, too"),
        ({"compared": "rando"}, "compared: 'rando' (did you mean 'random'?) is none of the columns"),
        ({"live": {"group": "datasets", "columns": ["tpee"], "trial": 4}},
         "live.columns: 'tpee' (did you mean 'tpe'?) is none of the columns"),
        ({"variants": {"ei": {"settings": {"acquisiton": "none"}}}}, "variants.ei: optformer cannot be configured so"),
        ({"tune": {"task": {"kind": "hpo", "models": ["knn"]}, "tasks": 30}},
         "tune.tasks: found 30, expected at most 24"),
        ({"tune": {"task": {**TINY["tasks"]["datasets"]["task"], "held_out_datasets": []}, "tasks": 8}},
         "tune: breast_cancer.0.knn.accuracy is reported, too, expected other tasks"),
        ({"live": {"group": "datasets", "columns": ["ei"], "trial": 2, "view": 3}}, "live.view: no task of the group"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_written(tmp_path, fresh, fields, words):
    folders, study = {"FRESH": str(fresh)}, made(**{"optimizers": ["FRESH"], **fields})
    if "RNN" in study.optimizers:
        config = RNNConfig(hidden=4, pooled=2, candidates=0, max_dimension=2)
        folders["RNN"] = str(l2o.save(tmp_path / "rnn", config, config.build().init(jax.random.key(0))))
    study = study.model_copy(update={"optimizers": tuple(folders.get(name, name) for name in study.optimizers)})
    with pytest.raises(UserError) as error:
        run(study, tmp_path / "out", lambda line: None)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["hpo", "bbob_hpo"])
def test_bundled_studies(name):
    study = StudyConfig.load(name)
    assert isinstance(study, Tuning) and study.tune is not None
    every = ["prior", "ei", "ucb", "pi", "ts", "random+ei", "gp_ucb", "gp_ei", "tpe", "random"]
    assert list(study.columns) == every and (study.trials, study.steps) == (50, (10, 25, 50))
    assert all(getattr(column.optimizer, "max_trials", 50) == 50 for column in study.baselines.values())
    assert set(kinds(l2o.BaselineConfig)) >= {rival.optimizer.kind for rival in study.baselines.values()}
    if name == "bbob_hpo":
        reported, tuned = study.tasks["functions"].task, study.tune.task
        assert isinstance(reported, BBOBMixedConfig) and isinstance(tuned, BBOBMixedConfig)
        assert reported.functions == HELD_OUT and set(tuned.functions) <= set(TRAIN)
        return
    assert study.tune.task == HPOConfig()
    tasks = {group: study.tasks[group].task for group in ("datasets", "models")}
    names = {group: task.names("test") for group, task in tasks.items() if isinstance(task, HPOConfig)}
    assert {name.dataset for name in names["datasets"]} == {"breast_cancer"}
    assert len({name.model for name in names["datasets"]}) == 7
    assert {name.model for name in names["models"]} == {"gradient_boosting"}
    assert len({name.dataset for name in names["models"]}) == 3
    assert not set(HPOConfig().names("train")) & {*names["datasets"], *names["models"]}


def test_bundled_studies_of_public_tables():
    """What is chosen on and what is reported at the end have no table in common, and all methods are there."""
    dev, end = StudyConfig.load("tables_dev"), StudyConfig.load("tables")
    assert isinstance(dev, Tuning) and isinstance(end, Tuning) and end.tune is not None and dev.tune is None
    used = {
        where: {name for task in some if isinstance(task, TablesConfig) for name in task.benchmarks}
        for where, some in {
            "dev": [group.task for group in dev.tasks.values()],
            "chosen": [end.tune.task],
            "reported": [group.task for group in end.tasks.values()],
        }.items()
    }
    assert used == {"dev": {"hpobench"}, "chosen": {"hpobench"}, "reported": {"hpolib", "nasbench201"}}
    columns = ["pfn", "optformer", "gp_ei", "gp_ei_botorch", "gp_ucb", "tpe", "optuna_gp", "smac", "hebo", "random"]
    assert list(end.columns) == columns and set(columns) <= set(dev.columns)
    for study in (dev, end):
        assert (study.trials, study.steps, study.timed, study.optimizers) == (
            50,
            (10, 25, 50),
            True,
            ("pfn", "optformer"),
        )
        assert all(getattr(rival.optimizer, "max_trials", 50) == 50 for rival in study.baselines.values())
