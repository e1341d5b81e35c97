"""Studies over a grid: which cells, which learning rates, what is reported, and a resume that makes no run twice."""

import json

import jax
import numpy as np
import pytest

import l2o
from experiments.study import StudyConfig
from experiments.study.columns import columns
from experiments.study.engine import run
from experiments.study.grid import report
from experiments.study.grid import run as grids
from experiments.study.grid.cells import GridCell, cells, family_of
from experiments.study.grid.config import Grid
from experiments.study.grid.report import failures, over_seeds
from experiments.study.grid.ways import choose
from experiments.study.losses import final, log_loss
from l2o.errors import UserError

TINY = {
    "kind": "grid",
    "task": {"kind": "mlp_classifier", "batch_size": 4},
    "activations": ["relu", "tanh"],
    "architectures": {"small": {"width": 2}, "none": {"depth": 0}},
    "horizons": [20, 40],
    "centre": {"activation": "relu", "architecture": "small", "horizon": 20},
    "runs": 4,
    "baselines": [{"kind": "adam"}, {"kind": "sgd", "schedule": "cosine"}],
    "tune": {"low": 0.01, "high": 1.0, "per_decade": 1, "runs": 2},
}


def made(**fields):
    return Grid.parse({**TINY, **fields}, "test")


def test_one_factor_at_a_time_and_the_corners():
    corners = {"activations": ["tanh"], "architectures": ["none", "small"], "horizons": [40]}
    assert cells(made(corners=corners)) == [
        GridCell("relu", "small", 20), GridCell("tanh", "small", 20), GridCell("relu", "none", 20),
        GridCell("relu", "small", 40), GridCell("tanh", "none", 40), GridCell("tanh", "small", 40),
    ]  # fmt: skip


def test_the_cross_has_every_combination_once_and_the_centre_first():
    found = cells(made(cross=True))
    assert len(found) == len(set(found)) == 8 and found[0] == GridCell("relu", "small", 20)


def test_cells_of_other_datasets_where_their_data_are(monkeypatch, tmp_path):
    datasets = {"digits": {"kind": "digits"}, "mnist": {"kind": "mnist"}, "again": {"kind": "digits"}}
    said = []
    monkeypatch.delenv("L2O_DATA", raising=False)
    found = cells(made(datasets=datasets), said.append)
    assert found[-1] == GridCell("relu", "small", 20, "again") and found[-1].name == "again-relu-small-20"
    assert not any(cell.dataset == "mnist" for cell in found)
    assert len(said) == 1 and said[0].startswith("left out the cells on mnist: mnist needs a data folder")
    assert len(cells(made(datasets=datasets, cross=True), said.append)) == 16


def test_a_cell_is_the_task_with_its_architecture_and_activation():
    config = family_of(made(), GridCell("tanh", "none", 20))
    assert (config.activation, config.depth, config.batch_size) == ("tanh", 0, 4)


def test_final_is_the_mean_of_the_last_twentieth_and_infinite_after_a_divergence():
    values = np.stack([np.arange(41.0), np.full(41, 2.0), np.full(41, 3.0)])
    values[1, 5] = np.nan
    values[2, 40] = np.inf
    np.testing.assert_array_equal(final(values), [39.5, np.inf, np.inf])


def test_losses_are_clipped_before_the_logarithm():
    np.testing.assert_allclose(np.exp(log_loss(np.array([1e-9, 0.5, np.inf, np.nan]), 1e-4)), [1e-4, 0.5, 1e3, 1e3])


def test_rates_are_best_on_the_centre_over_the_grid_and_on_each_cell():
    scores = np.array([[0.0, 1.0, 2.0], [9.0, 3.0, 4.0], [9.0, 9.0, 0.0]])  # rates 0.01, 0.1, 1
    np.testing.assert_allclose(choose(scores, made()), [[0.01] * 3, [1.0] * 3, [0.01, 0.1, 1.0]])


def test_a_grid_runs_reports_and_resumes(tmp_path, monkeypatch):
    said = []
    results = run(made(), tmp_path / "out", say=said.append)
    names = {column["name"] for column in results["columns"]}
    assert names == {f"{rule} ({way})" for rule in ("adam", "sgd-cosine") for way in ("centre", "grid", "cell")}
    reference = next(column for column in results["columns"] if column["name"] == "adam (grid)")
    assert (
        reference["ratio"] == reference["steps_ratio"] == [1, 1, 1]
        and reference["win_rate"] == [0.5, 0.5, 0.5]
        and reference["diverged"] == 0
    )
    assert json.loads((tmp_path / "out" / "results.json").read_text())["cells"] == results["cells"]
    for name in ("report.html", "heatmap.png", "curves.png", "profile.png"):
        assert (tmp_path / "out" / name).stat().st_size > 1000
    for table in (report.overall(results), report.times(results), report.final_losses(results)):
        assert table.rows and all(len(row) == len(table.header) for row in table.rows)

    def never(*arguments):
        raise AssertionError("a run was made twice")

    monkeypatch.setattr(grids, "Runner", never)
    again = run(made(), tmp_path / "out", say=said.append, resume=True)
    assert again["columns"] == results["columns"]
    assert again["seconds"] == results["seconds"] > 0


def test_runs_come_from_the_test_split_and_rates_from_the_training_split(tmp_path, monkeypatch):
    asked = []

    class Recorder(grids.Runner):
        def __call__(self, argument, split, runs):
            asked.append((split, runs))
            values = np.full((runs, self.horizon + 1), 1.0 if split == "test" else 2.0 - float(argument))
            return {"value": values, "heldout_loss": np.ones(runs), "heldout_accuracy": np.ones(runs)}, 1e-6

    monkeypatch.setattr(grids, "Runner", Recorder)
    results = run(made(), tmp_path / "out", say=lambda line: None)
    assert set(asked) == {("train", 2), ("test", 4)}
    assert all(set(rates.values()) == {1.0} for rates in results["rates"].values())
    assert asked.count(("test", 4)) == 2 * 4, "one rate is best in all three ways, so each cell is run once"


def test_the_sentence_on_failures():
    def cell(name, low, diverged):
        return {"cell": name, "ratio": [low * 1.1, low, low * 1.2], "diverged": diverged}

    column = {"name": "mine", "cells": [cell("a", 0.9, 0), cell("b", 1.3, 0), cell("c", 0.5, 2)]}
    assert failures(column) == "mine: worse than the reference on b; runs diverged on c"
    column["cells"] = column["cells"][:1]
    assert failures(column) == "mine: nowhere worse than the reference"


def test_the_sentence_over_seeds():
    three = [cell._asdict() for cell in (GridCell("relu", "small", h) for h in (1, 2, 3))]
    groups = {"mine": [[0.5, 0.4, 0.6], [2.0, 1.5, 3.0], [1.0, 0.5, 2.0]]}
    results = {"cells": three, "groups": groups, "study": {"groups": {"mine": ["a", "b"]}}}
    assert over_seeds(results, "mine") == (
        "mine, 2 meta-training seeds: better on relu-small-1; worse on relu-small-2; undecided on relu-small-3"
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"datasets": {"digits": {"kind": "digit"}}}, "datasets.digits: "),
        ({"centre": {**TINY["centre"], "dataset": "digit"}}, "datasets has no 'digit' (did you mean 'digits'?)"),
        ({"centre": {**TINY["centre"], "architecture": "smal"}}, "architectures has no 'smal' (did you mean 'small'?)"),
        ({"architectures": {"small": {"widht": 2}}}, "architectures.small: widht is an unknown field (did you mean"),
        ({"activations": ["relu6"]}, "activations.0: found 'relu6'"),
        ({"horizons": [0]}, "horizons.0: found 0"),
    ],
)
def test_bad_grids_are_one_sentence(fields, words):
    with pytest.raises(UserError) as error:
        made(**fields)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_reference_must_be_among_the_baselines(tmp_path):
    with pytest.raises(UserError, match="reference: 'nag' is none of"):
        run(made(reference="nag"), tmp_path / "out")


def test_bundled_grids_load():
    found = StudyConfig.load("activations")
    assert isinstance(found, Grid) and GridCell("relu", "20x1", 200) in cells(found)
    assert len(cells(found, lambda line: None)) in (26, 27)  # one more where there is MNIST


def test_members_of_groups_are_columns_once(tmp_path):
    config = l2o.load("lstm-quadratic").config
    runs = [str(tmp_path / name) for name in ("a", "b")]
    for number, run_directory in enumerate(runs):
        l2o.save(run_directory, config, config.build().init(jax.random.key(number)))
    grid = made(optimizers=[runs[1]], groups={"one": runs, "two": runs})
    assert [column.name for column in columns(grid, groups=grid.groups)] == ["b", "a", "adam", "sgd-cosine"]


def test_a_group_of_baselines_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"groups\.both: 'sgd' is a baseline, expected run directories"):
        run(made(groups={"both": ["sgd", "adam"]}), tmp_path / "out", say=lambda line: None)
    assert not (tmp_path / "out").exists()
