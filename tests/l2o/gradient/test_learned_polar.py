"""Polar, steered: untrained it is polar; with any weights, the symmetries that it must have."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2o
from l2o.gradient.learned_polar import LOUDNESS, OUTPUTS, LearnedPolarConfig

LEARNED = LearnedPolarConfig().build()
FRESH = LEARNED.init(jax.random.key(0))
RNG = np.random.default_rng(0)
SHAPES = {"embed": (5, 3), "w": (3, 4), "v": (3, 4), "t": (2, 2, 3), "b": (4,), "head": (4, 2), "s": ()}
START = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()} | {"b": np.zeros(4, "f")}
GRADS = [{name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(5)]
LOSSES = [3.0, 2.0, 2.5, 1.0, 1.5]


def shaken(seed=1, size=0.1):
    """Meta-parameters in which no leaf is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: np.float32(a + size * rng.normal(size=a.shape)), FRESH)


THETA = shaken()


def played(tx, params=START, grads=GRADS, losses=LOSSES):
    """The parameters after each update."""
    state, step, out = tx.init(params), jax.jit(tx.update), []
    for g, loss in zip(grads, losses, strict=True):
        updates, state = step(g, state, params, value=loss)
        params = optax.apply_updates(params, updates)
        out.append(params)
    return out


def assert_close(found, expected, rtol=1e-3):
    """Relative to the largest number of each leaf."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.max(np.abs(b))), found, expected
    )


@pytest.mark.parametrize("horizon", [20, None])
def test_untrained_it_is_polar(horizon):
    found = played(LEARNED.native(FRESH, horizon))
    assert_close(found, played(l2o.polar(horizon)), 1e-5)


def test_trained_it_is_another_rule_in_every_role():
    found, plain = (played(LEARNED.native(theta, 20))[-1] for theta in (THETA, FRESH))
    for name in START:
        assert np.max(np.abs(found[name] - plain[name])) > 1e-4, name


@pytest.mark.parametrize(("loss", "unit"), [(1e3, 1.0), (1.0, 1e-3), (1e-3, 1e3)])
def test_other_units_of_the_loss_and_of_the_parameters(loss, unit):
    """f(x) becomes loss * f(z / unit), whose gradient is loss / unit times as large."""
    grads = jax.tree.map(lambda g: np.float32(loss / unit) * g, GRADS)
    found = played(
        LEARNED.native(THETA, 20), jax.tree.map(lambda a: np.float32(unit) * a, START), grads,
        [loss * value for value in LOSSES],
    )  # fmt: skip
    assert_close(found, jax.tree.map(lambda a: unit * a, played(LEARNED.native(THETA, 20))))


def test_order_and_company_of_the_tensors():
    """Tensors of one shape are computed as one stack, in which each moves as it does under another name."""
    renamed = {"a": "v", "z": "w"}  # which come in another order
    swapped = {new: START[old] for new, old in renamed.items()}
    grads = [{new: g[old] for new, old in renamed.items()} for g in GRADS]
    plain = played(LEARNED.native(THETA, 20), {k: START[k] for k in "vw"}, [{k: g[k] for k in "vw"} for g in GRADS])
    found = played(LEARNED.native(THETA, 20), swapped, grads)
    assert_close([{old: p[new] for new, old in renamed.items()} for p in found], plain)


def test_constants_alone():
    """Without hidden units it has a constant for each role, which shifts the log step."""
    learned = LearnedPolarConfig(hidden=0).build()
    theta = learned.init(jax.random.key(0))
    assert [a.shape for a in jax.tree.leaves(theta)] == [(OUTPUTS, 4)]
    bound = LearnedPolarConfig().farthest
    said = bound * np.arctanh(np.log(1.6) / bound)  # it is bounded, and so more than the logarithm itself
    longer = jax.tree.map(lambda a: a.at[0].set(said / LOUDNESS).at[1:].set(0.0), theta)
    found = played(learned.native(longer, 20))
    assert_close(found, played(l2o.polar(20, step=1.6 * 0.075)))


@pytest.mark.parametrize("farthest", [0.1, 0.7, 2.0])
def test_however_loud_a_network_is_its_steps_are_near_those_of_polar(farthest):
    loud, learned = jax.tree.map(lambda a: np.float32(1e3) * a, THETA), LearnedPolarConfig(farthest=farthest).build()
    found, plain = (played(learned.native(theta), grads=GRADS[:1], losses=LOSSES[:1])[0] for theta in (loud, FRESH))
    for name in ("embed", "b", "s"):
        ratio = np.linalg.norm(found[name] - START[name]) / np.linalg.norm(plain[name] - START[name])
        most = 1.01 * np.exp(farthest)
        assert 1 / most <= ratio <= 5 * most, name  # the direction may be up to five times as long, too


def test_what_cannot_be_read():
    """Without a loss, with a loss that is no number, and with gradients that are zero, the steps are finite."""
    tx = LEARNED.native(THETA, 10)
    zero = [jax.tree.map(np.zeros_like, START)] * 5
    for grads, losses in ((zero, LOSSES), (GRADS, [np.nan] * 5), (GRADS, [None] * 5)):
        end = played(tx, grads=grads, losses=losses)[-1]
        assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(end))
    with pytest.raises(ValueError, match="learned_polar needs the parameters"):
        tx.update(START, tx.init(START))


def test_leaves_of_other_kinds():
    """Empty, half precision, whole numbers and complex ones; the updates have the gradients' dtypes."""
    params = {
        "empty": jnp.zeros((0, 3)), "half": jnp.ones((3, 2), jnp.bfloat16), "complex": jnp.ones(3, jnp.complex64),
        "w": jnp.ones((3, 2)),
    }  # fmt: skip
    tx = LEARNED.native(THETA, 10)
    state = tx.init(params)
    updates, after = tx.update(jax.tree.map(jnp.ones_like, params), state, params, value=1.0)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), updates) == jax.tree.map(lambda a: (a.shape, a.dtype), params)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)


def test_its_state_is_small_and_mirrors_the_parameters():
    state = LEARNED.native(FRESH).init(START)
    for tree in (state.fast, state.slow):
        assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, START)
    many, few = (
        sum(a.nbytes for a in jax.tree.leaves(LEARNED.native(FRESH).init({"w": jnp.ones((n, 64))}))) for n in (64, 32)
    )
    assert (many - few) / (32 * 64) == 8


def test_momenta_of_half_precision():
    half = LearnedPolarConfig(state_dtype="bfloat16").build().native(THETA, 20)
    params = {**START, "half": jnp.ones((3, 2), jnp.bfloat16), "wave": jnp.ones(2, jnp.complex64)}
    start = half.init(params)
    assert {name: a.dtype.name for name, a in start.slow.items() if a.dtype != "bfloat16"} == {"wave": "complex64"}
    _, after = half.update(params, start, params, value=1.0)
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, start)
    assert_close(played(half), played(LEARNED.native(THETA, 20)), 2e-2)


@pytest.mark.parametrize("make", [l2o.polar, lambda horizon, label: LEARNED.native(THETA, horizon, label)])
def test_labels(make):
    """A label is what a name would have been: of a leaf, of a whole branch, and as a function of the parameters."""
    start = {"a": {"w": START["embed"], "b": START["b"]}, "c": START["head"], "d": {"w": START["w"]}}
    grads = [{"a": {"w": g["embed"], "b": g["b"]}, "c": g["head"], "d": {"w": g["w"]}} for g in GRADS]
    named = {"a": {"embedding": START["embed"], "b": START["b"]}, "head": START["head"], "d": {"w": START["w"]}}
    named_grads = [{"a": {"embedding": g["embed"], "b": g["b"]}, "head": g["head"], "d": {"w": g["w"]}} for g in GRADS]
    expected = jax.tree.leaves(played(make(20, label=None), named, named_grads)[-1])
    label = {"a": "embedding", "c": "head", "d": None}
    for given in (label, lambda tree: {**jax.tree.map(lambda a: None, tree), **label}):
        found = jax.tree.leaves(played(make(20, label=given), start, grads)[-1])
        for a in found:  # whose shapes are all different
            other = next(b for b in expected if b.shape == a.shape)
            np.testing.assert_allclose(a, other, rtol=1e-3, atol=1e-4)
    flat = played(make(20, label="vector"), start, grads)[-1]
    assert np.linalg.norm(flat["d"]["w"] - START["w"]) < np.linalg.norm(found[3] - START["w"])
    with pytest.raises(l2o.UserError, match="label: found 'tail', expected one of matrix, head, embedding, vector"):
        make(20, label={"a": "embedding", "c": "tail", "d": None}).init(start)
    with pytest.raises(l2o.UserError, match="label does not fit the parameters"):
        make(20, label={"a": "embedding"}).init(start)
