"""Shipping: an artifact goes into the zoo with the scores of the study that measured it, and with no other's."""

import json

import numpy as np
import pytest

import l2o
from experiments import Curves, Experiment
from experiments import ship as module
from experiments.study.engine import run
from l2o import loaded
from l2o.errors import UserError


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    monkeypatch.setattr(loaded, "ZOO", tmp_path / "zoo")
    monkeypatch.setattr(module, "ZOO", tmp_path / "zoo")


@pytest.fixture(scope="module")
def measured(trained, tmp_path_factory):
    study = Curves.parse(
        {
            "task": {"kind": "quadratic", "dimension": 2}, "horizon": 4, "runs": 4, "steps": [4],
            "optimizers": [str(trained)], "baselines": [{"kind": "sgd", "learning_rate": 0.1}],
        },
        "here",
    )  # fmt: skip
    out = tmp_path_factory.mktemp("measured") / "study"
    run(study, out, lambda line: None)
    return out


def test_what_is_shipped_is_what_was_measured(zoo, trained, measured):
    module.ship(trained, measured, "mine", "a line")
    shipped, original = l2o.load("mine"), l2o.load(trained)
    assert shipped.sha256 == original.sha256 and l2o.names() == ["mine"]
    assert shipped.provenance["description"] == "a line"
    assert {k: shipped.provenance[k] for k in original.provenance} == original.provenance
    rows = json.loads((measured / "results.json").read_text())["rows"]
    mean = np.mean([row["step 4"] for row in rows if row["optimizer"] == trained.name])
    table = {row["optimizer"]: row for row in shipped.provenance["held_out"]["tables"]["Loss"]}
    assert table[trained.name]["step 4"].startswith(f"{mean:.4g} ")


def test_scores_of_another_theta_are_refused(zoo, trained, measured, tmp_path):
    other = Experiment.load(trained / "config.toml", ["seed=4"])
    other.train(tmp_path / trained.name, quiet=True)
    with pytest.raises(UserError, match="does not measure this theta"):
        module.ship(tmp_path / trained.name, measured, "mine", "a line")
    assert l2o.names() == []


def test_what_it_started_from_travels_along(zoo, trained, measured, tmp_path):
    later = Experiment.load(trained / "config.toml", [f"meta.init={trained}", "meta.optimizer.learning_rate=1e-30"])
    later.train(tmp_path / "later", quiet=True)
    study = Curves.load(measured / "config.toml", [f'optimizers=["{tmp_path / "later"}"]'])
    run(study, tmp_path / "study", lambda line: None)
    module.ship(tmp_path / "later", tmp_path / "study", "mine", "a line")
    assert l2o.load("mine").provenance["started_from"] == l2o.load(trained).provenance


def test_other_settings_of_the_same_theta(trained, measured, tmp_path, cli):
    out = tmp_path / "other"
    assert cli("configure", trained, "--set", "output_scale=0.05", "--out", out).out == f"configured: {out}\n"
    original, other = l2o.load(trained), l2o.load(out)
    assert other.sha256 == original.sha256
    assert other.config.model_dump() == original.config.model_dump() | {"output_scale": 0.05}
    assert other.check != original.check
    assert other.provenance == original.provenance | {"configured": {"output_scale": 0.05}}
    assert cli("show", out).out.partition("changed after it")[2].splitlines()[0].strip() == "output_scale = 0.05"
    again = tmp_path / "again"
    with pytest.raises(UserError, match="does not measure this theta and these settings"):
        module.ship(out, measured, "mine", "a line")
    cli("configure", out, "--set", "hidden=3", "--out", again)
    assert not again.exists()
    for arguments, words in (
        ([], "nothing to configure"),
        (["--set", "output_scala=1"], "output_scala"),
        (["--set", "output_scale=0.05", "--out", out], "is not empty"),
    ):
        found = cli("configure", trained, "--out", tmp_path / "new", *arguments)
        assert found.code == 2 and words in found.sentence
