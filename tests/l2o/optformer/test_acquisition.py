"""Acquisition functions on distributions made by hand, and the choice among candidates on a network made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.optformer.acquisition import (
    ACQUISITIONS,
    expected_improvement,
    probability_of_improvement,
    score,
    thompson_sampling,
    upper_confidence_bound,
)
from l2o.optformer.choice import ChoiceRule, choose, improvements, roll
from l2o.optformer.decoding import Context, EncodedStudy, Sampling, predict, value_probabilities
from l2o.optformer.model import LOWEST, METRIC, Keys, Network
from l2o.optformer.prompt import Range
from l2o.space.domain import Space

BINS = 10
UNIT = Range(*(jnp.asarray(a) for a in (0.0, 0.0, 1.0)))  # without two values, units are those of the unit interval


def mass(**bins):
    """A distribution over bins ("b3") and failure ("fail")."""
    p = np.zeros(BINS + 1, np.float32)
    for name, share in bins.items():
        p[BINS if name == "fail" else int(name[1:])] = share
    return jnp.asarray(p)


def test_expected_improvement_is_the_mean_of_what_is_below_the_best():
    p = mass(b0=0.25, b3=0.25, b9=0.4, fail=0.1)
    gain = improvements(UNIT, jnp.asarray(0.4), BINS)
    np.testing.assert_allclose(expected_improvement(p, gain), 0.25 * 0.35 + 0.25 * 0.05, rtol=1e-6)
    assert expected_improvement(mass(b9=0.5, fail=0.5), gain) == 0


def test_improvements_are_in_units_of_the_metric():
    """On a bent scale they are differences of values, and without two values those of the unit interval."""
    scale = Range.of(jnp.array([1.0, 2.0, 3.0, 9.0]), jnp.ones(4, bool))
    gain, edges = improvements(scale, jnp.asarray(0.2), 100), (jnp.arange(100) + 0.5) / 100
    np.testing.assert_allclose(gain, np.maximum(1.0 - np.asarray(scale.value(edges)), 0), atol=1e-5)
    assert gain[0] > gain[10] > 0 and not np.any(gain[20:])
    none = Range.of(jnp.array([1.0]), jnp.ones(1, bool))
    np.testing.assert_allclose(
        improvements(none, jnp.asarray(0.5), 10), np.maximum(0.45 - np.arange(10) / 10, 0), atol=1e-6
    )


def test_probability_of_improvement_is_the_mass_below_the_best():
    p = mass(b0=0.25, b4=0.5, b9=0.2, fail=0.05)
    np.testing.assert_allclose(probability_of_improvement(p, jnp.asarray(0.4)), 0.25, atol=1e-6)
    np.testing.assert_allclose(probability_of_improvement(p, jnp.asarray(0.45)), 0.5, atol=1e-6)


def test_the_bound_is_the_quantile_of_a_piecewise_linear_distribution():
    p = np.random.default_rng(0).dirichlet(np.ones(BINS + 1)).astype(np.float32)
    found = upper_confidence_bound(jnp.asarray(p))
    wanted = np.interp(0.1, np.append(0, np.cumsum(p)), np.arange(BINS + 2) / BINS)
    np.testing.assert_allclose(-found, wanted, rtol=1e-4)


def test_thompson_sampling_draws_from_the_prediction():
    p = mass(b1=0.5, b2=0.3, fail=0.2)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.floor(-np.asarray(jax.vmap(lambda key: thompson_sampling(key, p))(keys)) * BINS)
    for place, share in ((1, 0.5), (2, 0.3), (BINS, 0.2)):
        assert abs(np.mean(drawn == place) - share) < 0.03


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_lower_values_score_higher_and_failure_lowest(name):
    keys = jax.random.split(jax.random.key(0), 3)
    made = (mass(b0=1.0), mass(b1=1.0), mass(fail=1.0))
    scores = [
        score(name, key, p, jnp.asarray(0.5), improvements(UNIT, jnp.asarray(0.5), BINS))
        for key, p in zip(keys, made, strict=True)
    ]
    assert scores[0] >= scores[1] > scores[2]


VALUES = jnp.array([5, 3, 7, 1, 2, 6, 4, 8])  # bin of the value of each of eight tokens


def by_hand(policy):
    """A network of one parameter: its tokens are drawn with the logits `policy`, and values are those of `VALUES`."""

    def decode(theta, read, memory, past):
        n = read.token.size
        value = 50.0 * jax.nn.one_hot(VALUES[jnp.clip(read.token, 0, 7)], BINS + 2)
        wide = jnp.concatenate([policy, jnp.full(BINS + 2 - policy.size, LOWEST)])[None]
        logits = jnp.where((read.next_slot == METRIC)[:, None], value, wide)
        empty = jnp.zeros((1, n, 1, 1))
        return logits, Keys(empty, empty, read.token, empty, read.trial, read.slot, read.point, jnp.ones(n, bool))

    return Network(lambda key: {}, lambda *a: None, decode)  # pyright: ignore[reportArgumentType]


STUDY = EncodedStudy(None, jnp.array([8]), jnp.ones(1, bool), jnp.asarray(0), jnp.asarray(15))  # pyright: ignore
EMPTY = jnp.zeros((1, 9, 1, 1))
SPACE = Space.mixed(jnp.zeros(1), jnp.full(1, 7.0), jnp.full(1, 8), jnp.zeros(1, jnp.int32), jnp.ones(1, bool))


def context(policy):
    integers = jnp.zeros(9, jnp.int32)
    keys = Keys(EMPTY, EMPTY, integers, EMPTY, integers, integers, jnp.zeros((9, 1)), jnp.arange(9) < 1)
    return Context(keys, jnp.asarray(1), jnp.concatenate([policy, jnp.full(BINS + 2 - policy.size, LOWEST)]))


def chosen(how, seen=(), policy=None, best=0.9):
    policy = jnp.zeros(8) if policy is None else policy
    rows = jnp.asarray([[*seen, *[0] * 8][:8]]).T
    return choose(
        by_hand(policy), {}, STUDY, context(policy), jax.random.key(0), how, SPACE, UNIT, rows,
        jnp.arange(8) < max(len(seen), 1), jnp.where(jnp.arange(8) == 0, best, jnp.inf),
    )  # fmt: skip


@pytest.mark.parametrize(
    "source", ["both", *(pytest.param(s, marks=pytest.mark.slow) for s in ("prior", "random", "near"))]
)
@pytest.mark.parametrize("name", ACQUISITIONS)
def test_the_best_candidate_is_chosen_and_not_twice(name, source):
    how = ChoiceRule(name, 64, source, Sampling(), 1.0, BINS)
    assert chosen(how, best=0.2) == 3
    if name == "expected_improvement":
        assert chosen(how, seen=(3, 4)) == 1
        assert chosen(how, seen=tuple(range(8))) in range(8)


def test_without_acquisition_the_policy_is_followed():
    policy = jnp.where(jnp.arange(8) == 6, 50.0, 0.0)
    assert chosen(ChoiceRule("none", 64, "prior", Sampling(), 1.0, BINS), policy=policy) == 6


@pytest.mark.parametrize("token, least", [(3, 1), (0, 2)])
def test_a_roll_finds_the_least_value_of_what_the_policy_goes_on_with(token, least):
    """The policy always goes on with token 4, whose value is in bin 2."""
    policy = jnp.where(jnp.arange(8) == 4, 50.0, 0.0)
    how = ChoiceRule("expected_improvement", 8, "prior", Sampling(), 1.0, BINS, lookahead=2)
    found = roll(by_hand(policy), {}, STUDY, context(policy), jax.random.key(0), how, jnp.array([token]))
    np.testing.assert_allclose(found, (least + 0.5) / BINS)


@pytest.mark.slow
def test_with_lookahead_the_best_candidate_is_still_chosen():
    """Where nothing can be learned on the way, planning changes nothing."""
    policy = jnp.where(jnp.arange(8) == 7, 2.0, 0.0)
    assert (
        chosen(ChoiceRule("expected_improvement", 64, "prior", Sampling(), 1.0, BINS, lookahead=1), policy=policy) == 3
    )


def test_predicted_values_are_a_distribution():
    policy = jnp.zeros(8)
    logits = predict(by_hand(policy), {}, STUDY, context(policy), jnp.array([3]))
    p = value_probabilities(logits, BINS, 25.0)
    np.testing.assert_allclose(jnp.sum(p), 1.0, rtol=1e-6)
    assert p.shape == (BINS + 1,) and jnp.argmax(p) == 1
