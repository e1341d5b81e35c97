"""Studies over workloads: which settings are tried and chosen, what is left out, ratios, groups, ladders, a resume."""

import json
import math

import jax
import numpy as np
import pytest

from experiments.study import StudyConfig, engine
from experiments.study.columns import columns
from experiments.study.workloads import report
from experiments.study.workloads import run as workloads
from experiments.study.workloads.config import Workloads
from experiments.study.workloads.results import over
from experiments.study.workloads.settings import at, choose, ends, name_of, settings
from l2o.errors import UserError
from meta.evaluate import evaluate
from tasks.networks.classifiers import MLPClassifierConfig

DIGITS = {"kind": "mlp_classifier", "width": 2, "batch_size": 4}
TABLE = {"kind": "regression", "width": 2, "depth": 1, "batch_size": 4}
TINY = {
    "kind": "workloads",
    "horizon": 20,
    "runs": 3,
    "workloads": {
        "digits": {"task": DIGITS, "group": "images", "ladder": ["width", "horizon"]},
        "table": {"task": TABLE, "group": "tables"},
        "digits_x2": {"task": {**DIGITS, "width": 4}, "ladder": "width", "scale": 2.0},
        "digits_long": {"task": DIGITS, "horizon": 40, "ladder": "horizon", "scale": 2.0},
    },
    "baselines": {
        "adamw": {"kind": "adamw"},
        "muon": {"kind": "muon", "schedule": "warmup_cosine", "matrices": "hidden"},
        "sgd": {"kind": "sgd", "learning_rate": 0.1},
    },
    "also": {"muon": {"adam_ratio": [0.1, 1.0]}},
    "references": ["adamw", "muon"],
    "tune": {"low": 0.01, "high": 1.0, "per_decade": 1, "runs": 3},
}


def made(**fields):
    return Workloads.parse({**TINY, **fields}, "test")


def column_of(study, name):
    return next(column for column in columns(study) if column.name == name)


def test_a_study_runs_reports_and_resumes(tmp_path, monkeypatch):
    small = {name: TINY["workloads"][name] for name in ("digits", "table")}
    small["digits"] = {**small["digits"], "ladder": "width"}
    study = made(workloads=small, baselines={name: TINY["baselines"][name] for name in ("adamw", "sgd")},
                 also={}, references=["adamw"])  # fmt: skip
    said = []
    results = engine.run(study, tmp_path / "out", said.append)
    assert said[0] == "2 workloads, 2 optimizers, 3 runs each, after 3 settings in 3 runs each"
    assert json.loads((tmp_path / "out" / "results.json").read_text())["columns"] == results["columns"]
    assert [column["name"] for column in results["columns"]] == ["adamw (suite)", "adamw (each)", "sgd"]
    own = results["columns"][1]
    assert own["ratio"]["adamw"] == own["heldout_ratio"]["adamw"] == [1, 1, 1] and own["won"]["adamw"] == 0
    for name in ("report.html", "heatmap.png", "curves.png", "profile.png", "ladders.png"):
        assert (tmp_path / "out" / name).stat().st_size > 1000
    for section in report.report(results):
        for table in section.tables:
            assert all(len(row) == len(table.header) for row in table.rows)
    told = engine.provenance(results)
    assert "Over the suite" in told["tables"] and set(told["study"]["workloads"]) == {"digits", "table"}
    assert "Over the suite:" in engine.text(results)

    def never(*arguments, **named):
        raise AssertionError("a run was made twice")

    monkeypatch.setattr(workloads, "Runner", never)
    again = engine.run(study, tmp_path / "out", said.append, resume=True)
    assert again["columns"] == results["columns"] and again["seconds"] == results["seconds"] > 0


class Scripted:
    """Runs with losses that a test wrote, in place of the ones of an optimizer.

    Attributes:
      asked: what was asked for.
      programs: how often there was something to compile.
    """

    asked: tuple = ()
    programs = 0

    def __init__(self, families, column, *, horizon, seed, together):
        self.width, self.horizon, self.column = families["train"].config.width, horizon, column
        self.kind = families["train"].config.kind
        type(self).programs += 1

    def __call__(self, argument, split, runs, measure):
        type(self).asked += ((self.column.name, split, runs),)
        rate = argument["learning_rate"] if isinstance(argument, dict) else argument
        loss = self.loss(rate, argument) * np.linspace(0.9, 1.1, runs)
        values = np.repeat(loss[:, None], self.horizon + 1, axis=1)
        assert measure == (split == "test"), "a training run that is measured takes longer for nothing"
        heldout = {} if self.kind == "regression" else {"heldout_loss": 2 * loss}
        return {"value": values, **heldout}, 1e-3

    def loss(self, rate, argument):
        if isinstance(argument, dict):  # muon: the smaller its other rate the better
            return 0.5 * argument["adam_ratio"] * (1 + abs(math.log10(rate)))
        if rate == 0.1 and self.column.name == "sgd":
            return 4.0
        best = 1.0 if self.kind == "regression" else 0.1  # adamw
        return 1.0 + abs(math.log10(rate) - math.log10(best)) * (1 if self.kind == "regression" else 3)


@pytest.fixture
def scripted(monkeypatch):
    class Fresh(Scripted):
        pass

    monkeypatch.setattr(workloads, "Runner", Fresh)
    return Fresh


def test_ratios_to_two_references_and_both_ways(scripted, tmp_path):
    results = engine.run(made(), tmp_path / "out", lambda line: None)
    found = {column["name"]: column for column in results["columns"]}
    assert list(found) == ["adamw (suite)", "adamw (each)", "muon (suite)", "muon (each)", "sgd"]
    assert results["references"] == ["adamw (each)", "muon (each)"]
    chosen = results["chosen"]
    assert chosen["adamw"]["suite"] == {"learning_rate": pytest.approx(0.1)}  # 1 and 2, against 4 and 1 at a rate of 1
    assert chosen["adamw"]["each"]["table"] == {"learning_rate": pytest.approx(1.0)}
    assert chosen["muon"]["suite"] == {"adam_ratio": 0.1, "learning_rate": pytest.approx(1.0)}
    np.testing.assert_allclose(found["adamw (suite)"]["ratio"]["adamw"], [2**0.5] * 3)
    np.testing.assert_allclose(found["adamw (suite)"]["ratio"]["muon"], [20 * 2**0.5] * 3)
    np.testing.assert_allclose(found["sgd"]["ratio"]["adamw"], [4] * 3)
    assert found["adamw (suite)"]["won"] == {"adamw": 0, "muon": 0} and found["muon (each)"]["won"]["adamw"] == 2
    assert found["adamw (suite)"]["worst"]["adamw"] == {"workload": "table", "ratio": pytest.approx(2)}
    np.testing.assert_allclose(found["adamw (suite)"]["groups"]["images"]["adamw"], [1] * 3)
    np.testing.assert_allclose(found["adamw (suite)"]["groups"]["tables"]["adamw"], [2] * 3)
    mean = float(np.exp(np.log(np.linspace(0.9, 1.1, 3)).mean()))
    assert found["sgd"]["cells"][0]["loss"][0] == pytest.approx(4 * mean)
    assert found["sgd"]["loss"][1] < 4 * mean < found["sgd"]["loss"][2], "runs differ"


def test_held_out_losses_where_there_are_any(scripted, tmp_path):
    results = engine.run(made(), tmp_path / "out", lambda line: None)
    sgd = next(column for column in results["columns"] if column["name"] == "sgd")
    assert sgd["cells"][1]["heldout_loss"] is None and sgd["cells"][1]["heldout_ratio"]["adamw"] is None
    np.testing.assert_allclose(sgd["heldout_ratio"]["adamw"], [4] * 3)
    assert report.by_workload(results)[1].rows[1][1] == "-"


def test_ladders_have_their_own_table_and_the_suite_none_of_their_rungs(scripted, tmp_path):
    results = engine.run(made(), tmp_path / "out", lambda line: None)
    assert [workload["in_suite"] for workload in results["workloads"]] == [True, True, False, False]
    width = results["ladders"]["width"]
    assert width["scales"] == [1, 2] and width["workloads"] == [["digits"], ["digits_x2"]]
    assert results["ladders"]["horizon"]["workloads"] == [["digits"], ["digits_long"]]
    np.testing.assert_allclose(width["ratios"]["sgd"]["adamw"], [[4] * 3] * 2)
    (section,) = report.ladders_section(results)
    assert [table.title for table in section.tables][:2] == ["width: ratio to adamw", "width: ratio to muon"]
    assert section.tables[0].header == ["optimizer", "x1", "x2"]


def test_settings_come_from_the_training_split_and_numbers_need_no_new_program(scripted, tmp_path):
    engine.run(made(runs=5), tmp_path / "out", lambda line: None)
    expected = {(name, *of) for name in ("adamw", "muon", "sgd") for of in (("train", 3), ("test", 5))}
    assert set(scripted.asked) == expected
    assert scripted.programs == 4 * (3 + 2), "one for each piece, with all its rates and ratios"


def test_sentences_on_losses_and_on_rates_at_the_end(scripted, tmp_path):
    results = engine.run(made(), tmp_path / "out", lambda line: None)
    assert report.sentences(results) == [
        "sgd: loses to adamw on digits (4), table (4), digits_x2 (4), digits_long (4); "
        "loses to muon on digits (80), table (80), digits_x2 (80), digits_long (80)"
    ]
    assert report.end_sentences(results) == [
        "the best rate of adamw on table is the largest tried",
        "the best rate of muon on digits, table, digits_x2, digits_long is the largest tried",
    ]
    assert report.edges(results) == ["the best rate of muon over the suite is the largest tried"]
    assert report.edges(results)[0] in engine.text(results)


def test_a_tie_and_a_tenth_are_no_losses():
    def cell(name, ratio, low, diverged=0):
        return {"workload": name, "ratio": {"adamw": [ratio, low, 9.0]}, "diverged": diverged}

    results = {"study": {"references": ["adamw"]}}
    mine = {"name": "mine", "cells": [cell("a", 1.05, 1.01), cell("b", 1.5, 0.9), cell("c", 1.5, 1.2, diverged=1)]}
    assert report.losses(results, mine) == "mine: loses to adamw on c (1.5); runs diverged on c"
    assert report.losses(results, {**mine, "cells": mine["cells"][:2]}) == "mine: loses nowhere"


def test_geometric_means_over_workloads_have_intervals_over_runs():
    logs = np.log([[1.0, 4.0], [4.0, 1.0], [np.nan, np.nan]])
    np.testing.assert_allclose(over(logs, [0, 1, 2]), [2] * 3)
    mean, low, high = over(logs, [0])
    assert mean == pytest.approx(2) and low < 1 < 4 < high
    assert over(logs, [2]) is None and over(logs, []) is None


def test_all_combinations_of_rates_and_other_fields_are_tried():
    study = made(also={"muon": {"adam_ratio": [0.1, 1], "matrices": ["all", "hidden"]}})
    muon = column_of(study, "muon")
    tried = settings(study, muon)
    assert len(tried) == len({name_of(setting) for setting in tried}) == 2 * 2 * 3
    assert tried[0] == {"adam_ratio": 0.1, "matrices": "all", "learning_rate": 0.01}
    assert name_of(tried[0]) == "0.01-adam_ratio=0.1-matrices=all" and name_of({}) == ""
    makers = [at(study, muon, setting)[0].make for setting in tried]
    assert makers[0] == makers[1] == makers[6] != makers[3] and len(set(makers)) == 2
    assert settings(study, column_of(study, "adamw")) == [{"learning_rate": rate} for rate in (0.01, 0.1, 1.0)]
    asked = made(optimizers=["muon"])
    assert len(settings(asked, column_of(asked, "muon"))) == 3, "one that is asked for by name has no other fields"


def test_a_baseline_at_a_setting_is_the_baseline_with_those_fields():
    study, family = made(), MLPClassifierConfig(width=2, batch_size=4).build()
    column, argument = at(study, column_of(study, "muon"), {"adam_ratio": 0.1, "learning_rate": 0.01})
    whole = study.baselines["muon"].model_copy(update={"adam_ratio": 0.1})

    def values(make, argument):
        return evaluate(make, argument, family, jax.random.key(0), tasks=1, horizon=4)["value"]

    np.testing.assert_allclose(values(column.make, argument), values(whole.build, 0.01), rtol=1e-5)
    assert np.abs(values(column.make, argument) - values(study.baselines["muon"].build, 0.01)).max() > 1e-4


def test_best_settings_over_the_suite_and_of_each():
    scores = np.array([[0.0, 1.0, 2.0], [9.0, 3.0, 4.0], [9.0, 9.0, 0.0]])
    assert choose(scores, [0, 1]) == (1, [0, 1, 2])
    assert choose(scores, [2]) == (2, [0, 1, 2])


def test_ends_need_three_numbers():
    tried = [{"learning_rate": rate, "adam_ratio": ratio} for rate in (0.1, 1.0, 10.0) for ratio in (0.1, 1.0)]
    assert ends(tried, {"learning_rate": 10.0, "adam_ratio": 1.0}) == {"learning_rate": "largest"}
    assert ends(tried, {"learning_rate": 0.1, "adam_ratio": 1.0}) == {"learning_rate": "smallest"}
    assert ends(tried, {"learning_rate": 1.0, "adam_ratio": 1.0}) == {}


MNIST = {"task": {**DIGITS, "dataset": {"kind": "mnist"}}}


def test_workloads_without_data_and_baselines_without_files_are_left_out(scripted, tmp_path, monkeypatch):
    monkeypatch.delenv("L2O_DATA", raising=False)
    study = made(
        workloads={**TINY["workloads"], "mnist": MNIST},
        baselines={**TINY["baselines"], "celo": {"kind": "celo"}},
    )
    said = []
    results = engine.run(study, tmp_path / "out", said.append)
    first, second = results["left_out"]
    assert first.startswith("left out celo: celo needs weights, the path of a file")
    assert second.startswith("left out mnist: mnist needs a data folder")
    assert said[0].splitlines()[:2] == [first, second] and first in engine.text(results)
    assert "mnist" not in [workload["name"] for workload in results["workloads"]]
    with pytest.raises(UserError, match="no workload of scale 1 can be run: left out mnist: "):
        engine.run(made(workloads={"mnist": MNIST}), tmp_path / "none", said.append)
    assert not (tmp_path / "none").exists()


def test_data_that_vanish_in_the_middle_end_no_study(scripted, tmp_path, monkeypatch):
    build, times = MLPClassifierConfig.build, []

    def vanishing(config, split="train"):
        times.append(config.width)
        if config.width == 4 and times.count(4) > 3:  # there for the plan and for tuning
            raise UserError("a file is gone")
        return build(config, split)

    monkeypatch.setattr(MLPClassifierConfig, "build", vanishing)
    said = []
    results = engine.run(made(), tmp_path / "out", said.append)
    assert results["left_out"] == ["left out digits_x2: a file is gone"] and results["left_out"][0] in said
    assert [workload["name"] for workload in results["workloads"]] == ["digits", "table", "digits_long"]
    assert all(len(column["cells"]) == 3 for column in results["columns"])
    monkeypatch.setattr(MLPClassifierConfig, "build", build)
    again = engine.run(made(), tmp_path / "out", said.append, resume=True)
    assert len(again["workloads"]) == 4 and not again["left_out"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"also": {"moun": {}}}, "also: there is no baseline 'moun' (did you mean 'muon'?)"),
        ({"also": {"sgd": {"schedule": ["cosine"]}}}, "also.sgd: a baseline with a learning rate that is tuned"),
        ({"also": {"muon": {"adam_ration": [1.0]}}}, "also.muon: adam_ration is an unknown field (did you mean"),
        ({"also": {"muon": {"adam_ratio": [-1.0]}}}, "also.muon: adam_ratio: found -1.0"),
        ({"also": {"muon": {"learning_rate": [1.0]}}}, "also.muon: expected other fields than kind and learning_rate"),
        ({"also": {"muon": {"adam_ratio": []}}}, "also.muon.adam_ratio: found []"),
        ({"workloads": {"a": {"task": DIGITS, "scale": 2.0}}}, "workloads.a: a scale of 2 needs a ladder"),
        ({"workloads": {"a": {"task": DIGITS, "scale": 2.0, "ladder": "width"}}}, "workloads: none has scale 1"),
        ({"workloads": {"a/b": {"task": DIGITS}}}, "workloads: found the name 'a/b'"),
        ({"workloads": {"a": {"task": {"kind": "mlp"}}}}, "workloads.a.task: "),
        ({"references": []}, "references: found []"),
    ],
)
def test_bad_studies_are_one_sentence(fields, words):
    with pytest.raises(UserError) as error:
        made(**fields)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"references": ["nag"]}, "references: 'nag' is none of the baselines of the study"),
        ({"optimizers": ["random"]}, "random reads no gradients, expected optimizers that do"),
        (
            {"workloads": {"a": {"task": {"kind": "mixture", "families": [DIGITS, TABLE]}}}},
            "workloads.a: a mixture has several kinds of tasks, expected a workload for each of them",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(fields, words, tmp_path):
    with pytest.raises(UserError) as error:
        engine.run(made(**fields), tmp_path / "out", lambda line: None)
    assert words in str(error.value) and not (tmp_path / "out").exists()


BUNDLED = [("workloads_dev", 10), ("workloads", 16), ("workloads_ladder", 15), ("language_model", 1)]


@pytest.mark.parametrize(("name", "count"), BUNDLED)
def test_bundled_studies_load(name, count):
    study = StudyConfig.load(name)
    assert isinstance(study, Workloads) and len(study.workloads) == count and study.references == ("adamw", "muon")
    assert name == "language_model" or study.baselines["celo"].lacks
