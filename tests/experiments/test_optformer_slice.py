"""From studies to suggestions: `l2o data`, `l2o train`, the artifact, a loop."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import l2o
from experiments.cli import app


def command(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optformer")
    command(
        "data", "bbob_tiny", "--out", folder / "data", "--set", 'source.task.functions=["sphere"]',
        "--set", "source.task.dimensions=[2]",
    )  # fmt: skip
    printed = command(
        "train", "optformer_tiny", "--out", folder / "run", "--set", f'task.paths=["{folder / "data"}"]',
        "--set", "meta.steps=60", "--set", "meta.log_every=20", "--set", "meta.validate_every=20",
        "--set", "meta.checkpoint_every=60", "--set", "optimizer.width=16", "--set", "optimizer.decoder_layers=1",
        "--set", "optimizer.feedforward=16",
        "--set", "meta.optimizer.buckets=[24]", "--set", "meta.optimizer.warmup=5", "--set", "meta.devices=1",
    )  # fmt: skip
    assert "tokens/s" in printed
    return folder / "run"


@pytest.mark.slow
def test_it_learns_and_says_so(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["validation"] < rows[0]["validation"]
    assert rows[-1]["validation"] == pytest.approx(
        (rows[-1]["validation_x"] + rows[-1]["validation_y"]) / 2,
        abs=abs(rows[-1]["validation_x"] - rows[-1]["validation_y"]),
    )
    report = (run / "report.html").read_text()
    assert "tokens per second" in report and "curves.png" not in report.split("<img")[0]


@pytest.mark.slow
def test_it_is_prompted_and_plugged_into_a_loop(run):
    loaded = l2o.load(run).configured(algorithm="regularized_evolution")
    found = l2o.minimize(lambda x: float(np.sum((x - 0.3) ** 2)), [(0.0, 1.0)] * 2, loaded, budget=10, seed=0)
    assert found.x.shape == (2,) and np.all((found.x >= 0) & (found.x <= 1)) and np.isfinite(found.fun)


def test_missing_studies_are_one_sentence(tmp_path):
    result = CliRunner().invoke(
        app, ["train", "optformer_tiny", "--set", 'task.paths=["nowhere"]', "--out", str(tmp_path / "r")]
    )
    assert isinstance(result.exception, l2o.UserError)
    assert "nowhere has no manifest.json: expected a directory that l2o data wrote" in str(result.exception)
