"""Studies of evolution strategies: runs as a plain loop has them, few programs, honest tuning, hand-computed scores."""

import json
from typing import Literal

import jax
import numpy as np
import pytest
import tomli_w
from scipy.stats import rankdata

import l2o
from experiments.study import StudyConfig
from experiments.study.columns import columns
from experiments.study.engine import provenance, run
from experiments.study.population import report as report_population
from experiments.study.population import run as population
from experiments.study.population.cells import cells
from experiments.study.population.choice import Choice, choose
from experiments.study.population.config import Population
from experiments.study.population.results import TARGETS, area, ecdf, parts, reached, summary, won
from experiments.study.population.run import Found, Plan
from l2o import registry
from l2o.core import BaselineConfig, Evaluation, HostOptimizer, Optimizer
from l2o.errors import UserError
from l2o.evolution.les import LESConfig
from meta.evaluate import run_keys

TINY = {
    "kind": "population",
    "description": "tiny",
    "tasks": {"bbob": {"kind": "bbob", "functions": ["sphere", "ellipsoid"], "dimensions": [2, 3]}},
    "population_size": 6,
    "generations": 4,
    "runs": 2,
    "steps": [2, 4],
    "trained": {"functions": ["sphere"], "dimensions": [3]},
    "tune": {"scales": [1e-6, 1.0], "learning_rates": [1e-9, 0.3], "runs": 2, "dimensions": [3]},
    "baselines": {"snes": {"kind": "snes"}, "rated": {"kind": "open_es"}, "five": {"kind": "scattered"}},
}
NETWORK = {"kind": "mlp_classifier", "width": 2, "batch_size": 4}
SOLE = {"scales": [1.0], "learning_rates": [0.1]}  # nothing to choose
quiet = lambda line: None  # noqa: E731


def made(**fields):
    return Population.parse({**TINY, **fields}, "test")


class ScatteredConfig(BaselineConfig):
    """Points at random around the start; not a strategy with a population size."""

    kind: Literal["scattered"] = "scattered"
    points: int = 5
    host: bool = False

    def build(self):
        def ask(key, state):
            start, scale = state
            return start[None] + scale * jax.random.normal(key, (self.points, *start.shape)), state

        kind = HostOptimizer if self.host else Optimizer
        return kind(lambda key, problem: (problem.start, problem.scale), ask, lambda key, state, x, evaluation: state)


@pytest.fixture(scope="module", autouse=True)
def scattered():
    before = {room: dict(known) for room, known in registry._KINDS.items()}
    l2o.register(ScatteredConfig)
    yield
    registry._KINDS.clear()
    registry._KINDS.update(before)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A learned strategy that has learned nothing."""
    config = LESConfig(keys=2, hidden=2)
    return l2o.save(tmp_path_factory.mktemp("zoo") / "fresh", config, config.build().init(jax.random.key(0)))


@pytest.fixture(scope="module")
def done(tmp_path_factory, fresh):
    """A finished study: what was asked for, its directory, results, what it said, and its compilations."""
    study, out, said, compiled = made(optimizers=[str(fresh)]), tmp_path_factory.mktemp("study") / "out", [], []

    class Recorded:
        def lower(self, make, argument, family, key, **options):
            compiled.append((make, family.family.dimension, options["tasks"]))
            return original.lower(make, argument, family, key, **options)

    original, population.evaluate = population.evaluate, Recorded()
    try:
        with jax.numpy_rank_promotion("raise"):
            return study, out, run(study, out, said.append), said, compiled
    finally:
        population.evaluate = original


def sized(study):
    """The columns of a study."""
    return columns(study, population_size=study.population_size)


def by_hand(optimizer, cell, i, runs, rounds, scale=1.0):
    """Values of run i in the order of asking, and the best point of the last round with its measures."""
    keys = run_keys(jax.random.split(jax.random.clone(cell.key), runs)[i])
    task = cell.family.task(cell.family.sample(keys.sample)).with_horizon(rounds - 1)
    problem = task.problem._replace(scale=scale * task.problem.scale)
    state, values, data = optimizer.init(keys.init, problem), [], jax.random.key_data(keys.run)
    for t in range(rounds):
        ask_key, evaluate_key, tell_key = (
            jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(data), t), which) for which in range(3)
        )
        x, state = optimizer.ask(ask_key, state)
        value = task.evaluate(evaluate_key, x).value
        values += value.tolist()
        state = optimizer.tell(tell_key, state, x, Evaluation(value))
    return values, task.measure(keys.measure, x[np.argmin(value)])


@pytest.mark.parametrize(
    ("name", "n", "rounds"), [("fresh", 6, 4), ("rated", 6, 4), pytest.param("five", 5, 4, marks=pytest.mark.slow)]
)
def test_every_run_is_that_of_a_plain_loop(done, fresh, name, n, rounds):
    study, _, results, _, _ = done
    choice = results["chosen"]["bbob"][name]
    column = next(c for c in sized(study) if c.name == name)
    optimizer = column.make(column.argument if choice["learning_rate"] is None else choice["learning_rate"])
    cell = next(cell for cell in cells(study) if cell.name == "ellipsoid-d2")
    (found,) = (one["columns"][name]["final"] for one in results["cells"] if one["cell"] == cell.name)
    for i in range(study.runs):
        values, _ = by_hand(optimizer, cell, i, study.runs, rounds, choice["scale"])
        assert len(values) == n * rounds
        expected = [min(values[:12]), min(values[:24])]
        assert [found["2"][i], found["4"][i]] == pytest.approx(expected, rel=1e-3), "of the same evaluations"


def test_learned_strategies_have_the_population_of_the_study(fresh):
    column = sized(made(optimizers=[str(fresh)], population_size=8))[0]
    cell = cells(made())[0]
    assert population.together(cell, column) == 8
    assert l2o.load(fresh).config.population_size == 16


def test_one_compilation_for_each_column_and_dimension(done):
    *_, results, _, compiled = done
    assert len(compiled) == len(set(compiled)) == 4 * 2
    assert len(results["cells"]) == 4, "two functions in each of them, and what is tuned on is among them"


def test_tuning_finds_what_works_and_says_so(done):
    study, _, results, said, _ = done
    assert results["chosen"]["bbob"] == {
        name: {"scale": 1.0, "learning_rate": 0.3 if name == "rated" else None, "edge": True}
        for name in ("fresh", "snes", "rated", "five")
    }
    assert "tuned rated on bbob: sigma x 1, learning rate 0.3 (at the edge of the grid)" in said
    assert report_population.overall(results).rows[-1][-1].endswith(" *")
    assert not Choice(1.0, 0.1).edge(
        study.tune.model_copy(update={"scales": (0.1, 1.0, 3.0), "learning_rates": (0.1,)})
    )


def test_tuning_never_sees_what_is_reported():
    study = made(tasks={**TINY["tasks"], "pendulum": {"kind": "pendulum"}}, tune={"dimensions": [4]})
    reported, tuned = cells(study), cells(study, tuning=True)
    assert [cell.name for cell in tuned] == ["sphere-d4", "pendulum"], "trained functions in the given dimensions"
    assert [cell.name for cell in reported] == ["sphere-d2", "ellipsoid-d2", "sphere-d3", "ellipsoid-d3", "pendulum"]
    everything = [*reported, *tuned, *cells(made(), tuning=True)]
    keys = {cell.name: jax.random.key_data(cell.key).tolist() for cell in reported}
    assert len({tuple(jax.random.key_data(cell.key).tolist()) for cell in everything}) == 5 + 2 + 1
    alone = cells(made(tasks={"bbob": {"kind": "bbob", "functions": ["ellipsoid"], "dimensions": [3]}}))
    assert {c.name: jax.random.key_data(c.key).tolist() for c in alone} == {"ellipsoid-d3": keys["ellipsoid-d3"]}


def test_data_are_those_of_the_right_split():
    study = made(tasks={"digits": {"kind": "neuroevolution", "family": NETWORK}})
    images = [cells(study, tuning)[0].family.family.data.images for tuning in (True, False)]
    config = study.tasks["digits"]
    for found, split in zip(images, ("train", "test"), strict=True):
        np.testing.assert_array_equal(found, config.build(split).family.data.images)
    assert images[0].shape != images[1].shape or not np.array_equal(*images)


def test_the_choice_is_the_one_of_the_best_mean_rank():
    # ranks in each run of each cell: 1, 3, 3, 1.5 | 2, 2, 2, 1.5 | 3, 1, 1, 3
    last = np.array([[[1.0, 7.0], [9.0, 1e-9]], [[2.0, 6.0], [3.0, 1e-12]], [[3.0, 5.0], [2.0, np.nan]]])
    assert choose(last, [None, np.zeros(2)], 1e-8) == 1
    assert choose(last[:, :1], [None], 1e-8) == 0
    assert choose(last[:, 1:, 1:], [np.zeros(1)], 1e-8) == 0, "equal below the floor, and the first of them"
    assert choose(last[:, 1:, 1:], [None], 1e-8) == 1
    assert choose(np.full((2, 1, 1), -np.inf), [None], 1e-8) == 0


def test_runtime_distributions_by_hand():
    assert TARGETS[0] == 100 and TARGETS[25] == pytest.approx(1e-3) and TARGETS[-1] == pytest.approx(1e-8)
    # 26 targets are not below 1e-3, 6 not below 10, none is below 1e3 or reached by what failed
    regret = np.array([[1e3, 1e-3 * (1 - 1e-9), 0.0], [np.nan, 9.99, 9.99]])
    share = reached(regret)
    np.testing.assert_allclose(share, [0, (26 + 6) / 102, (51 + 6) / 102])
    expected = (np.log(3 / 2) * share[1] + np.log(4 / 3) * share[2]) / np.log(4)
    assert area(share) == pytest.approx(expected)
    assert area(np.ones(7)) == pytest.approx(1)
    study = made(generations=3, steps=[3])
    facts = {"a": ("bbob", "sphere", 2, True), "b": ("bbob", "sphere", 8, True), "c": ("x", "", 5, False)}
    never = np.full((2, 3), np.inf)
    found = ecdf(study, facts, {c: {"s": {"best": b}} for c, b in [("a", regret), ("b", never), ("c", never)]}, ["s"])
    assert list(found) == ["d = 2", "d = 8", "all dimensions"]
    assert found["d = 2"]["x"] == [3, 6, 9] and found["d = 2"]["columns"]["s"] == pytest.approx(share)
    whole = found["all dimensions"]
    assert whole["x"][0] == pytest.approx(6 / 8) and whole["x"][-1] == pytest.approx(9)
    for x, y in zip(whole["x"], whole["columns"]["s"], strict=True):
        generation = int(x * 2 / 6 + 1e-6)
        assert y == pytest.approx((share[generation - 1] if generation else 0) / 2)


def test_who_wins_by_hand():
    study = made()
    facts = {"f-d2": ("bbob", "f", 2, True), "f-d3": ("bbob", "f", 3, True), "g-d2": ("bbob", "g", 2, True)}
    pairs = {"f-d2": (np.zeros(4), np.ones(4)), "f-d3": (np.zeros(4), np.ones(4)), "g-d2": (np.ones(4), np.ones(4))}
    found = won(study, facts, pairs)
    assert found["rate"] == pytest.approx((8 + 2) / 12)
    assert found["functions"] == pytest.approx([0.5, 1.0]), "f alone or g alone"
    assert 0.5 < found["wilson"][0] < found["rate"] < found["wilson"][1] < 1
    assert won(study, facts, {"f-d2": pairs["f-d2"]})["functions"] is None


def test_parts_are_what_meta_training_did_not_see(done):
    _, _, results, _, _ = done
    held = {cell["cell"]: cell["parts"][1:] for cell in results["cells"]}
    assert held == {
        "sphere-d2": ["held-out dimensions"], "sphere-d3": [], "ellipsoid-d3": ["held-out functions"],
        "ellipsoid-d2": ["held-out functions", "held-out dimensions", "both held out"],
    }  # fmt: skip
    facts = {"pendulum": ("pendulum", "", 9, False)}
    assert parts(made(), facts) == {"all cells": ["pendulum"]}


def test_results(done):
    *_, results, _, _ = done
    assert results["learned"] == ["fresh"] and set(results["sha256"]) == {"fresh"}
    names = ["fresh", "snes", "rated", "five"]
    last = np.array([[cell["columns"][n]["final"]["4"] for n in names] for cell in results["cells"]])
    assert (last > 0).all() and last.shape == (4, 4, 2)
    ranks = dict(zip(names, rankdata(last, axis=1).mean((0, 2)), strict=True))
    assert {c["name"]: c["rank"] for c in results["columns"]} == pytest.approx(ranks)
    assert [c["rank"] for c in results["columns"]] == sorted(ranks.values())
    (snes,) = (c for c in results["columns"] if c["name"] == "snes")
    assert set(snes["won"]) == {"fresh"} and snes["seconds"] > 0
    wins = (last[:, 0] < last[:, 1]) + (last[:, 0] == last[:, 1]) / 2
    assert snes["won"]["fresh"]["all cells"]["4"]["rate"] == pytest.approx(wins.mean())
    held = [i for i, cell in enumerate(results["cells"]) if cell["function"] == "ellipsoid"]
    rate = snes["won"]["fresh"]["held-out functions"]["4"]
    assert rate["rate"] == pytest.approx(wins[held].mean()) and rate["functions"] is None
    assert results["cells"][0]["columns"]["snes"]["median"] == pytest.approx(np.median(last[0, 1]))


def tables_of(results):
    """The tables of a report by the titles of their sections."""
    return {s.title: table for s in report_population.report(results) for table in s.tables}


def test_the_directory_holds_everything(done, strict_json):
    study, out, results, said, _ = done
    files = {"config.toml", "results.json", "ecdf.png", "heatmap.png", "report.html", "cells", "tuned"}
    assert {p.name for p in out.iterdir()} == files
    assert strict_json((out / "results.json").read_text()) == json.loads(json.dumps(results))
    assert StudyConfig.load(out / "config.toml") == study
    assert said[0] == "4 cells, 4 optimizers, 2 runs of 4 generations of 6 each"
    page = (out / "report.html").read_text()
    for words in ("<h2>Over all cells</h2>", "fresh: share of runs won", "both held out at 4", "tr class=ours"):
        assert words in page
    for table in tables_of(results).values():
        assert table.rows and all(len(row) == len(table.header) for row in table.rows)
    scores = provenance(results)
    assert set(scores["tables"]) == {"Over all cells", "fresh: share of runs won"}
    assert scores["study"]["generations"] == 4
    json.dumps(scores)


def test_a_resumed_study_makes_no_run_twice(done, monkeypatch):
    study, out, results, _, _ = done
    made_again, original = [], population.Programs.run

    def recorded(self, cell, choice, runs):
        made_again.append((self.column.name, cell.name))
        return original(self, cell, choice, runs)

    monkeypatch.setattr(population.Programs, "run", recorded)
    (out / "cells" / "sphere-d2" / "snes.npz").unlink()
    (out / "tuned" / "bbob" / "five.npz").unlink()
    again = run(study, out, quiet, resume=True)
    assert made_again == [("snes", "sphere-d2"), ("five", "sphere-d3"), ("five", "sphere-d3")]
    assert without_time(again) == without_time(results)
    monkeypatch.setattr(population.Programs, "run", None)
    assert run(study.model_copy(update={"optimizers": ()}), out, quiet, resume=True)["learned"] == []


def without_time(results):
    if isinstance(results, dict):
        return {name: without_time(value) for name, value in results.items() if name != "seconds"}
    return [without_time(value) for value in results] if isinstance(results, list) else results


@pytest.mark.slow
def test_measures(tmp_path, fresh):
    pendulum = {"kind": "pendulum", "width": 1, "episodes": 1, "steps": 20}
    fields = {"tasks": {"pendulum": pendulum}, "trained": {}, "tune": SOLE, "measures": ["return"]}
    study = made(baselines={"snes": {"kind": "snes"}}, optimizers=[str(fresh)], **fields)
    results = run(study, tmp_path / "out", quiet)
    assert results["ecdf"] == {} and not (tmp_path / "out" / "ecdf.png").exists()
    assert not list((tmp_path / "out").glob("tuned/*/*")), "there was nothing to choose"
    for cell, measure in zip(cells(study), study.measures, strict=True):
        (found,) = (one["columns"] for one in results["cells"] if one["cell"] == cell.name)
        optimizer = sized(study)[1].make(None)
        values, expected = by_hand(optimizer, cell, 1, study.runs, 4)
        assert found["snes"]["measures"][measure]["runs"][1] == pytest.approx(float(expected[measure]), abs=1e-3)
        assert found["snes"]["final"]["4"][1] == pytest.approx(min(values), rel=1e-3), "nothing is subtracted"
        ours, theirs = (np.array(found[n]["measures"][measure]["runs"]) for n in ("fresh", "snes"))
        (pair,) = (c for c in results["comparisons"] if c["cell"] == cell.name)
        assert pair["difference"] == pytest.approx(np.mean(ours - theirs)) and pair["low"] <= pair["high"]
        assert pair["win_rate"] == pytest.approx(((ours > theirs) + (ours == theirs) / 2).mean()), "higher is better"
    shown = tables_of(results)
    assert shown["return"].header == ["return", "pendulum"]
    assert shown["fresh: return, run by run"].rows[0][0] == "snes"
    assert "higher is better" in report_population.notes(results)


def test_failed_runs_are_the_worst():
    study = made(measures=["accuracy"], steps=[1, 4])
    (cell,) = (cell for cell in cells(study) if cell.name == "sphere-d2")
    runs = {"sphere-d2": {
        "a": {"best": np.full((2, 4), np.inf), "seconds": 1.0, "measure accuracy": np.array([np.nan, 0.5])},
        "b": {"best": np.full((2, 4), 3.0), "seconds": 1.0, "measure accuracy": np.array([0.1, 0.2])},
    }}  # fmt: skip
    ours = columns(study)[0]._replace(name="a", learned=True)
    of = Found(runs, {"sphere-d2": True}, {"bbob": {"a": Choice(1.0), "b": Choice(1.0)}})
    found = {"study": study.model_dump(mode="json"), **summary(Plan(study, [ours], [cell], []), of)}
    json.dumps(found, allow_nan=False)
    assert [(c["name"], c["rank"]) for c in found["columns"]] == [("b", 1), ("a", 2)]
    assert found["columns"][0]["won"]["a"]["all cells"]["4"]["rate"] == 0
    (pair,) = found["comparisons"]
    assert pair["difference"] is None and pair["win_rate"] == 0.5
    assert report_population.measured(found, "accuracy").rows[1] == ["a", "failed"]
    assert report_population.differences(found, "a", "accuracy").rows[0][1].startswith("a run failed")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": [5]}, "step 5 lies beyond the 4 generations of a run"),
        ({"steps": [4, 2]}, "steps must increase"),
        ({"runs": 1}, "runs: found 1"),
        ({"tasks": {"a/b": {"kind": "bbob"}}}, "tasks: found the name 'a/b'"),
        ({"trained": {"functions": ["spere"]}}, "trained.functions: unknown function 'spere' (did you mean 'sphere'?)"),
        ({"tune": {"scales": [0.0]}}, "tune.scales.0: found 0.0"),
        ({"tune": {"scale": [1.0]}}, "tune.scale is an unknown field (did you mean 'scales'?)"),
        ({"baselines": {"x": {"kind": "snees"}}}, "baselines.x: unknown kind 'snees' (did you mean 'snes'?)"),
        ({"sed": 1}, "sed is an unknown field (did you mean 'seed'?)"),
    ],
)
def test_bad_studies_are_one_sentence(fields, words):
    with pytest.raises(UserError) as error:
        made(**fields)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizers": ["adam"]}, "adam reads gradients"),
        ({"optimizers": ["random"]}, "random on ellipsoid-d3: "),
        ({"baselines": {"x": {"kind": "scattered", "host": True}}}, "x cannot be compiled"),
        ({"population_size": 7}, "rated: population_size must be even"),
        ({"measures": ["accuracy"]}, "measures: no task has 'accuracy', expected some of none"),
        ({"tasks": {"gp": {"kind": "gp"}}}, "tasks.gp: its points have bounds, expected a free space"),
        ({"tasks": {"bbob": {"kind": "bbob", "bounded": True}}}, "tasks.bbob: its points have bounds"),
        ({"tasks": {"m": {"kind": "mixture", "families": [{"kind": "pendulum"}] * 2}}}, "tasks.m: a mixture has tasks"),
        ({"tasks": {"sphere-d2": {"kind": "pendulum"}, **TINY["tasks"]}}, "tasks: two cells are named 'sphere-d2'"),
        ({"baselines": {}}, "the study has no optimizers"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_written(tmp_path, fields, words):
    with pytest.raises(UserError) as error:
        run(made(**fields), tmp_path / "out", quiet)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_two_bbob_tasks_have_names_of_their_own():
    one = {"kind": "bbob", "functions": ["sphere"], "dimensions": [2]}
    found = cells(made(tasks={"quiet": one, "noisy": {**one, "noise": "gaussian"}}))
    assert [cell.name for cell in found] == ["quiet-sphere-d2", "noisy-sphere-d2"]


def test_from_the_command_line(tmp_path, fresh, cli):
    study = {**TINY, "tune": {**SOLE, "dimensions": [2]}, "baselines": {"snes": {"kind": "snes"}}, "trained": {}}
    study["tasks"] = {"bbob": {"kind": "bbob", "functions": ["sphere"], "dimensions": [2]}}
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(study))
    found = cli("study", tmp_path / "mine.toml", "--optimizer", fresh, "--out", tmp_path / "s")
    assert found.code == 0, found
    for words in ("mean rank", "fresh: share of runs won:", "ECDF: the share of", f"report: {tmp_path / 's'}"):
        assert words in found.out
    again = cli("study", tmp_path / "mine.toml", "--optimizer", fresh, "--out", tmp_path / "s", "--resume")
    assert again.code == 0 and again.out.splitlines()[-1] == found.out.splitlines()[-1]


def test_bundled_studies():
    bbob, networks = StudyConfig.load("bbob"), StudyConfig.load("neuroevolution")
    assert isinstance(bbob, Population) and isinstance(networks, Population)
    assert len(cells(bbob)) == 24 * 5 and bbob.runs >= 15
    assert {cell.name for cell in cells(bbob, tuning=True)} == {f"{name}-d10" for name in bbob.trained.functions}
    dimensions = {cell.name: cell.dimension for cell in cells(networks)}
    assert set(dimensions) == {"digits", "pendulum"} and dimensions["digits"] >= 1000


def test_with_measures_choices_are_compared_by_what_is_judged_late():
    found = {"best": np.array([[3.0, 1.0], [2.0, 0.5]]), "seconds": np.array(1.0)}
    np.testing.assert_array_equal(population.what_counts(found), [1.0, 0.5])
    np.testing.assert_array_equal(population.what_counts({**found, "late": np.array([0.25, np.nan])}), [0.25, np.inf])


def test_what_is_judged_late_is_the_validation_loss_of_the_last_generations():
    """Of a family whose judged values differ from the told ones."""
    network = {**NETWORK, "validation": 1.0}
    family = {"kind": "neuroevolution", "family": network}
    study = made(tasks={"digits": family}, measures=["heldout_accuracy"], generations=6, runs=2)
    (cell,) = cells(study)
    programs = population.Programs(study, sized(study)[0])
    late = programs.run(cell, population.choices(study, programs.column)[0], 2)["late"]
    plain = made(tasks={"digits": {**family, "family": NETWORK}}, measures=["heldout_accuracy"], generations=6, runs=2)
    (other,) = cells(plain)
    told = population.Programs(plain, sized(plain)[0])
    assert np.isfinite(late).all()
    assert not np.allclose(late, told.run(other, population.choices(plain, told.column)[0], 2)["late"])
