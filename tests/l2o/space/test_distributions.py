"""Optuna's distributions as parameters, and back."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2o import Parameter, SearchSpace, UserError
from l2o.space.distributions import from_distribution, to_distribution

optuna = pytest.importorskip("optuna")
distributions = optuna.distributions


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(["float", "integer", "discrete"]),
    st.sampled_from(["linear", "log", "reverse_log"]),
    st.lists(st.one_of(st.integers(1, 2**60), st.floats(1e-9, 1e9)), min_size=2, max_size=6, unique=True),
)
def test_there_and_back(kind, scale, numbers):
    whole = sorted(int(number) + 1 for number in numbers)
    if kind == "discrete":
        p = Parameter(name="p", kind=kind, values=numbers)
        assert from_distribution("p", to_distribution(p)).values == p.values
        return
    low, high = (float(min(numbers)), float(max(numbers))) if kind == "float" else (whole[0], whole[-1] + 1)
    p = Parameter(name="p", kind=kind, low=low, high=high, scale=scale)
    if scale == "reverse_log":
        with pytest.raises(UserError, match="'reverse_log', which Optuna does not have"):
            to_distribution(p)
    else:
        assert from_distribution("p", to_distribution(p)) == p


@settings(deadline=None, max_examples=80)
@given(
    st.floats(-1e3, 1e3).map(lambda a: round(a, 3)), st.sampled_from([1e-3, 0.1, 0.25, 2.0, 0.3]), st.integers(1, 50)
)
def test_steps_are_exact(low, step, count):
    p = from_distribution("p", distributions.FloatDistribution(low, round(low + count * step, 6), step=step))
    there = to_distribution(p)
    assert (there.low, there.high, there.step) == (low, round(low + count * step, 6), step)
    assert all(there._contains(value) for value in p.values) and len(p.values) == count + 1
    whole = distributions.IntDistribution(int(low), int(low) + 3 * count, step=3)
    assert to_distribution(from_distribution("p", whole)) == whole


def test_from_optuna():
    space = SearchSpace.from_optuna(
        {
            "lr": distributions.FloatDistribution(1e-5, 1, log=True),
            "momentum": distributions.FloatDistribution(0, 1),
            "dropout": distributions.FloatDistribution(0.1, 0.5, step=0.1),
            "layers": distributions.IntDistribution(1, 8),
            "width": distributions.IntDistribution(16, 64, step=16),
            "batch": distributions.IntDistribution(1, 1024, log=True),
            "act": distributions.CategoricalDistribution(["relu", None, True, 1, 0.5]),
            "one": distributions.FloatDistribution(2.0, 2.0),
            "single": distributions.IntDistribution(3, 3, log=True),
        }
    )
    assert space.to_dict() == {
        "lr": {"kind": "float", "low": 1e-5, "high": 1.0, "scale": "log"},
        "momentum": {"kind": "float", "low": 0.0, "high": 1.0},
        "dropout": {"kind": "discrete", "values": [0.1, 0.2, 0.3, 0.4, 0.5]},
        "layers": {"kind": "integer", "low": 1, "high": 8},
        "width": {"kind": "discrete", "values": [16, 32, 48, 64]},
        "batch": {"kind": "integer", "low": 1, "high": 1024, "scale": "log"},
        "act": {"kind": "categorical", "values": ["relu", None, True, 1, 0.5]},
        "one": {"kind": "float", "low": 2.0, "high": 2.0},
        "single": {"kind": "integer", "low": 3, "high": 3, "scale": "log"},
    }
    there = space.to_optuna()
    assert there["dropout"] == distributions.FloatDistribution(0.1, 0.5, step=0.1)
    assert there["width"] == distributions.IntDistribution(16, 64, step=16)
    assert there["one"].single() and there["single"] == distributions.IntDistribution(3, 3, log=True)
    wide = Parameter(name="a", kind="discrete", values=[0.5, 1, 10**6])
    assert to_distribution(wide) == distributions.CategoricalDistribution([0.5, 1, 10**6])
    uneven = SearchSpace.from_dict({"a": {"kind": "discrete", "values": [1, 2, 4]}}).to_optuna()
    assert uneven == {"a": distributions.CategoricalDistribution([1, 2, 4])}


def test_what_optuna_suggests_is_a_value():
    space = SearchSpace.from_dict(
        {
            "a": {"kind": "discrete", "values": [round(0.1 * k, 1) for k in range(1, 100)]},
            "b": {"kind": "integer", "low": 1, "high": 100, "scale": "log"},
            "c": (1e-3, 2e-3),
            "d": [None, "x"],
        }
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        params = study.ask(space.to_optuna()).params
        assert space.from_point(space.to_point(params)) == pytest.approx(params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: distributions.IntDistribution(0, 10**9, step=10), "100000001 steps"),
        (lambda: distributions.CategoricalDistribution([math.nan]), "finite"),
        (lambda: distributions.IntDistribution(0, 2**70), "below 2"),
        (lambda: (0, 1), "expected a FloatDistribution"),
    ],
)
def test_what_optuna_has_and_we_do_not(make, message):
    with pytest.raises(UserError, match=message):
        SearchSpace.from_optuna({"a": make()})
