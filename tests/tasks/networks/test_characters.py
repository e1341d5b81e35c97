"""The character models: which text they see, and that a prediction never looks ahead."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

import l2o
from tasks.corpora import CorpusConfig, ManualConfig, as_numbers
from tasks.networks.characters import CharactersConfig

TINY = {"width": 4, "depth": 1, "heads": 2, "context": 6, "batch_size": 3}


@pytest.fixture(scope="module", params=["transformer", "experts", pytest.param("gru", marks=pytest.mark.slow)])
def family(request):
    return CharactersConfig(model=request.param, **TINY).build()


def test_the_halves_of_the_text_share_no_character_and_the_end_of_each_is_held_out():
    train, test = (CharactersConfig(**TINY).build(split).text for split in ("train", "test"))
    seen, held = train.characters.size, train.heldout.size
    assert abs(seen - test.characters.size) <= 1 and 0.09 < held / (seen + held) < 0.11
    ends = [np.concatenate([t.characters[-20:], t.heldout[0]]) for t in (train, test)]
    whole = np.concatenate([train.characters, train.heldout.ravel()])
    assert [any((whole[i : i + 27] == end).all() for i in range(len(whole) - 26)) for end in ends] == [True, False]


def test_a_prediction_does_not_look_ahead(family):
    weights = family.sample(jax.random.key(0))
    tokens = family.text.heldout[:2, :-1]
    logits = jax.jit(family.network(0).apply)
    before, after = logits(weights, tokens), logits(weights, tokens.at[:, 3].add(1))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (np.abs(before[:, 3:] - after[:, 3:]).max(axis=(0, 2)) > 0).all(), "and remembers what came before"


def test_a_minibatch_holds_windows_of_the_text(family):
    """With weights of zero every character is equally likely, whatever the minibatch."""
    weights = jax.tree.map(jnp.zeros_like, family.sample(jax.random.key(1)))
    task = family.task(weights)
    value = jax.jit(task.evaluate)(jax.random.key(2), jax.tree.map(lambda a: a[None], weights)).value
    np.testing.assert_allclose(value, np.log(family.alphabet), rtol=1e-5)
    np.testing.assert_allclose(task.measure(jax.random.key(3), weights)["heldout_loss"], np.log(88), rtol=1e-5)


def test_heads_must_divide_the_width():
    with pytest.raises(ValidationError, match="heads must divide width, found 3 and 4"):
        CharactersConfig(**(TINY | {"heads": 3}))


def test_no_more_experts_are_chosen_than_there_are():
    with pytest.raises(ValidationError, match="chosen must be at most experts, found 3 and 2"):
        CharactersConfig(**TINY, model="experts", experts=2, chosen=3)


class ShortConfig(CorpusConfig):
    kind: Literal["short"] = "short"

    def text(self):
        return "a short text, of fifty characters with its full stop."


def test_a_corpus_that_is_shorter_than_a_window_is_refused():
    with pytest.raises(l2o.UserError, match="a corpus of 53 characters is too short for context 6"):
        CharactersConfig(**TINY, corpus=ShortConfig()).build()


def test_many_held_out_windows_are_thinned():
    family = CharactersConfig(**(TINY | {"context": 2})).build()
    characters = ManualConfig().text()[: 29401 // 2]
    assert 128 < len(family.text.heldout) <= 256
    seen = len(family.text.characters)
    assert family.text.heldout[-1][0] == as_numbers(ManualConfig().text())[0][seen + (len(family.text.heldout) - 1) * 6]
    assert seen + len(family.text.heldout) * 6 > len(characters) - 6, "they reach to the end"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "value", "norm"),
    [("transformer", 5.022596836090088, 2.5234739780426025), ("gru", 4.54673957, 0.46003625)],
)
def test_the_numbers_of_the_first_release(model, value, norm):
    """Value and squared norm of the gradient, which studies that were published rest on."""
    family = CharactersConfig(model=model).build("test")

    @jax.jit
    def run(family):
        task = family.task(family.sample(jax.random.key(7)))
        evaluation = task.evaluate(jax.random.key(8), jax.tree.map(lambda a: a[None], task.problem.start))
        return evaluation.value[0], sum(jnp.sum(g**2) for g in jax.tree.leaves(evaluation.gradient))

    np.testing.assert_allclose(run(family), (value, norm), rtol=1e-4)
