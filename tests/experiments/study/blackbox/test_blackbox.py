"""Studies of black-box optimizers: the same functions for all, regrets as a plain loop has them, and a resume."""

import json
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tomli_w
from scipy import stats

import l2o
from experiments.study import StudyConfig
from experiments.study.blackbox import report as report_blackbox
from experiments.study.blackbox import run as blackbox
from experiments.study.blackbox.config import BlackBox
from experiments.study.blackbox.results import regrets, summary
from experiments.study.blackbox.run import Found, Plan, cells
from experiments.study.columns import columns
from experiments.study.engine import provenance, run
from l2o import registry
from l2o.baselines.search import RandomConfig
from l2o.blackbox.rnn import RNNConfig
from l2o.core import BaselineConfig, HostOptimizer
from l2o.errors import UserError

TINY = {
    "kind": "blackbox",
    "description": "tiny",
    "tasks": {"gp": {"kind": "gp", "dimension": 1}, "branin": {"kind": "function", "function": "branin"}},
    "evaluations": 7,
    "runs": 3,
    "steps": [2, 7],
    "baselines": {"random": {"kind": "random"}, "quasi": {"kind": "sobol"}, "pairs": {"kind": "pairs"}},
    "relative_to": "random",
    "reference": "quasi",
    "batch": 2,
}


def made(**fields):
    return BlackBox.parse({**TINY, **fields}, "test")


class PairsConfig(BaselineConfig):
    """On the host: two random points at a time, the second half way between the first and the best one."""

    kind: Literal["pairs"] = "pairs"

    def build(self):
        def init(key, problem):
            seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
            return {"rng": np.random.default_rng(seed), "space": problem.space, "best": (np.inf, problem.start)}

        def ask(key, state):
            one = np.float32(state["rng"].uniform(state["space"].low, state["space"].high))
            return jnp.asarray(np.stack([one, (one + np.asarray(state["best"][1])) / 2])), state

        def tell(key, state, x, evaluation):
            assert evaluation.gradient is None and evaluation.judged is None
            for point, value in zip(np.asarray(x), np.asarray(evaluation.value), strict=True):
                state["best"] = min(state["best"], (float(value), point), key=lambda pair: pair[0])
            return state

        return HostOptimizer(init, ask, tell)


@pytest.fixture(scope="module", autouse=True)
def pairs():
    before = {room: dict(known) for room, known in registry._KINDS.items()}
    l2o.register(PairsConfig)
    yield
    registry._KINDS.clear()
    registry._KINDS.update(before)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A learned optimizer that has learned nothing."""
    config = RNNConfig(hidden=4, pooled=2, candidates=0, max_dimension=2)
    return l2o.save(tmp_path_factory.mktemp("zoo") / "fresh", config, config.build().init(jax.random.key(0)))


@pytest.fixture(scope="module")
def done(tmp_path_factory, fresh):
    """A finished study: what was asked for, its directory, results and what it said."""
    study, out, said = made(optimizers=[str(fresh)]), tmp_path_factory.mktemp("study") / "out", []
    with jax.numpy_rank_promotion("raise"):
        return study, out, run(study, out, said.append), said


def by_hand(optimizer, cell, run, runs, evaluations):
    """Values of one run: ask, evaluate, tell, with the keys of `evaluate` and `unroll`."""
    key = jax.random.split(jax.random.clone(cell.key), runs)[run]
    sample_key, init_key, run_key, _ = jax.random.split(key, 4)
    n = optimizer.n if hasattr(optimizer, "n") else 1
    task = cell.family.task(cell.family.sample(sample_key)).with_horizon(-(-evaluations // n))
    state, values = optimizer.init(init_key, task.problem), []
    while len(values) < evaluations:
        round_key = jax.random.fold_in(jax.random.clone(run_key), len(values) // n)
        ask_key, evaluate_key, tell_key = (jax.random.fold_in(jax.random.clone(round_key), i) for i in range(3))
        x, state = optimizer.ask(ask_key, state)
        evaluation = l2o.Evaluation(task.evaluate(evaluate_key, x).value)
        values += evaluation.value.tolist()
        n = len(x)
        state = optimizer.tell(tell_key, state, x, evaluation)
    return values[:evaluations], task


@pytest.mark.parametrize("name", ["random", "fresh", "pairs"])
@pytest.mark.parametrize("where", ["gp", pytest.param("branin", marks=pytest.mark.slow)])
def test_regrets_are_those_of_a_plain_loop(done, fresh, name, where):
    study, _, results, _ = done
    optimizer = {"random": RandomConfig().build(), "fresh": l2o.load(fresh).optimizer, "pairs": PairsConfig().build()}
    (cell,) = (cell for cell in cells(study) if cell.name == where)
    (found,) = (cell["columns"] for cell in results["cells"] if cell["cell"] == where)
    for i in range(study.runs):
        loop = SizedOptimizer(optimizer[name], 2 if name == "pairs" else 1)
        values, task = by_hand(loop, cell, i, study.runs, 7)
        best = np.minimum.accumulate(values)
        ours = [found[name]["regret"][step][i] for step in ("2", "7")]
        assert ours[0] - ours[1] == pytest.approx(best[1] - best[6], rel=1e-4, abs=1e-5)
        if where == "branin":
            f_opt = float(task.info["f_opt"])
            assert ours == pytest.approx([best[1] - f_opt, best[6] - f_opt], rel=1e-4, abs=1e-4)
        assert ours[1] >= 0


class SizedOptimizer:
    """An optimizer that says how many points it asks for."""

    def __init__(self, optimizer, n):
        self.init, self.ask, self.tell, self.n = *optimizer, n


@pytest.mark.slow
def test_with_workers_the_runs_are_those_of_the_asynchronous_optimizer(tmp_path, fresh):
    study = made(
        optimizers=[str(fresh)], baselines={"random": {"kind": "random"}}, reference=None, workers=3,
        tasks={"branin": TINY["tasks"]["branin"]},
    )  # fmt: skip
    results = run(study, tmp_path / "out", lambda line: None)
    cell, optimizer = cells(study)[0], l2o.asynchronous(l2o.load(fresh).optimizer, 3)
    values, _ = by_hand(SizedOptimizer(optimizer, 1), cell, 0, study.runs, 7)
    (found,) = (one["columns"] for one in results["cells"] if one["cell"] == "branin")
    assert found["fresh"]["regret"]["7"][0] == pytest.approx(min(values) - 1.25 / np.pi, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("kind", ["pairs", "cma_es"])
def test_workers_refuse_what_cannot_have_them(tmp_path, kind):
    study = made(baselines={"random": {"kind": "random"}, "other": {"kind": kind}}, reference=None, workers=3)
    with pytest.raises(UserError, match="workers"):
        run(study, tmp_path / "out", lambda line: None)


def test_compiled_and_in_python_are_the_same_runs(done, fresh):
    study, *_ = done
    column, cell = columns(study)[0], cells(study)[1]
    values, batch = blackbox.compiled(column, cell, 3, 5, 2, 1)
    host = HostOptimizer(*map(jax.jit, column.make(column.argument)))
    again, alone = blackbox.in_python(host, cell, 3, 5, 1)
    np.testing.assert_allclose(values, again, rtol=1e-3, atol=1e-4)
    assert alone > 0 and batch > 0


def test_the_directory_holds_everything(done, strict_json):
    study, out, results, said = done
    assert {p.name for p in out.iterdir()} == {"config.toml", "results.json", "curves.png", "report.html", "cells"}
    assert strict_json((out / "results.json").read_text()) == json.loads(json.dumps(results))
    assert StudyConfig.load(out / "config.toml") == study
    assert said[0] == "2 cells, 4 optimizers, 3 runs of 7 evaluations each"
    page = (out / "report.html").read_text()
    for words in ("<h2>Over all cells</h2>", "<h2>branin</h2>", "fresh on gp at 7: ", "tr class=ours"):
        assert words in page
    assert "http" not in page.replace("http-equiv", "")


def test_results(done):
    _, _, results, _ = done
    assert results["learned"] == ["fresh"] and set(results["sha256"]) == {"fresh"}
    for cell in results["cells"]:
        assert list(cell["columns"]) == ["fresh", "random", "quasi", "pairs"]
        for name, column in cell["columns"].items():
            assert len(column["curve"]["mean"]) == 7 and column["failed"] == 0
            assert column["mean"]["7"][0] == pytest.approx(np.mean(column["regret"]["7"]))
            assert column["curve"]["mean"][6] == pytest.approx(column["mean"]["7"][0])
            assert (column["gap"] == {}) == (name == "quasi")
            assert column["seconds"]["alone"] > 0 and (column["seconds"]["batch"] is None) == (name == "pairs")
        at = {name: np.mean(column["regret"]["7"]) for name, column in cell["columns"].items()}
        gap, low, high = cell["columns"]["fresh"]["gap"]["7"]
        assert gap == pytest.approx((at["fresh"] - at["quasi"]) / at["random"]) and low <= gap <= high
    regret = np.array([[c["regret"]["7"] for c in cell["columns"].values()] for cell in results["cells"]])
    ranks = stats.rankdata(regret, axis=1).mean((0, 2))
    found = {column["name"]: column for column in results["columns"]}
    assert [found[n]["rank"][0] for n in ("fresh", "random", "quasi", "pairs")] == pytest.approx(ranks)
    assert [c["rank"][0] for c in results["columns"]] == sorted(c["rank"][0] for c in results["columns"])
    assert found["random"]["ratio"] == {"2": 1.0, "7": 1.0}
    means = regret.mean(2)
    assert found["fresh"]["ratio"]["7"] == pytest.approx(np.exp(np.log(means[:, 0] / means[:, 1]).mean()))
    assert found["random"]["won"]["fresh"]["7"][0] == pytest.approx((regret[:, 0] < regret[:, 1]).mean())
    pairs = {(c["against"], c["cell"], c["step"]): c for c in results["comparisons"]}
    assert set(pairs) == {(n, c, s) for n in ("random", "quasi", "pairs") for c in ("gp", "branin") for s in (2, 7)}
    difference = np.mean(regret[1, 0] - regret[1, 3])
    assert pairs["pairs", "branin", 7]["difference"] == pytest.approx(difference)


def test_the_tables_are_rectangles_and_shipped(done):
    _, _, results, _ = done
    tables = [report_blackbox.overall(results), *(report_blackbox.of_cell(results, c) for c in results["cells"])]
    for table in tables:
        assert len(table.rows) == 4 and all(len(row) == len(table.header) for row in table.rows)
    assert tables[0].header == [
        "optimizer", "regret at 2 / random", "regret at 7 / random", "rank", "fresh wins", "per proposal", "in a batch",
    ]  # fmt: skip
    scores = provenance(results)
    assert set(scores["tables"]) == {"Over all cells", "gp", "branin"} and scores["study"]["evaluations"] == 7
    json.dumps(scores)


def test_a_resumed_study_makes_no_run_twice(done, tmp_path, monkeypatch):
    study, out, results, _ = done
    made_again = []
    original = blackbox.runs_of

    def recorded(study, cell, column, n):
        made_again.append((cell.name, column.name))
        return original(study, cell, column, n)

    monkeypatch.setattr(blackbox, "runs_of", recorded)
    (out / "cells" / "gp" / "quasi.npz").unlink()
    (out / "cells" / "branin" / "pairs.npz").unlink()
    again = run(study, out, lambda line: None, resume=True)
    assert made_again == [("gp", "quasi"), ("branin", "pairs")]
    assert without_time(again) == without_time(results)
    monkeypatch.setattr(blackbox, "runs_of", None)
    fewer = run(study.model_copy(update={"optimizers": ()}), out, lambda line: None, resume=True)
    assert fewer["learned"] == [] and fewer["comparisons"] == []


def without_time(results):
    if isinstance(results, dict):
        return {name: without_time(value) for name, value in results.items() if name != "seconds"}
    return [without_time(value) for value in results] if isinstance(results, list) else results


def test_a_cell_does_not_depend_on_the_others():
    both, one = cells(made()), cells(made(tasks={"branin": TINY["tasks"]["branin"]}))
    keys = [jax.random.key_data(cell.key).tolist() for cell in (*both, *one)]
    assert keys[1] == keys[2] != keys[0]


def test_regrets_of_failed_evaluations():
    values = {
        "a": np.array([[np.nan, 2.0, 3.0, 1.0], [np.inf] * 4]),
        "b": np.array([[-np.inf, 5, 0.5, 2], [4, 3, 9, 2.0]]),
    }
    found = regrets(values, np.array([0.75, -1.0]))
    np.testing.assert_array_equal(found["a"], [[np.inf, 1.5, 1.5, 0.5], [np.inf] * 4])
    np.testing.assert_array_equal(found["b"], [[np.inf, 4.5, 0, 0], [5, 4, 4, 3]])


def summary_of(study, found):
    """results.json of a study whose column "a" is a learned one."""
    column = columns(study)[0]._replace(name="a", learned=True)
    return {"study": study.model_dump(mode="json"), **summary(Plan(study, [column], [], {}), found)}


def test_failed_runs_never_win():
    study = made(tasks={"gp": TINY["tasks"]["gp"]}, steps=[2], reference="b", relative_to="b")
    values = {"gp": {"a": np.full((3, 7), np.nan), "b": np.ones((3, 7)) * np.arange(7, 0, -1)}}
    seconds = {"gp": {name: {"alone": 1.0, "batch": np.nan} for name in "ab"}}
    found = summary_of(study, Found(values, {"gp": np.zeros(3)}, seconds))
    json.dumps(found, allow_nan=False)
    assert found["comparisons"][0]["win_rate"] == 0 and found["comparisons"][0]["difference"] is None
    assert [(c["name"], c["rank"][0]) for c in found["columns"]] == [("b", 1), ("a", 2)]
    assert found["cells"][0]["columns"]["a"]["gap"] == {"2": [None] * 3}
    assert found["cells"][0]["columns"]["a"]["failed"] == 21
    (row,) = (row for row in report_blackbox.overall({**found, "learned": ["a"]}).rows if row[0] == "a")
    assert row[1] == "failed"
    assert "failed" in report_blackbox.of_cell(found, found["cells"][0]).rows[1][1]


def test_equal_below_the_floor():
    study = made(tasks={"gp": TINY["tasks"]["gp"]}, steps=[1], reference=None)
    values = {"gp": {"a": np.full((3, 7), 1e-8), "random": np.full((3, 7), 2e-8)}}
    seconds = {"gp": {name: {"alone": 1.0, "batch": 1.0} for name in values["gp"]}}
    found = summary_of(study, Found(values, {"gp": np.zeros(3)}, seconds))
    assert found["comparisons"][0]["win_rate"] == 0.5
    assert [c["rank"][0] for c in found["columns"]] == [1.5, 1.5]


@pytest.mark.slow
def test_groups_of_meta_training_seeds(tmp_path, fresh):
    config = l2o.load(fresh).config
    runs = [str(fresh), str(l2o.save(tmp_path / "b", config, config.build().init(jax.random.key(1))))]
    few = {"baselines": {"random": {"kind": "random"}}, "reference": None}
    study = made(tasks={"branin": TINY["tasks"]["branin"]}, groups={"both": runs}, **few)
    found = run(study, tmp_path / "out", lambda line: None)
    ratios = {c["name"]: c["ratio"]["7"] for c in found["columns"]}
    assert found["groups"]["both"]["7"][0] == pytest.approx((ratios["fresh"] * ratios["b"]) ** 0.5)
    (sentence,) = report_blackbox.over_seeds(found)
    assert sentence.startswith("both, 2 meta-training seeds: regret over that of random ")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": [8]}, "step 8 lies beyond the 7 evaluations of a run"),
        ({"steps": [7, 2]}, "steps must increase"),
        ({"runs": 1}, "runs: found 1"),
        ({"tasks": {}}, "tasks: found {}"),
        ({"tasks": {"a/b": TINY["tasks"]["gp"]}}, "tasks: found the name 'a/b'"),
        ({"tasks": {"gp": {"kind": "functoin"}}}, "tasks.gp: unknown kind 'functoin' (did you mean 'function'?)"),
        ({"tasks": {"gp": {"kind": "gp", "dimnsion": 1}}}, "tasks.gp.dimnsion is an unknown field (did you mean"),
        ({"baselines": {"random": {"kind": "rando"}}}, "baselines.random: unknown kind 'rando'"),
        ({"baselines": {"sobol": {"kind": "sobol", "max": 1}}}, "baselines.sobol.max is an unknown field"),
        ({"relative_to": None}, "reference needs relative_to"),
        ({"sed": 1}, "sed is an unknown field (did you mean 'seed'?)"),
    ],
)
def test_bad_studies_are_one_sentence(fields, words):
    with pytest.raises(UserError) as error:
        BlackBox.parse({k: v for k, v in {**TINY, **fields}.items() if v is not None}, "test")
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"relative_to": "rand"}, "relative_to: 'rand' is none of the optimizers"),
        ({"optimizers": ["adam"]}, "adam reads gradients"),
        ({"optimizers": ["lstm"]}, "lstm reads gradients"),
        ({"optimizers": [], "baselines": {}}, "the study has no optimizers"),
        ({"tasks": {"q": {"kind": "quadratic"}}}, "tasks.q: quadratic has no bounds"),
        ({"tasks": {"m": {"kind": "mixture", "families": [{"kind": "gp"}]}}}, None),
        ({"tasks": {"m": {"kind": "mixture", "families": [{"kind": "gp"}] * 2}}}, "tasks.m: a mixture has tasks"),
        ({"baselines": {"random": {"kind": "random"}, "ei": {"kind": "gp_ei", "prior": "given"}}, "reference": None},
         "ei on gp: gp_ei with prior"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_written(tmp_path, fields, words):
    if words is None:
        (cell,) = cells(made(**fields))
        assert cell.name == "m"
        return
    study = made(**{"tasks": {"gp": TINY["tasks"]["gp"]}, **fields})
    with pytest.raises(UserError) as error:
        run(study, tmp_path / "out", lambda line: None)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_more_dimensions_than_the_optimizer_takes(tmp_path, fresh):
    study = made(tasks={"d3": {"kind": "gp", "dimension": 3}}, optimizers=[str(fresh)])
    with pytest.raises(UserError, match=r"fresh on d3: this rnn optimizer takes up to 2 dimensions"):
        run(study, tmp_path / "out", lambda line: None)


def test_two_columns_of_one_name(tmp_path, fresh):
    baselines = {**TINY["baselines"], "fresh": {"kind": "sobol"}}
    study = made(optimizers=[str(fresh)], baselines=baselines)
    assert [column.name for column in columns(study)].count("fresh") == 1, "one that was asked for takes its place"
    assert not columns(made(optimizers=["random"]))[0].learned


def test_from_the_command_line(tmp_path, fresh, cli):
    few = {name: TINY["baselines"][name] for name in ("random", "quasi")}
    one = {**TINY, "tasks": {"branin": TINY["tasks"]["branin"]}, "baselines": few}
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(one))
    found = cli("study", tmp_path / "mine.toml", "--optimizer", fresh, "--out", tmp_path / "s")
    assert found.code == 0, found
    said = ("fresh on branin at 7: ", "fresh at 2 wins ", "(fresh - quasi) / random at 2: ")
    for words in ("per proposal", *said, f"report: {tmp_path / 's'}"):
        assert words in found.out
    again = cli("study", tmp_path / "mine.toml", "--optimizer", fresh, "--out", tmp_path / "s", "--resume")
    assert again.code == 0 and again.out.splitlines()[-1] == found.out.splitlines()[-1]
    sentence = cli("study", tmp_path / "mine.toml", "--set", "kind=blackbax").sentence
    assert "unknown kind 'blackbax' (did you mean 'blackbox'?), expected one of blackbox, curves, grid" in sentence


def test_bundled_studies():
    for name in ("blackbox_gp", "blackbox_functions", "blackbox_hartmann"):
        study = StudyConfig.load(name)
        assert isinstance(study, BlackBox) and len(cells(study)) == len(study.tasks)
    functions = StudyConfig.load("blackbox_functions")
    assert isinstance(functions, BlackBox)
    assert {(c.translation, c.scaling, c.rotate, c.normalize) for c in functions.tasks.values()} == {
        (0.3, 0.1, True, True)
    }
    assert StudyConfig.load("blackbox_gp").baselines["gp_ei-given"].prior == "given"
