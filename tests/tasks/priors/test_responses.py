"""Response surfaces: each part alone, and how often it is there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from tasks.priors.responses import Region, ResponsePriorConfig, Valleys


def test_a_valley_is_lowest_at_its_optimum_and_one_at_its_end():
    d = 3
    valleys = Valleys(
        jnp.array([0.2, 0.5, 1.2]), jnp.zeros((d, d)), jnp.array([[0.1] * d, [0.5] * d]), jnp.array([1.0, 2.0, 4.0]),
        jnp.full(d, 0.1),
    )  # fmt: skip
    line = jnp.broadcast_to(jnp.linspace(0, 1, 101)[:, None], (101, d))
    found = np.asarray(jax.vmap(valleys.response)(line))
    np.testing.assert_array_equal(found.argmin(0), [20, 50, 100])
    np.testing.assert_allclose(found.max(0), 1, rtol=1e-5)
    pulled = valleys._replace(pull=jnp.zeros((d, d)).at[1, 0].set(0.4))
    moved = jax.vmap(pulled.response)(line.at[:, 0].set(1.0))
    assert int(np.argmin(moved[:, 1])) == 70


def test_what_surfaces_have_is_as_frequent_as_configured(draws):
    config = ResponsePriorConfig(dimension=3, product=0.1, steps=0.2, well=0.3, floor=0.4, ceiling=0.5, resolution=0.6,
                                 collapse=0.7, failing=0.8, interaction=0.9)  # fmt: skip
    f = draws(config, 800)
    pairs = np.asarray(f.valleys.pull != 0)[:, ~np.eye(3, dtype=bool)]
    levels, regions = f.levels, [jnp.isfinite(region.threshold) for region in (f.collapse, f.failing)]
    ceiling = jnp.isfinite(levels.ceiling)
    shares = [f.product, f.steps > 0, levels.depth > 0, levels.floor > 0, ceiling, levels.rounded, *regions, pairs]
    np.testing.assert_allclose([np.mean(share) for share in shares], np.arange(1, 10) / 10, atol=0.06)


def test_surfaces_part_by_part(draws, values):
    config = ResponsePriorConfig(
        dimension=3, product=0, interaction=0, steps=1, well=1, floor=1, ceiling=1, resolution=1, collapse=1, failing=1
    )
    full, z = draws(config, 100), jax.random.uniform(jax.random.key(4), (256, 3))
    none = full.failing._replace(threshold=jnp.full(100, jnp.inf))
    levels = full.levels._replace(
        floor=jnp.zeros(100), ceiling=jnp.full(100, jnp.inf), depth=jnp.zeros(100), rounded=jnp.zeros(100, bool)
    )
    plain = full._replace(steps=jnp.zeros((100, 3), int), collapse=none, failing=none, levels=levels)

    def found(**fields):
        where, changed = plain.levels, {}
        for name in fields:
            if name in where._fields:
                where = where._replace(**{name: getattr(full.levels, name)})
            else:
                changed[name] = getattr(full, name)
        return np.asarray(values(config, plain._replace(levels=where, **changed), z))

    def commonest(y):
        return np.array([np.unique(row, return_counts=True)[1].max() for row in y]) / 256

    smooth = found()
    assert smooth.min() > -1e-3 and smooth.max() < 1.01 and np.quantile(commonest(smooth), 0.9) < 0.05
    failed = np.isnan(found(failing=True))
    assert 0.08 < failed.mean() < 0.25 and failed.mean(1).max() < 0.5
    assert np.all(np.isfinite(values(config, full, jnp.full((1, 3), 0.5)))), "never in the middle"
    np.testing.assert_array_equal(found(failing=True)[~failed], smooth[~failed])
    collapsed = found(collapse=True) != smooth
    assert 0.08 < collapsed.mean() < 0.25
    assert all(len(set(row[moved])) <= 1 for row, moved in zip(found(collapse=True), collapsed, strict=True))
    assert np.all(found(floor=True) >= smooth - 1e-5) and found(floor=True).min() > 0.0075
    assert np.mean(commonest(found(ceiling=True)) > 0.1) > 0.2 and np.all(found(ceiling=True) <= smooth)
    assert np.all(found(depth=True) <= smooth) and np.mean((smooth - found(depth=True)).max(1) > 0.05) > 0.3
    assert np.abs(found(rounded=True) - smooth).max() < 0.026
    assert np.median([len(set(row)) for row in found(rounded=True)]) < 150
    assert np.max([len(set(row)) for row in found(steps=True)]) <= 6**3


def test_a_region_is_beyond_a_plane():
    region = Region(jnp.array([0.5, -0.5]), jnp.array(0.3))
    assert region.contains(jnp.array([0.9, 0.1])) and not region.contains(jnp.array([0.9, 0.9]))


@pytest.mark.parametrize("fields", [{"failing": 2.0}, {"focus": -1.0}], ids=str)
def test_bad_fields_are_refused(fields):
    with pytest.raises(ValidationError, match=next(iter(fields))):
        ResponsePriorConfig(**fields)
