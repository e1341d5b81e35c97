"""Factorised bigrams: sparse gradients of rows, and pairs that stand in the text."""

import re
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from tasks.corpora import CorpusConfig, ManualConfig
from tasks.networks.factorisation import FactorisationConfig

TINY = {"vocabulary": 30, "width": 3, "batch_size": 4}


def test_rows_of_tokens_that_are_not_in_the_minibatch_have_no_gradient():
    family = FactorisationConfig(**TINY).build()
    weights = family.sample(jax.random.key(0))
    task = family.task(weights)
    gradient = task.evaluate(jax.random.key(1), jax.tree.map(lambda a: a[None], weights)).gradient
    seen, _ = family.minibatch(jax.random.key(1), 0)
    touched = np.flatnonzero(np.any(np.asarray(gradient["embed"]["embeddings"][0]) != 0, axis=-1))
    assert touched.tolist() == sorted(set(np.asarray(seen).tolist())) and len(touched) < 31
    assert np.all(np.asarray(gradient["head"]["w"][0]) != 0)


@pytest.mark.parametrize("unit", ["words", "pairs"])
def test_tokens_are_those_of_the_text(unit):
    family = FactorisationConfig(**TINY, unit=unit).build()
    text = ManualConfig().text()
    pairs = [text[i : i + 2] for i in range(0, len(text) - 1, 2)]
    tokens = re.findall(r"\w+|[^\w\s]", text) if unit == "words" else pairs
    numbers = np.asarray(family.tokens)
    names: dict[int, set[str]] = {}
    for number, token in zip(numbers.tolist(), tokens, strict=False):
        names.setdefault(number, set()).add(token)
    assert all(len(found) == 1 for number, found in names.items() if number), "a number is one token; 0 is the others"
    assert len(names[0]) > 30 and family.vocabulary == 31


def test_the_halves_and_the_held_out_pairs_follow_each_other():
    train, test = (FactorisationConfig(**TINY, unit="pairs").build(split) for split in ("train", "test"))
    chain = np.asarray(train.heldout_pairs)
    np.testing.assert_array_equal(chain[:-1, 1], chain[1:, 0])
    sizes = [len(part) for family in (train, test) for part in (family.tokens, family.heldout_pairs)]
    assert abs(sum(sizes) + 2 - len(ManualConfig().text()) // 2) <= 1 and sizes[1] > 600


def test_equal_logits_cost_the_logarithm_of_the_vocabulary():
    family = FactorisationConfig(**TINY).build()
    weights = jax.tree.map(jnp.zeros_like, family.sample(jax.random.key(2)))
    measured = family.task(weights).measure(jax.random.key(3), weights)
    np.testing.assert_allclose(measured["heldout_loss"], np.log(31), rtol=1e-5)


def test_pairs_are_told_from_random_ones():
    family = FactorisationConfig(**TINY, negatives=2).build()
    weights = family.sample(jax.random.key(0))
    inputs, targets = family.minibatch(jax.random.key(1), 0)
    text = np.asarray(family.tokens)
    following = set(zip(text[:-1].tolist(), text[1:].tolist(), strict=True))
    assert inputs.shape == (12, 2) and targets.tolist() == [1.0] * 4 + [0.0] * 8
    assert all(tuple(pair) in following for pair in inputs[:4].tolist())
    assert inputs[4:8, 0].tolist() == inputs[8:, 0].tolist() == inputs[:4, 0].tolist()
    assert sorted(leaf.shape for leaf in jax.tree.leaves(weights)) == [(31,), (31, 3), (31, 3)]
    gradient = family.task(weights).evaluate(jax.random.key(1), jax.tree.map(lambda a: a[None], weights)).gradient
    for name, column in (("embed", 0), ("embed_following", 1)):
        touched = np.flatnonzero(np.any(np.asarray(gradient[name]["embeddings"][0]) != 0, axis=-1))
        assert touched.tolist() == sorted(set(inputs[:, column].tolist()))
    flat = jax.tree.map(jnp.zeros_like, weights)
    measured = family.task(flat).measure(jax.random.key(3), flat)
    np.testing.assert_allclose(measured["heldout_loss"], np.log(2), rtol=1e-5)
    np.testing.assert_allclose(measured["heldout_accuracy"], 2 / 3, rtol=1e-5)


class ShortConfig(CorpusConfig):
    kind: Literal["short"] = "short"

    def text(self):
        return "a short text"


def test_a_short_text_is_refused():
    with pytest.raises(l2o.UserError, match="a corpus of 3 words is too short, expected at least 100"):
        FactorisationConfig(corpus=ShortConfig()).build()
