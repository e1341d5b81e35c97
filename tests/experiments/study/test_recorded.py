"""Small studies of every kind give the results that they gave when they were recorded, before the kinds had a contract.

The files hold the contents of results.json, the study included. To record anew what is meant to be different, run the
study of a file and keep its results.json.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import l2o
from experiments.study import StudyConfig, engine
from experiments.study.imitation import run as imitation
from l2o.blackbox.rnn import RNNConfig
from l2o.evolution.les import LESConfig
from l2o.gradient.lstm import LSTMConfig
from l2o.optformer.optformer import OptFormerConfig
from l2o.registry import kinds
from l2o.surrogate.pfn import PFNConfig

FOLDER = Path(__file__).parent / "recorded"
TIMES = ("seconds", "alone", "batch", "microseconds", "profile")  # depend on the machine
LSTM, RNN = LSTMConfig(layers=1, hidden=2), RNNConfig(hidden=4, pooled=2, candidates=0, max_dimension=2)
ZOO = {  # configuration, seed and factor of theta
    "lstm": (LSTM, 0, 1),
    "lstm2": (LSTM, 1, 1),
    "rnn": (RNN, 0, 1),
    "rnn2": (RNN, 1, 1),
    "les": (LESConfig(keys=2, hidden=2), 0, 1),
    "pfn": (
        PFNConfig(width=8, heads=2, feedforward=8, layers=1, parameter_width=8, processes=2, buckets=8), 0, 1,
    ),
    "optformer": (
        OptFormerConfig(bins=32, width=32, heads=2, feedforward=64, decoder_layers=1, max_trials=8), 0, 3,
    ),
    "small": (
        OptFormerConfig(
            bins=16, width=16, heads=2, feedforward=16, encoder_layers=0, decoder_layers=1, max_trials=4
        ), 0, 3,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """The folder in which the studies find their optimizers, which have learned nothing."""
    folder = tmp_path_factory.mktemp("recorded")
    for name, (config, seed, factor) in ZOO.items():
        theta = jax.tree.map(lambda a, factor=factor: factor * a, config.build().init(jax.random.key(seed)))
        l2o.save(folder / "zoo" / name, config, theta)
    return folder


def different(recorded, found, where="results"):
    """Places where the results are not those that were recorded; new entries are no difference."""
    if isinstance(recorded, dict):
        for name in recorded:
            if name in TIMES and where != "results.study":
                continue
            if name not in found:
                yield f"{where}.{name} is gone"
            else:
                yield from different(recorded[name], found[name], f"{where}.{name}")
    elif isinstance(recorded, list):
        if len(recorded) != len(found):
            yield f"{where} has {len(found)} entries, recorded are {len(recorded)}"
        for i, (one, other) in enumerate(zip(recorded, found, strict=False)):
            yield from different(one, other, f"{where}[{i}]")
    elif isinstance(recorded, float) and isinstance(found, float):
        if not np.isclose(recorded, found, rtol=1e-4, atol=1e-6, equal_nan=True):
            yield f"{where} is {found}, recorded is {recorded}"
    elif recorded != found and not where.startswith("results.sha256"):
        yield f"{where} is {found!r}, recorded is {recorded!r}"


def test_differences_are_found():
    recorded = {"a": [1.0, {"b": "x", "seconds": 3.0}], "sha256": {"c": "1"}, "gone": 1}
    found = {"a": [1.01, {"b": "y", "seconds": 4.0}], "sha256": {"c": "2"}, "new": 1}
    assert list(different(recorded, found)) == [
        "results.a[0] is 1.01, recorded is 1.0", "results.a[1].b is 'y', recorded is 'x'", "results.gone is gone",
    ]  # fmt: skip
    assert not list(different([0.5, np.nan], [0.5 + 1e-6, np.nan]))


def test_every_kind_is_recorded():
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == list(kinds(StudyConfig))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [path.stem for path in sorted(FOLDER.glob("*.json"))])
def test_results_are_those_that_were_recorded(kind, zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(zoo)
    monkeypatch.setattr(imitation, "TRAIN", ("sphere", "ellipsoid"))  # as when it was recorded; others take long
    recorded = json.loads((FOLDER / f"{kind}.json").read_text())
    study = StudyConfig.parse(recorded["study"], f"{kind}.json")
    found = engine.run(study, tmp_path / "out", lambda line: None)
    assert list(different(recorded, json.loads(json.dumps(found)))) == []
    assert engine.text(recorded | {"curves": found["curves"]} if kind == "grid" else recorded)
