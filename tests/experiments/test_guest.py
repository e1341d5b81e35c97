"""What the library leaves as it was in the process of whoever calls it: settings, streams of randomness, figures."""

import logging
import os
import subprocess
import sys
import warnings

import jax
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import optuna
import pytest

import l2o
from experiments.run import Experiment
from l2o.lift.optuna import silent

LEVELS = (optuna.logging.DEBUG, optuna.logging.INFO, optuna.logging.CRITICAL)


def surroundings():
    """What belongs to the whole process, but for Python's `random`, which the type checks of the tests draw from."""
    return {
        "jax": dict(jax.config.values),
        "warnings": list(warnings.filters),
        "levels": {name: logging.getLogger(name).level for name in (None, "optuna", "matplotlib")},
        "handlers": list(logging.getLogger().handlers),
        "numpy": (np.geterr(), np.random.get_state()[1].tolist(), np.get_printoptions()),  # noqa: NPY002
        "environment": dict(os.environ),
        "path": list(sys.path),
        "directory": os.getcwd(),
        "matplotlib": (mpl.get_backend(), dict(mpl.rcParams), plt.get_fignums()),
    }


@pytest.fixture(autouse=True)
def interactive():
    """A person's backend, and a figure that is open."""
    before = mpl.get_backend()
    mpl.use("svg")
    figure = plt.figure()
    yield
    plt.close(figure)
    mpl.use(before)


def changed(before):
    after = surroundings()
    return [name for name in before if before[name] != after[name]]


def test_a_training_with_its_report(tiny, tmp_path):
    before = surroundings()
    Experiment.load(tiny).train(tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "curves.png").stat().st_size > 1000
    assert changed(before) == []


@pytest.mark.parametrize("level", LEVELS)
def test_optuna_says_nothing_of_our_studies_and_all_of_a_persons(level, caplog, tmp_path):
    own = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(level)
    optuna.logging.enable_propagation()
    try:
        before = surroundings()
        with l2o.Study({"x": (0.0, 1.0), "kind": ["a", "b"]}, "tpe", path=tmp_path / "study") as study:
            for _ in range(3):
                study.observe(study.suggest(), 1.0)
            study.fail(study.suggest())
        assert changed(before) == [] and not caplog.records
        with pytest.raises(RuntimeError), silent():
            raise RuntimeError
        optuna.create_study()
        assert bool(caplog.records) == (level < logging.WARNING)
    finally:
        optuna.logging.disable_propagation()
        optuna.logging.set_verbosity(own)


def test_importing_changes_nothing_but_what_its_libraries_do():
    code = """
import logging, os, random, sys, warnings
import absl.logging, evosax, haiku, jax, numpy, optax, pydantic, safetensors.numpy
def state():
    root = logging.getLogger()
    return (dict(jax.config.values), list(warnings.filters), root.level, list(root.handlers), numpy.geterr(),
            dict(os.environ), list(sys.path), random.getstate()[1], "matplotlib" in sys.modules)
before = state()
import l2o
l2o.load("lstm"), l2o.Study({"x": (0, 1)}, "random").suggest()
changed = [i for i, (a, b) in enumerate(zip(before, state())) if a != b]
sys.exit(f"changed: {changed}" if changed else 0)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
