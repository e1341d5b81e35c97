"""A person's space as an optimizer sees it, and the way back: no digits are lost on the way."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import l2o
from l2o import SearchSpace
from l2o.host.view import BoxView, NamedView

SPACE = SearchSpace.from_dict(
    {
        "time": (1.7e9, 1.7e9 + 3600),
        "lr": {"kind": "float", "low": 1e-5, "high": 0.1, "scale": "log"},
        "layers": {"kind": "integer", "low": 1, "high": 8},
        "width": {"kind": "integer", "low": 16, "high": 4096, "scale": "log"},
        "year": {"kind": "integer", "low": 2**31 - 50, "high": 2**31 + 50},
        "far": {"kind": "integer", "low": 2**31 - 50, "high": 2**31 + 50, "scale": "log"},
        "seed": {"kind": "integer", "low": 0, "high": 2**31 - 1},
        "most": {"kind": "integer", "low": -(2**62), "high": 2**62},
        "batch": {"kind": "discrete", "values": [16, 32, 64]},
        "tiny": (1e300, 2e300),
        "kind": ["a", True, 1, None],
    }
)
LARGE = st.floats(-1e308, 1e308)


def test_what_an_optimizer_sees_of_each_kind():
    space = NamedView(SPACE).space
    rows = dict(zip(SPACE.names, zip(*(np.asarray(a).tolist() for a in space), strict=True), strict=True))
    real = (0, 1, 0, 0, True)
    assert {name for name, row in rows.items() if row == real} == {"time", "lr", "far", "seed", "most", "tiny"}
    assert rows["layers"] == (0, 7, 8, 0, True) and rows["year"] == (0, 100, 101, 0, True)
    assert rows["width"] == (16, 4096, 4081, 1, True)
    assert rows["batch"] == (0, 2, 3, 0, True) and rows["kind"] == (0, 3, 4, 0, False)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_a_point_of_an_assignment_is_the_point(seed, number):
    """The way there and back, from both ends."""
    view = NamedView(SPACE, seed)
    rng = np.random.default_rng(seed)
    assignment = SPACE.from_unit(rng.choice([0.0, 1.0, rng.random()], len(SPACE)))
    x = view.point(assignment)
    assert x.dtype == np.float32 and bool(view.space.contains(x))
    again = view.assignment(x, number)
    SPACE.to_unit(again)  # refuses what is not in the space
    np.testing.assert_allclose(view.point(again), x, rtol=2e-7, atol=1e-7)
    for name in ("layers", "width", "year", "batch", "kind"):
        assert again[name] == assignment[name] and type(again[name]) is type(assignment[name])
    assert again == view.assignment(x, number)


def test_an_optimizer_meets_every_digit():
    """Of whole numbers odd ones too, of real ones as fine a grid as a thousandth of a second."""
    space = {name: fields for name, fields in SPACE.to_dict().items() if name in ("time", "year", "seed")}
    study = l2o.Study(space, "random", seed=0)
    found = [trial.parameters for trial in study.suggest(count=64)]
    for name in ("year", "seed"):
        assert 20 < sum(p[name] % 2 for p in found) < 44, name
    assert len({p["time"] for p in found}) == 64
    assert len({round(p["time"] * 1000) % 128000 for p in found}) > 60


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e308, 1e308), st.floats(-1e308, 1e308)).filter(lambda b: b[0] != b[1]), min_size=1)
)
def test_a_box_is_the_unit_cube(bounds):
    low, high = np.sort(np.array(bounds), 1).T
    view = BoxView(low, high)
    u = np.random.default_rng(0).random(low.size).astype(np.float32)
    x = view.assignment(u, 0)
    assert ((low <= x) & (x <= high)).all()
    wide = high / 2 - low / 2 > 5e-7 * np.maximum(np.abs(low), np.abs(high))  # doubles tell points of it apart
    np.testing.assert_allclose(view.point(x)[wide], u[wide], atol=1e-6)
    np.testing.assert_array_equal(view.assignment(np.zeros_like(u), 0), low)
    np.testing.assert_array_equal(view.assignment(np.ones_like(u), 0), high)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gp_ei", "evolution_strategy", "tpe"])
def test_a_narrow_range_far_from_zero_is_searched(name):
    """With the same points as the range that begins at zero."""
    if name == "tpe":
        pytest.importorskip("optuna")
    settings = {"candidates": 8, "fit_steps": 2, "ascent_steps": 2, "initial": 3, "max_trials": 12}
    optimizer = l2o.kinds(l2o.BaselineConfig)[name](**settings if name == "gp_ei" else {})
    found = []
    for start in (0.0, 2.0**31):
        study = l2o.Study({"t": (start, start + 3600.0), "k": ["a", "b"]}, optimizer, seed=0)
        for _ in range(12):
            trial = study.suggest()
            study.observe(trial, abs(trial.parameters["t"] - start - 1234.5))
        found.append([trial.parameters["t"] - start for trial in study.history])
    np.testing.assert_allclose(found[0], found[1], atol=1e-2)


def test_the_kinds_reach_the_optimizer():
    space = NamedView(SPACE).space
    u = jax.random.uniform(jax.random.key(0), (len(SPACE),))
    x = space.from_unit(u)
    assert bool(space.contains(x)) and bool(space.contains(space.from_unit(space.to_unit(x))))
