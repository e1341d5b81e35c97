"""The 24 noiseless functions of BBOB, to be minimized in any dimension from 2 on.

Finck, Hansen, Ros and Auger, "Real-Parameter Black-Box Optimization Benchmarking 2009: Presentation of the Noiseless
Functions" (2009, updated 2010). Every formula is written in steps y away from the minimum, so that differences of
nearly equal numbers do not hide a small regret in single precision, and every derivative is finite: roots have the
derivative 0 at 0. Values are finite in single precision well beyond the domain [-5, 5]^d, for coordinates up to 1e3.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Point = Float[Array, "d"]
Value = Float[Array, ""]

TINY = 1e-30  # of squares: where a root has too steep a slope to tell it in single precision
STEEPEST = 25.0  # of the exponent in T_asy: reached beyond distances of about 100, where squares would overflow
SCHWEFEL = 20.51752290994169  # root of sin r = -r / 2 cos r: at its square, z sin(sqrt(z)) has its maximum


class Instance(NamedTuple):
    """What distinguishes one instance of a function from another. The same shapes for every function, so they stack.

    Attributes:
      offset: in [-4, 4]; the minimum, or what decides it: see `BBOBFunction.optimum`.
      R, Q: rotations, orthogonal.
      f_opt: the minimum's value.
      peaks: for the Gallagher functions, their n peaks p_i as R (p_i - p_1), of peaks p_i in [-5, 5]^d.
      conditions: the diagonals of their quadratic forms.
    """

    offset: Float[Array, "d"]
    R: Float[Array, "d d"]
    Q: Float[Array, "d d"]
    f_opt: Float[Array, ""]
    peaks: Float[Array, "n d"]
    conditions: Float[Array, "n d"]


class BBOBFunction(NamedTuple):
    """A function and what is known of it.

    Attributes:
      value: `(x [d], Instance) -> []`.
      optimum: `(Instance) -> x [d]`, a global minimum, where the value is `f_opt`.
      peaks: how many it reads of the instance.
    """

    value: Callable[[Point, Instance], Value]
    optimum: Callable[[Instance], Point]
    peaks: int = 0


FUNCTIONS: dict[str, BBOBFunction] = {}


def _bbob(
    optimum: Callable[[Instance], Point] = lambda instance: instance.offset,
    penalty: Callable[[int], float] | None = None,
    peaks: int = 0,
) -> Callable:
    """Decorator: put a function of y in the table.

    Args:
      optimum: where y is 0.
      penalty: by dimension, the weight of f_pen: squared distances from the domain.
      peaks: how many it reads of the instance.
    """

    def add(regret):
        def value(x, instance):
            found = regret(x - optimum(instance), instance)
            if penalty is not None:
                found = found + penalty(x.size) * _outside(x)
            return instance.f_opt + found

        FUNCTIONS[regret.__name__] = BBOBFunction(value, optimum, peaks)
        return regret

    return add


def _outside(x: Point) -> Value:
    """The penalty f_pen outside of the domain."""
    return jnp.sum(jnp.maximum(jnp.abs(x) - 5, 0) ** 2)


def _powers(base: float, y: Point) -> Point:
    """Powers of the base from 0 to 1; Lambda^alpha has the diagonal `_powers(sqrt(alpha), y)`."""
    return jnp.asarray(base ** np.linspace(0, 1, y.size), y.dtype)


def _turn(rotation: Float[Array, "d d"], y: Point) -> Point:
    return jnp.matmul(rotation, y, precision="highest")


def _power(square: Float[Array, "*n"], exponent: float) -> Float[Array, "*n"]:
    """square ** exponent for an exponent below 1, with the derivative 0 at 0."""
    return jnp.where(square > TINY, jnp.where(square > TINY, square, 1.0) ** exponent, 0.0)


def _signs(instance: Instance) -> Point:
    return jnp.where(instance.offset < 0, -1.0, 1.0).astype(instance.offset.dtype)


def oscillate(y: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """T_osz: small smooth irregularities on the scale of the logarithm."""
    size = jnp.log(jnp.where(jnp.abs(y) > TINY, jnp.abs(y), 1.0))
    fast, slow = jnp.where(y > 0, 10.0, 5.5), jnp.where(y > 0, 7.9, 3.1)
    return y * jnp.exp(0.049 * (jnp.sin(fast * size) + jnp.sin(slow * size)))


def skew(beta: float, y: Point) -> Point:
    """T_asy: positive coordinates are stretched, later ones more."""
    positive = jnp.where(y > TINY, y, 1.0)
    exponent = beta * jnp.asarray(np.linspace(0, 1, y.size), y.dtype) * jnp.sqrt(positive) * jnp.log(positive)
    return y * jnp.exp(jnp.minimum(exponent, STEEPEST))


def _ripple(z: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """1 - cos(2 pi z)."""
    return 2 * jnp.sin(jnp.pi * (z - jnp.round(z))) ** 2


def _stretch(y: Point) -> float:
    return max(1.0, y.size**0.5 / 8)


def _valley(w: Point) -> Float[Array, "d-1"]:
    """The terms of Rosenbrock's function at 1 + w."""
    return 100 * (w[:-1] * (2 + w[:-1]) - w[1:]) ** 2 + w[:-1] ** 2


def _rastrigin(z: Point) -> Value:
    return jnp.sum(10 * _ripple(z) + z**2)


@_bbob()
def sphere(y: Point, instance: Instance) -> Value:
    """f1."""
    return jnp.sum(y**2)


@_bbob()
def ellipsoid(y: Point, instance: Instance) -> Value:
    """f2, separable, condition 1e6."""
    return jnp.sum(_powers(1e6, y) * oscillate(y) ** 2)


@_bbob()
def rastrigin(y: Point, instance: Instance) -> Value:
    """f3, separable."""
    return _rastrigin(_powers(10**0.5, y) * skew(0.2, oscillate(y)))


def _odd_positive(instance: Instance) -> Point:
    """The first, third, ... coordinates are positive."""
    odd = jnp.arange(instance.offset.size) % 2 == 0
    return jnp.where(odd, jnp.abs(instance.offset), instance.offset)


@_bbob(_odd_positive, penalty=lambda d: 100.0)
def bueche_rastrigin(y: Point, instance: Instance) -> Value:
    """f4, separable."""
    z = oscillate(y)
    steep = (z > 0) & (jnp.arange(y.size) % 2 == 0)
    return _rastrigin(jnp.where(steep, 10.0, 1.0) * _powers(10**0.5, y) * z)


@_bbob(lambda instance: 5 * _signs(instance))
def linear_slope(y: Point, instance: Instance) -> Value:
    """f5; flat beyond the corner of the domain that is its minimum."""
    return jnp.sum(_powers(10.0, y) * jnp.maximum(-_signs(instance) * y, 0))


@_bbob()
def attractive_sector(y: Point, instance: Instance) -> Value:
    """f6."""
    z = _turn(instance.Q, _powers(10**0.5, y) * _turn(instance.R, y))
    z = jnp.where(z * _signs(instance) > 0, 100.0, 1.0) * z
    return _power(oscillate(jnp.sum(z**2)), 0.9)


@_bbob(penalty=lambda d: 1.0)
def step_ellipsoid(y: Point, instance: Instance) -> Value:
    """f7, condition 100: plateaus, whose derivative is 0."""
    u = _powers(10**0.5, y) * _turn(instance.R, y)
    z = _turn(instance.Q, jnp.where(jnp.abs(u) > 0.5, jnp.floor(0.5 + u), jnp.floor(0.5 + 10 * u) / 10))
    return 0.1 * jnp.maximum(jnp.abs(u[0]) / 1e4, jnp.sum(_powers(100.0, y) * z**2))


@_bbob(lambda instance: 0.75 * instance.offset)
def rosenbrock(y: Point, instance: Instance) -> Value:
    """f8."""
    return jnp.sum(_valley(_stretch(y) * y))


def _half(instance: Instance) -> Point:
    """The point where `stretch R x + 1/2` is 1."""
    half = jnp.full_like(instance.offset, 0.5 / _stretch(instance.offset))
    return _turn(instance.R.T, half)


@_bbob(_half)
def rosenbrock_rotated(y: Point, instance: Instance) -> Value:
    """f9; not moved by the offset."""
    return jnp.sum(_valley(_stretch(y) * _turn(instance.R, y)))


@_bbob()
def ellipsoid_rotated(y: Point, instance: Instance) -> Value:
    """f10, condition 1e6."""
    return jnp.sum(_powers(1e6, y) * oscillate(_turn(instance.R, y)) ** 2)


@_bbob()
def discus(y: Point, instance: Instance) -> Value:
    """f11: one direction is 1000 times as sensitive as all others."""
    z = oscillate(_turn(instance.R, y)) ** 2
    return 1e6 * z[0] + jnp.sum(z[1:])


@_bbob()
def bent_cigar(y: Point, instance: Instance) -> Value:
    """f12: one direction is 1000 times less sensitive than all others, along a bent ridge."""
    z = _turn(instance.R, skew(0.5, _turn(instance.R, y))) ** 2
    return z[0] + 1e6 * jnp.sum(z[1:])


@_bbob()
def sharp_ridge(y: Point, instance: Instance) -> Value:
    """f13."""
    z = _turn(instance.Q, _powers(10**0.5, y) * _turn(instance.R, y)) ** 2
    return z[0] + 100 * _power(jnp.sum(z[1:]), 0.5)


@_bbob()
def different_powers(y: Point, instance: Instance) -> Value:
    """f14: powers from 2 to 6, under a square root."""
    exponents = jnp.asarray(np.linspace(2, 6, y.size), y.dtype)
    return _power(jnp.sum(jnp.abs(_turn(instance.R, y)) ** exponents), 0.5)


@_bbob()
def rastrigin_rotated(y: Point, instance: Instance) -> Value:
    """f15."""
    z = _turn(instance.Q, skew(0.2, oscillate(_turn(instance.R, y))))
    return _rastrigin(_turn(instance.R, _powers(10**0.5, y) * z))


@_bbob(penalty=lambda d: 10 / d)
def weierstrass(y: Point, instance: Instance) -> Value:
    """f16: rugged, and repetitive, so that the minimum is not unique."""
    z = _turn(instance.Q, oscillate(_turn(instance.R, y)))
    z = _turn(instance.R, _powers(0.1, y) * z)
    k = np.arange(12)
    waves = jnp.asarray(0.5**k, y.dtype)[None] * _ripple(z[:, None] * jnp.asarray(3.0**k, y.dtype)[None])
    return 10 * jnp.mean(jnp.sum(waves, 1)) ** 3


def _schaffers(y: Point, instance: Instance, condition: float) -> Value:
    z = _powers(condition**0.5, y) * _turn(instance.Q, skew(0.5, _turn(instance.R, y)))
    squares = z[:-1] ** 2 + z[1:] ** 2
    return jnp.mean(_power(squares, 0.25) * (1 + jnp.sin(50 * _power(squares, 0.1)) ** 2)) ** 2


@_bbob(penalty=lambda d: 10.0)
def schaffers_f7(y: Point, instance: Instance) -> Value:
    """f17, condition 10."""
    return _schaffers(y, instance, 10.0)


@_bbob(penalty=lambda d: 10.0)
def schaffers_f7_ill(y: Point, instance: Instance) -> Value:
    """f18, condition 1000."""
    return _schaffers(y, instance, 1000.0)


@_bbob(_half)
def griewank_rosenbrock(y: Point, instance: Instance) -> Value:
    """f19; not moved by the offset."""
    s = _valley(_stretch(y) * _turn(instance.R, y))
    return 10 * jnp.mean(s / 4000 + 2 * jnp.sin(s / 2) ** 2)


@_bbob(lambda instance: SCHWEFEL**2 / 200 * _signs(instance))
def schwefel(y: Point, instance: Instance) -> Value:
    """f20: the second-best minima are far from the best. The offset only gives signs."""
    step = 2 * _signs(instance) * y
    step = 100 * _powers(10**0.5, y) * step.at[1:].add(0.25 * step[:-1])
    z = SCHWEFEL**2 + step
    # h(z) = z sin(sqrt(z)); h(best) - h(z), where z > 1 by the addition theorems with the terms of first order gone
    a, b = float(np.sin(SCHWEFEL)), float(np.cos(SCHWEFEL))
    e = step / (jnp.sqrt(jnp.maximum(z, 1.0)) + SCHWEFEL)
    second = SCHWEFEL * e * e * b * jnp.cos(e) / 2 - step * b * jnp.sin(e)
    near = SCHWEFEL**2 * (2 * a * jnp.sin(e / 2) ** 2 + b * (e * jnp.cos(e) - jnp.sin(e))) + second
    far = SCHWEFEL**2 * a - z * jnp.sin(_power(z**2, 0.25))
    return jnp.mean(jnp.where(z > 1, near, far)) / 100 + 100 * _outside(z / 100)


def _gallagher(y: Point, instance: Instance, peaks: int, reach: float) -> Value:
    n = np.linspace(1.1, 9.1, peaks - 1)
    heights = jnp.asarray(np.concatenate([[10.0], n]), y.dtype)
    away = _turn(instance.R, y)[None] - reach * instance.peaks[:peaks]
    forms = jnp.sum(instance.conditions[:peaks] * away**2, 1) / (2 * y.size)
    return oscillate(jnp.min(10 - heights - heights * jnp.expm1(-forms))) ** 2


@_bbob(penalty=lambda d: 1.0, peaks=101)
def gallagher_101(y: Point, instance: Instance) -> Value:
    """f21: 101 peaks, turned upside down, of which the first is the best."""
    return _gallagher(y, instance, 101, 1.0)


@_bbob(lambda instance: 0.98 * instance.offset, penalty=lambda d: 1.0, peaks=21)
def gallagher_21(y: Point, instance: Instance) -> Value:
    """f22: 21 peaks, in [-4.9, 4.9]^d; the best one is narrower than in f21."""
    return _gallagher(y, instance, 21, 0.98)


@_bbob(penalty=lambda d: 1.0)
def katsuura(y: Point, instance: Instance) -> Value:
    """f23: continuous, and nowhere differentiable but for rounding."""
    d, scales = y.size, jnp.asarray(2.0 ** np.arange(1, 33), y.dtype)
    z = _turn(instance.Q, _powers(10.0, y) * _turn(instance.R, y))
    waves = z[:, None] * scales[None]
    rough = jnp.sum(jnp.abs(waves - jnp.round(waves)) / scales[None], 1)
    return 10 / d**2 * jnp.expm1(10 / d**1.2 * jnp.sum(jnp.log1p(jnp.arange(1, d + 1) * rough)))


@_bbob(lambda instance: 1.25 * _signs(instance), penalty=lambda d: 1e4)
def lunacek(y: Point, instance: Instance) -> Value:
    """f24: two funnels, of which the wider one is the worse. The offset only gives signs."""
    d, mu = y.size, 2.5
    s = 1 - 1 / (2 * (d + 20) ** 0.5 - 8.2)
    other = -(((mu**2 - 1) / s) ** 0.5)
    step = 2 * _signs(instance) * y
    z = _turn(instance.Q, _powers(10.0, y) * _turn(instance.R, step))
    funnels = jnp.minimum(jnp.sum(step**2), d + s * jnp.sum((step + mu - other) ** 2))
    return funnels + 10 * jnp.sum(_ripple(z))
