"""Tables, verdicts and pages made from a study's results."""

import copy
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from experiments import page, training_report
from experiments.study import report as reports
from experiments.study.curves import report
from experiments.study.curves.results import compare
from l2o.blackbox.rnn import RNNConfig
from l2o.gradient.lstm import LSTMConfig

LOSSES = {"ours": [1.0, 1.1, 0.9, 1.2], "worse": [2.0, 2.2, 1.9, 2.1], "better": [0.1, 0.2, 0.1, 0.3],
          "alike": [1.1, 0.9, 1.2, 1.0], "lost": [1.0, None, 5.0, 5.0]}  # fmt: skip


@pytest.fixture
def results():
    rows = [
        {"optimizer": name, "task": "quadratic", "seed": seed, "step 5": loss, "diverged": loss is None}
        for name, losses in LOSSES.items()
        for seed, loss in enumerate(losses)
    ]
    curve = {"mean": [4.0, 1.0], "low": [3.0, 0.5], "high": [5.0, 1.5]}
    return {
        "study": {"description": "made by hand", "runs": 4, "tune": {"measure": "each"}},
        "at_the_edge": ["lost"],
        "learned": ["ours"],
        "chosen": {
            "worse": {"step 5": 0.5},
            "better": {"step 5": 0.25},
            "alike": {"step 5": 0.125},
            "lost": {"step 5": 9.0},
        },
        "measures": ["step 5"],
        "rows": rows,
        "curves": {name: {**curve, "mean": [4.0, None]} if name == "lost" else curve for name in LOSSES},
        "comparisons": compare(rows, list(LOSSES), ["ours"], ["step 5"]),
        "seconds": 75.0,
    }


def test_summary(results):
    header, rows, *_ = report.means(results)
    assert header == ["optimizer", "learning rate", "step 5", "diverged"]
    assert [row[0] for row in rows] == list(LOSSES)
    assert [row[1] for row in rows] == ["learned", "0.5", "0.25", "0.125", "9"]
    assert [row[3] for row in rows] == ["0", "0", "0", "0", "1"]
    half = stats.t.ppf(0.975, 3) * stats.sem(LOSSES["ours"])
    assert rows[0][2] == f"{np.mean(LOSSES['ours']):.4g} ± {half:.2g}"
    assert rows[4][2] == "diverged"


def test_summary_adds_held_out_measures_and_all_rates(results):
    for row in results["rows"]:
        row |= {"heldout_loss": 0.5, "heldout_accuracy": 0.875}
    results["chosen"]["worse"] = {"step 5": 0.5, "mean to 5": 0.1}
    header, rows, *_ = report.means(results)
    assert header[3:] == ["heldout loss", "heldout accuracy", "diverged"]
    assert rows[1][1] == "0.1 / 0.5"
    assert rows[0][3:5] == ["0.5 ± 0", "0.875 ± 0"]


def test_verdicts(results):
    (sentence,) = report.verdicts(results, "ours")
    assert (
        sentence == "ours at step 5: below worse; above better; undecided against alike (50% of runs won), "
        "lost (a run diverged, 88% of runs won)"
    )


def test_a_verdict_needs_an_interval_that_excludes_zero(results):
    for comparison in results["comparisons"]:
        comparison |= {"low": -2.0, "high": 0.0} if comparison["against"] == "worse" else {"low": 0.0, "high": 1.0}
    (sentence,) = report.verdicts(results, "ours")
    assert sentence == (
        "ours at step 5: undecided against worse (100% of runs won), better (0% of runs won), alike (50% of runs won),"
        " lost (a run diverged, 88% of runs won)"
    )


def test_verdicts_have_one_sentence_for_each_measure(results):
    results["measures"].append("step 9")
    results["comparisons"] += [{**c, "measure": "step 9", "low": -2, "high": -1} for c in results["comparisons"]]
    _, later = report.verdicts(results, "ours")
    assert later == "ours at step 9: below worse, better, alike, lost"


def test_verdicts_are_about_one_optimizer(results):
    results["comparisons"] += [
        {**c, "optimizer": "second", "low": -2, "high": -1} for c in copy.deepcopy(results["comparisons"])
    ]
    assert "above better" in report.verdicts(results, "ours")[0]
    assert report.verdicts(results, "second") == ["second at step 5: below worse, better, alike, lost"]


def test_the_page_of_a_study(results, tmp_path):
    results["study"]["description"] = "a <b>bold</b> claim"
    reports.write(tmp_path, results, report.report(results))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "curves.png"}
    assert '<meta name="viewport"' in text
    assert not re.search(r"https?://|<script|<link|@import", text)
    assert all(found.startswith("data:image/png;base64,") for found in re.findall(r'src="([^"]*)"', text))
    assert "&lt;b&gt;bold" in text and "<b>bold" not in text
    assert "below worse; above better" in text and "a run diverged" in text and "1m15s" in text
    assert "one for each measure" in text and "At the edge of the grid: lost." in text
    assert text.count("<tr class=ours>") == 1
    assert 'class="good">-' in text and 'class="bad">+' in text


@pytest.mark.parametrize(
    ("config", "words"),
    [(LSTMConfig(), "l2o.load('runs/mine').optax()"), (RNNConfig(), "l2o.minimize(f, bounds, optimizer='runs/mine')")],
)
def test_how_to_use_what_was_trained(config, words):
    assert training_report.use(Path("runs/mine"), SimpleNamespace(optimizer=config)).endswith(words)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.23456, "1.235"),
        (0.0, "0"),
        (1e-9, "1e-09"),
        (None, "diverged"),
        (math.inf, "diverged"),
        (math.nan, "diverged"),
    ],
)
def test_number(value, text):
    assert page.number(value) == text


def test_table_escapes_its_header_and_marks_ours():
    text = page.table(["<a>", "b"], [["x", "1"], ["y", "2"]], {"y"})
    assert "<th>&lt;a&gt;</th>" in text
    assert "<tr><td>x</td>" in text and "<tr class=ours><td>y</td>" in text
