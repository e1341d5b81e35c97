"""Draws of a prior, and their values at points in its own coordinates."""

import functools

import jax
import pytest


@pytest.fixture(scope="session")
def draws():
    """`(config, n) -> n functions`."""

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def draw(config, n):
        return jax.vmap(config.draw)(jax.random.split(jax.random.key(0), n))

    return draw


@pytest.fixture(scope="session")
def values():
    """`(config, functions, points) -> [functions, points]`."""

    @functools.partial(jax.jit, static_argnums=0)
    def evaluate(config, functions, z):
        return jax.vmap(lambda f: jax.vmap(lambda z: config.value(f, z))(z))(functions)

    return evaluate
