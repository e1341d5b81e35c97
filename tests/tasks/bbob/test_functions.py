"""The BBOB functions equal those of `ioh` on COCO's own instances, which are rebuilt here.

COCO derives every instance from the numbers of a function and of the instance, by a linear congruential generator with
a shuffle table. The rules are those of the reference implementation of 2009, with its exceptions for single functions.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.bbob.functions import FUNCTIONS, Instance

ioh = pytest.importorskip("ioh", reason="there are wheels for some platforms only")

NAMES = list(FUNCTIONS)
SHARED = {4: 3, 18: 17}  # functions that have the seed of another
Q_FIRST = (6, 7, 13, 23, 24)  # there the formulas' Q has the seed that is R's elsewhere
MODULUS = 2**31 - 1


def uniforms(n, seed):
    """n numbers in (0, 1)."""

    def advance(value):
        return 16807 * value % MODULUS

    value, table = max(abs(seed), 1), np.zeros(32, int)
    for i in range(39, -1, -1):
        value = advance(value)
        if i < 32:
            table[i] = value
    out, drawn = int(table[0]), np.zeros(n)
    for i in range(n):
        value, slot = advance(value), out // 67108865
        out, table[slot] = int(table[slot]), value
        drawn[i] = out / 2.147483647e9
    return np.where(drawn == 0, 1e-99, drawn)


def normals(n, seed):
    u = uniforms(2 * n, seed)
    drawn = np.sqrt(-2 * np.log(u[:n])) * np.cos(2 * np.pi * u[n:])
    return np.where(drawn == 0, 1e-99, drawn)


def rotation(d, seed):
    """Gram-Schmidt on the columns of a normal matrix."""
    columns = normals(d * d, seed).reshape(d, d)
    for i in range(d):
        for j in range(i):
            columns[i] -= (columns[i] @ columns[j]) * columns[j]
        columns[i] /= np.linalg.norm(columns[i])
    return columns.T


def offset(d, seed):
    x = 8 * np.floor(1e4 * uniforms(d, seed)) / 1e4 - 4
    return np.where(x == 0, -1e-5, x)


def peaks(d, seed, n, R):
    """Offset, peaks and conditions of a Gallagher function, in the form that an `Instance` has."""
    reach = 1.0 if n == 101 else 0.98
    where = (10 * uniforms(n * d, seed).reshape(n, d) - 5) * reach
    where[0] *= 0.8
    levels = np.concatenate([[0.5 if n == 101 else 1.0], np.argsort(uniforms(n - 1, seed)) / (n - 2)])
    axes = np.array([np.argsort(uniforms(d, seed + 1000 * i)) for i in range(n)])
    away = (where - where[0]) @ R.T
    return where[0] / reach, away / reach, 1e3 ** (levels[:, None] * (axes / (d - 1) - 0.5))


def coco(number, instance, d):
    """COCO's instance; its arrays of peaks have 101 rows for every function."""
    seed = SHARED.get(number, number) + 10_000 * instance
    R, Q = rotation(d, seed + 1_000_000), rotation(d, seed)
    if number in Q_FIRST:
        R, Q = Q, R
    x, away, conditions = offset(d, seed), np.zeros((101, d)), np.ones((101, d))
    if number in (9, 19):
        R = rotation(d, seed)
    elif number == 12:
        x = offset(d, seed + 1_000_000)
    elif number == 20:
        x = uniforms(d, seed) - 0.5
    elif number == 24:
        x = normals(d, seed)
    elif number in (21, 22):
        R, n = rotation(d, seed), {21: 101, 22: 21}[number]
        x, away[:n], conditions[:n] = peaks(d, seed, n, R)
    return Instance(*(jnp.asarray(a) for a in (x, R, Q, 0.0, away, conditions)))


@jax.jit
def evaluate(index, x, instance):
    """Values [points] and the optimum of one function, in a program for all of them."""
    branches = [
        lambda x, instance, f=f: (jax.vmap(f.value, (0, None))(x, instance), f.optimum(instance))
        for f in FUNCTIONS.values()
    ]
    return jax.lax.switch(index, branches, x, instance)


@pytest.mark.parametrize("d", [2, 5, 10, 40])
def test_every_function_equals_that_of_ioh(d):
    points = np.random.default_rng(d).uniform(-5, 5, (8, d))
    points[-1] *= 1.5  # where some functions add a penalty
    with jax.enable_x64(True):
        for number, name in enumerate(NAMES, 1):
            for instance in (1, 2, 3):
                problem = ioh.get_problem(number, instance, d, ioh.ProblemClass.BBOB)
                expected = np.array([problem(point) for point in points]) - problem.optimum.y
                value, optimum = evaluate(number - 1, points, coco(number, instance, d))
                case = f"{name}, instance {instance}"
                np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=case)
                np.testing.assert_allclose(problem(np.asarray(optimum)), problem.optimum.y, atol=1e-8, err_msg=case)
                np.testing.assert_allclose(optimum, problem.optimum.x, atol=1e-6, err_msg=case)
