"""What all families of networks share: minibatches, held-out data, finite gradients, names of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from tasks.family import FamilyConfig
from tasks.networks import base
from tasks.networks.regression import RegressionConfig

TINY_TEXT = {"width": 4, "depth": 1, "heads": 2, "context": 6, "batch_size": 3}
CONFIGS = {
    "autoencoder": {"width": 5, "bottleneck": 2, "batch_size": 4, "loss": "cross_entropy"},
    "characters": TINY_TEXT,
    "coordinate_network": {"dataset": {"kind": "digits"}, "width": 4, "depth": 1, "frequencies": 3, "batch_size": 4},
    "factorisation": {"vocabulary": 20, "width": 4, "batch_size": 4},
    "mlp_classifier": {"width": 4, "batch_size": 4},
    "regression": {"width": 4, "depth": 1, "batch_size": 4},
    "residual_classifier": {"channels": (4,), "pool_first": True, "batch_size": 2},
    "vit_classifier": {"width": 4, "depth": 1, "heads": 2, "batch_size": 2},
}


SLOW = ("residual_classifier", "vit_classifier", "conv_classifier", "characters")  # files of their own test them, too


@pytest.fixture(scope="module", params=[pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in CONFIGS])
def family(request):
    return l2o.kinds(FamilyConfig)[request.param](**CONFIGS[request.param]).build()


@pytest.fixture(scope="module")
def found(family):
    """What the program of the family says of one point: the evaluation, and what is measured."""

    @jax.jit
    def run(family):
        params = family.sample(jax.random.key(0))
        task = family.task(params)
        start = task.problem.start
        evaluation = task.evaluate(jax.random.key(1), jax.tree.map(lambda a: a[None], start))
        return evaluation, task.measure(jax.random.key(2), start)

    return run


def test_held_out_data_are_measured_and_never_learned_from(family, found):
    spoilt_leaves = []

    def spoilt(path, a):
        if "heldout" not in jax.tree_util.keystr(path):
            return a
        spoilt_leaves.append(path)
        return a[::-1] if "labels" in jax.tree_util.keystr(path) else jnp.flip(a, -1) // 2

    other = jax.tree_util.tree_map_with_path(spoilt, family)
    assert spoilt_leaves
    (whole, measured), (same, changed) = found(family), found(other)
    jax.tree.map(np.testing.assert_array_equal, whole, same)
    assert measured["heldout_loss"] != changed["heldout_loss"]


def test_gradients_are_finite_and_all_numbers_single(family, found):
    evaluation, measured = found(family)
    leaves = jax.tree.leaves((evaluation, measured))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(evaluation.gradient))


def test_the_parameters_have_names_of_haiku(family):
    start = jax.eval_shape(lambda key: family.task(family.sample(key)).problem.start, jax.random.key(0))
    assert all(isinstance(module, str) and isinstance(group, dict) for module, group in start.items())
    if type(family).__name__ in ("Characters", "Factorisation"):
        assert "embeddings" in start["embed"]
    if type(family).__name__ != "Classifier" or "head" in start:
        assert start["head"]["w"].ndim == 2


def test_many_held_out_examples_are_measured_in_chunks(monkeypatch):
    family = RegressionConfig(width=3).build()
    weights = family.sample(jax.random.key(3))
    whole = family.task(weights).measure(jax.random.key(4), weights)
    monkeypatch.setattr(base, "CHUNK", 7)
    assert len(family.data.heldout_targets) % 7
    in_chunks = family.task(weights).measure(jax.random.key(4), weights)
    np.testing.assert_allclose(in_chunks["heldout_loss"], whole["heldout_loss"], rtol=1e-6)
