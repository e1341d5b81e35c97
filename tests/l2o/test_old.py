"""Files that an earlier tree wrote (in `old/`) are read, and what they began goes on as it would have gone on there."""

import math
import shutil
from pathlib import Path

import pytest

import l2o
from l2o import artifact

OLD = Path(__file__).parent / "old"
CALL = {"optimizer": "random", "budget": 9, "seed": 3}
BOX = {"bounds": [(-5, 10), (0, 15)], "guesses": [(1.0, 2.0)], "known": [((0.0, 0.5), 2.5), ((1.0, 1.0), math.nan)]}
NAMED = {
    "space": {
        "lr": {"kind": "float", "low": 1e-5, "high": 0.1, "scale": "log"},
        "layers": {"kind": "integer", "low": 1, "high": 8},
        "shape": [(64, 64), [5], "wide", None],
    },
    "name": "net", "metric": "accuracy", "goal": "maximize",
    "guesses": [{"lr": 1e-3, "layers": 2, "shape": (64, 64)}],
    "known": [({"lr": 1e-2, "layers": 3, "shape": None}, 0.5)],
}  # fmt: skip


@pytest.fixture
def old(tmp_path):
    """A copy of the folder, as a log that is opened may be written to."""
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_an_artifact():
    loaded = l2o.load(OLD / "artifact")
    assert loaded.config.kind == "lstm" and loaded.provenance == {"description": "written before the rooms"}
    assert artifact.five_steps(loaded.learned, loaded.theta) == pytest.approx(loaded.check, rel=1e-5)


@pytest.mark.parametrize("name", ["path", "log"])
def test_the_log_of_a_search(old, name):
    with l2o.Search(**CALL, **BOX, **{name: old / "search.jsonl"}) as search:
        states = ["complete", "infeasible", "infeasible", "complete", "pending", "complete", "infeasible"]
        assert [t.state for t in search.history] == states
        assert [t.value for t in search.history] == [2.5, None, None, 3.25, None, 7.0, None]
        assert [t.error for t in search.history if t.error] == ["the value is nan", "no memory", "the value is inf"]
        assert [t.known for t in search.history] == [True, True, False, False, False, True, False]
        assert [t.number for t in search.result().history] == [0, 1, 3, 2, 5, 6]
        assert search.history[3].seconds == 0.5 and search.best.number == 0 and search.evaluations == 3
        trials = []
        for _ in range(3):
            trials.append(search.ask())
            search.observe(trials[-1], float(trials[-1].x.sum()))
    expected = {
        4: [7.006368637084961, 8.169055581092834],
        7: [0.33427894115448, 3.2477742433547974],
        8: [-0.6895077228546143, 12.163458466529846],
    }
    assert {t.number: t.x.tolist() for t in trials} == expected
    with l2o.Search(**CALL, **BOX, path=old / "search.jsonl") as again:
        assert len(again.history) == 9 and all(t.state != "pending" for t in again.history)


def test_the_log_of_a_study(old):
    with l2o.Study(**CALL, **NAMED, path=old / "study.jsonl") as study:
        states = ["complete", "infeasible", "complete", "pending", "complete", "infeasible"]
        assert [t.state for t in study.history] == states
        assert [t.value for t in study.history] == [0.5, None, 0.75, None, 0.25, None]
        assert study.history[1].parameters == {"lr": 1e-3, "layers": 2, "shape": (64, 64)}
        assert study.best.number == 2 and study.best.parameters["shape"] == "wide"
        trials = []
        for _ in range(3):
            trials.append(study.suggest())
            study.observe(trials[-1], trials[-1].parameters["lr"])
    expected = {
        3: {"lr": 0.015911030316068775, "layers": 5, "shape": None},
        6: {"lr": 0.00026452966644123906, "layers": 2, "shape": None},
        7: {"lr": 0.00014107972590700072, "layers": 7, "shape": None},
    }
    assert {t.number: t.parameters for t in trials} == expected
    with l2o.Study(**CALL, **NAMED, path=old / "study.jsonl") as again:
        assert len(again.history) == 8 and all(t.state != "pending" for t in again.history)
