"""Spaces: maps to the unit cube and back, projection, membership, sampling, refused bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2o import Space

POINTS = 5
EPSILON = np.finfo(np.float32).eps


def box(low=(-5.0, 0.0), high=(10.0, 15.0)):
    return Space.box(jnp.array(low), jnp.array(high))


@st.composite
def boxes_and_units(draw):
    """Bounds (low, high) and a point of the unit cube, all [POINTS]."""

    def vector(low, high):
        number = st.floats(low, high, width=32, allow_subnormal=False)
        return np.array(draw(st.lists(number, min_size=POINTS, max_size=POINTS)), np.float32)

    low = vector(-1024, 1024)
    return low, low + vector(1, 1024), vector(0, 1)


@settings(deadline=None, max_examples=50)
@given(boxes_and_units())
def test_round_trips_and_bounds(case):
    low, high, u = case
    space = Space.box(jnp.array(low), jnp.array(high))
    x = space.from_unit(jnp.array(u))
    assert space.contains(x)
    back = space.to_unit(x)
    assert np.all(back >= 0) and np.all(back <= 1)
    # x carries a rounding error of its own magnitude, which the map to the unit cube divides by the width
    size = np.maximum(np.abs(low), np.abs(high))
    assert np.all(np.abs(back - u) <= 4 * EPSILON * (1 + size / (high - low)))
    assert np.all(np.abs(space.from_unit(back) - x) <= 4 * EPSILON * (size + high - low))


@settings(deadline=None, max_examples=50)
@given(boxes_and_units(), st.integers(-4, 4))
def test_project_is_the_nearest_point(case, stretch):
    low, high, u = case
    space = Space.box(jnp.array(low), jnp.array(high))
    x = low + stretch * u * (high - low)
    np.testing.assert_array_equal(space.project(jnp.array(x)), np.clip(x, low, high))
    assert space.contains(space.project(jnp.array(x)))
    assert bool(space.contains(jnp.array(x))) == bool(np.all((x >= low) & (x <= high)))


def test_corners_map_exactly():
    space = box()
    np.testing.assert_array_equal(space.to_unit(space.low), np.zeros(2))
    np.testing.assert_array_equal(space.to_unit(space.high), np.ones(2))
    np.testing.assert_array_equal(space.from_unit(jnp.zeros(2)), space.low)
    np.testing.assert_array_equal(space.from_unit(jnp.ones(2)), space.high)


def test_from_unit_never_leaves_the_bounds():
    space = box()
    np.testing.assert_array_equal(space.from_unit(jnp.array([-0.5, 1.5])), [-5.0, 15.0])


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf, 10.5, -5.5])
def test_a_box_does_not_contain(bad):
    assert box().contains(jnp.array([0.0, 1.0]))
    assert not box().contains(jnp.array([bad, 1.0]))


def test_a_free_space_contains_what_is_finite_and_maps_nothing():
    space = Space.free()
    x = {"a": jnp.array([1e30, -7.0]), "b": jnp.array(2.0), "empty": jnp.zeros((0, 3))}
    assert space.is_free and not box().is_free
    assert space.contains(x)
    assert not space.contains({**x, "b": jnp.array(jnp.nan)})
    assert not space.contains({**x, "b": jnp.array(jnp.inf)})
    for mapping in (space.project, space.to_unit, space.from_unit):
        assert mapping(x) is x


def test_a_point_may_be_any_pytree():
    space = Space.box({"a": jnp.zeros((2, 2)), "b": jnp.array(-1.0)}, {"a": jnp.full((2, 2), 4.0), "b": jnp.array(1.0)})
    x = {"a": jnp.full((2, 2), 1.0), "b": jnp.array(0.0)}
    u = space.to_unit(x)
    np.testing.assert_array_equal(u["a"], np.full((2, 2), 0.25))
    np.testing.assert_array_equal(u["b"], 0.5)
    assert space.contains(x)
    assert not space.contains({**x, "b": jnp.array(1.5)})


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ([1.0, 0.0], [0.0, 1.0]),
        ([0.0, 0.0], [1.0, 0.0]),
        ([np.nan, 0.0], [1.0, 1.0]),
        ([0.0, 0.0], [1.0, np.nan]),
        ([-np.inf, 0.0], [1.0, 1.0]),
        ([0.0, 0.0], [1.0, np.inf]),
        ([0.0], [1.0, 1.0]),
    ],
    ids=["reversed", "equal", "nan low", "nan high", "infinite low", "infinite high", "shapes"],
)
def test_bad_bounds_are_refused(low, high):
    with pytest.raises(ValueError, match="low"):
        Space.box(np.array(low, np.float32), np.array(high, np.float32))


def test_bounds_of_different_structure_are_refused():
    with pytest.raises(ValueError, match="structure"):
        Space.box({"a": jnp.zeros(2)}, {"b": jnp.ones(2)})


def test_samples_are_inside_and_uniform():
    space = Space.box(
        {"a": jnp.array([-5.0, 100.0]), "b": jnp.array(0.0)}, {"a": jnp.array([5.0, 101.0]), "b": jnp.array(1e-3)}
    )
    x = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 2000))
    assert x["a"].shape == (2000, 2) and x["b"].shape == (2000,)
    assert jax.vmap(space.contains)(x).all()
    u = np.column_stack([np.asarray(leaf) for leaf in jax.tree.leaves(jax.vmap(space.to_unit)(x))])
    # mean 1/2 and variance 1/12 within 5 standard errors; columns independent
    np.testing.assert_allclose(u.mean(0), 0.5, atol=5 * np.sqrt(1 / 12 / 2000))
    np.testing.assert_allclose(u.var(0), 1 / 12, atol=0.01)
    assert np.abs(np.corrcoef(u.T) - np.eye(3)).max() < 0.12


def test_a_free_space_cannot_be_sampled():
    with pytest.raises(ValueError, match="free"):
        Space.free().sample(jax.random.key(0))


def test_vmap_over_boxes_equals_a_loop_and_compiles_once():
    low = jnp.array([[-1.0, 0.0], [5.0, -9.0], [0.0, 0.5]])
    high = low + jnp.array([[1.0, 2.0], [3.0, 20.0], [0.5, 0.25]])
    x = low + 0.3 * (high - low)
    traces = []

    @jax.jit
    def through(low, high, x):
        traces.append(None)
        space = Space.box(low, high)
        return space.to_unit(x), space.from_unit(space.to_unit(x)), space.contains(x), space.project(2 * x)

    batched = jax.vmap(through)(low, high, x)
    for i in range(3):
        one = through(low[i], high[i], x[i])
        for a, b in zip(one, batched, strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-6)
    assert len(traces) == 1


def test_bounds_keep_the_dtype_of_the_point():
    space = Space.box(jnp.zeros(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16))
    x = jnp.array([0.5, 2.0], jnp.bfloat16)
    for mapping in (space.project, space.to_unit, space.from_unit):
        assert mapping(x).dtype == jnp.bfloat16


def units():
    return st.lists(st.floats(0, 1, width=32, allow_subnormal=False), min_size=7, max_size=7)


def mixed():
    """A real number on three scales, whole numbers on two, three categories, one category."""
    return Space.mixed(
        jnp.array([-5.0, 1e-6, 1.0, 1.0, 1.0, 0.0, 0.0]),
        jnp.array([5.0, 1e-1, 100.0, 9.0, 1000.0, 2.0, 0.0]),
        jnp.array([0, 0, 0, 9, 1000, 3, 1]),
        jnp.array([0, 1, 2, 0, 1, 0, 0]),
        jnp.array([True, True, True, True, True, False, False]),
    )


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(0, 1, width=32, allow_subnormal=False), min_size=7, max_size=7), st.sampled_from([2, 16, 256])
)
def test_mixed_round_trips(u, bins):
    space, u = mixed(), jnp.array(u)
    x = space.from_unit(u)
    assert space.contains(x)
    whole = space.levels > 0
    np.testing.assert_array_equal(space.from_unit(space.to_unit(x))[whole], x[whole])
    np.testing.assert_allclose(space.to_unit(x)[~whole], u[~whole], atol=2e-6)
    tokens = space.to_tokens(x, bins)
    assert np.all(tokens >= 0) and np.all(tokens < space.sizes(bins))
    back = space.from_tokens(tokens, bins)
    few = whole & (space.levels <= bins)
    np.testing.assert_array_equal(back[few], x[few])
    np.testing.assert_allclose(space.to_unit(back)[~whole], space.to_unit(x)[~whole], atol=0.5 / bins + 2e-6)
    np.testing.assert_array_equal(space.to_tokens(back, bins)[few], tokens[few])


def test_mixed_scales_are_logarithms():
    unit = mixed().to_unit(jnp.array([0.0, 1e-3, 91.0, 5.0, 30.0, 1.0, 0.0]))
    np.testing.assert_allclose(unit[jnp.array([0, 1, 3, 5, 6])], [0.5, 0.6, 0.5, 0.5, 0.5], atol=1e-5)
    np.testing.assert_allclose(unit[2], 1 - np.log(10) / np.log(100), atol=1e-5)
    assert not mixed().contains(jnp.array([0.0, 1e-3, 50.0, 5.5, 30.0, 1.0, 0.0]))
    assert mixed().contains(mixed().project(jnp.array([9.0, 1.0, 50.0, 5.5, 30.2, 0.9, 1.0])))


def test_every_value_has_an_equal_share_of_a_linear_coordinate():
    u = (jnp.arange(900) + 0.5) / 900
    found = jax.vmap(lambda u: mixed().from_unit(jnp.full(7, u)))(u)
    assert np.all(np.unique(found[:, 3], return_counts=True)[1] == 100)
    assert np.all(np.unique(found[:, 5], return_counts=True)[1] == 300)
