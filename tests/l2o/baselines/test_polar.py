"""Polar: its equations, what does not change it, and how it is planned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2o
from l2o.baselines.polar import polar
from l2o.newton_schulz import orthogonalised

RNG = np.random.default_rng(0)
SHAPES = {"embed": (5, 3), "w": (3, 4), "v": (3, 4), "b": (4,)}
START = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
GRADS = [{name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(4)]


def played(tx, params=START, grads=GRADS):
    """The parameters after each update."""
    state, step, out = tx.init(params), jax.jit(tx.update), []
    for g in grads:
        updates, state = step(g, state, params)
        params = optax.apply_updates(params, updates)
        out.append(params)
    return out


def by_hand(start, grads, horizon, matrix, unit=None, factor=1.0, step=0.075, norm_step=0.035, quiet=0.7):
    """One leaf by the equations, in double precision."""
    w, mu, nu, a, c = start.astype(float), 0.0, 0.0, 0.0, 0.0
    scale, out = unit or np.sqrt(np.mean(w**2)), []
    for t, g in enumerate(np.float64([g for g in grads]), 1):
        planned = float(t > 1) * (0.5 + 0.5 * np.cos(np.pi * (t - 2) / (horizon - 1)))  # a warm-up of one update
        mu, nu = 0.95 * mu + 0.05 * g, 0.95 * nu + 0.05 * (np.mean(g**2) if matrix else g**2)
        momentum, second = mu / (1 - 0.95**t), nu / (1 - 0.95**t)
        if not matrix:
            u = momentum / np.sqrt(second)
            w = w - planned * step * factor * scale * u / max(1, np.sqrt(np.mean(u**2)))
        else:
            gain = np.clip(np.sqrt(np.mean(momentum**2) / second) / quiet, 0.02, 2)
            o = np.asarray(orthogonalised(jnp.asarray(0.95 * mu + 0.05 * g, jnp.float32)), float)
            radius = np.linalg.norm(w)
            turned = w / radius - planned * step * gain * o / np.linalg.norm(o)
            a, c = 0.9 * a + 0.1 * np.sum(g * w), 0.95 * c + 0.05 * np.sum(g * w) ** 2
            growth = a / (1 - 0.9**t) / np.sqrt(c / (1 - 0.95**t))
            w = radius * np.exp(-planned * norm_step * growth) * turned / np.linalg.norm(turned)
        out.append(w)
    return np.stack(out)


def test_it_is_the_equations():
    found = played(polar(20))
    between = np.sqrt(np.prod([np.sqrt(np.mean(START[name] ** 2) * 3) for name in "wv"]))  # a table is measured by it
    for name, matrix, factor in (("w", True, 1.0), ("v", True, 1.0), ("embed", False, 0.6), ("b", False, 0.11)):
        expected = by_hand(
            START[name], [g[name] for g in GRADS], 20, matrix, between if name == "embed" else None, factor
        )
        np.testing.assert_allclose(np.stack([p[name] for p in found]), expected, rtol=1e-4, atol=1e-6)


def test_without_norm_steps_a_matrix_keeps_its_norm_and_without_noise_turns_by_the_angle():
    gradient = [GRADS[0]] * 3
    found = played(polar(1000, norm_step=0.0, quiet=1e-9), grads=gradient)
    for before, after in zip([START, *found], found, strict=False):
        np.testing.assert_allclose(np.linalg.norm(after["w"]), np.linalg.norm(before["w"]), rtol=1e-6)
    loud, quiet = (played(polar(norm_step=0.0, quiet=q), grads=gradient)[0]["w"] for q in (1.0, 0.8))
    near, far = (np.linalg.norm(w - START["w"]) for w in (loud, quiet))
    assert far == pytest.approx(near / 0.8, rel=1e-2), "steps that agree are longer where less is enough"


def test_a_stack_of_matrices_moves_as_each_of_them():
    alone = played(polar(20), {"w": START["w"]}, [{"w": g["w"]} for g in GRADS])
    np.testing.assert_allclose(played(polar(20))[-1]["w"], alone[-1]["w"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("loss", "unit"), [(1e3, 1.0), (1.0, 1e-3), (1e-3, 1e3)])
def test_other_units_of_the_loss_and_of_the_parameters(loss, unit):
    """f(x) becomes loss * f(z / unit), whose gradient is loss / unit times as large."""
    found = played(
        polar(20), jax.tree.map(lambda a: unit * a, START), jax.tree.map(lambda g: np.float32(loss / unit) * g, GRADS)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, unit * b, rtol=1e-3, atol=1e-5 * unit), found, played(polar(20))
    )


def test_zeros_move_in_the_unit_of_the_network():
    """A bias of zeros is measured by the numbers between layers; a matrix of zeros moves, too."""
    start = {"w": START["w"], "b": np.zeros(4, np.float32), "v": np.zeros((3, 4), np.float32)}
    end = played(polar(20), start, [{name: g[name] for name in start} for g in GRADS])[-1]
    doubled = played(polar(20), {**start, "w": 2 * start["w"]}, [{name: g[name] for name in start} for g in GRADS])[-1]
    assert np.all(end["b"] != 0) and np.all(np.isfinite(end["v"])) and np.any(end["v"])
    assert np.linalg.norm(doubled["b"]) > np.linalg.norm(end["b"])


def test_a_table_is_told_from_a_linear_layer_by_the_name_of_its_leaf():
    """A layer of weights called `embed`, as for the patches of an image, is a matrix and keeps its norm."""
    start = {"embed": {"w": START["w"]}, "positions": START["v"]}
    grads = [{"embed": {"w": g["w"]}, "positions": g["v"]} for g in GRADS]
    end = played(polar(20, norm_step=0.0), start, grads)[-1]
    np.testing.assert_allclose(np.linalg.norm(end["embed"]["w"]), np.linalg.norm(START["w"]), rtol=1e-5)
    assert np.linalg.norm(end["positions"]) != pytest.approx(np.linalg.norm(START["v"]), rel=1e-3)


def test_without_a_horizon_it_warms_up_and_goes_on():
    """The steps of the first updates rise in proportion."""
    first, second = played(polar(), grads=[GRADS[0]] * 2)
    moved = [np.linalg.norm(b["w"] - a["w"]) for a, b in ((START, first), (first, second))]
    assert moved[1] == pytest.approx(2 * moved[0], rel=0.05)


def test_it_needs_the_parameters():
    tx = polar(10)
    with pytest.raises(ValueError, match="polar needs the parameters"):
        tx.update(START, tx.init(START))


def test_it_is_a_baseline_whose_state_is_small():
    config = l2o.kinds(l2o.BaselineConfig)["polar"]()
    assert config.reads_gradients and not config.tuned and config.label == "polar"
    state = jax.eval_shape(polar(10).init, {"w": jnp.zeros((64, 64))})
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) < 4.02 * 64 * 64
