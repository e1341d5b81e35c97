"""Classical test functions of global optimization, with their published domains and minima.

Formulas, domains and minima as in Surjanovic and Bingham, "Virtual Library of Simulation Experiments: Test Functions
and Datasets" (2013), unless said otherwise; each function names its origin. Minima that are published to a few digits
carry more here, from Newton's method. All are bounded below by that minimum on the whole space and not only on the
published domain, so that they may be moved, stretched and turned: functions for which this fails (Schwefel,
Michalewicz, Eggholder) are left out, and so are those with a kink (Alpine, Bukin).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Value = Callable[[Float[Array, "d"]], Float[Array, ""]]
Numbers = float | tuple[float, ...]


class Landmarks(NamedTuple):
    """What is known of a function of d variables.

    Attributes:
      low, high: corners of its published domain.
      x_opt: one of its global minima.
      f_opt: the value there.
    """

    low: np.ndarray
    high: np.ndarray
    x_opt: np.ndarray
    f_opt: float


class Function(NamedTuple):
    """A function and what is published of it; numbers stand for all coordinates, tuples for one each.

    Attributes:
      value: `[d] -> []`.
      low, high: its domain.
      optimum: one of its global minima; a tuple if the dimension is fixed, else a number or a function of it.
      minimum: the value there, or a function of the dimension.
    """

    value: Value
    low: Numbers
    high: Numbers
    optimum: Numbers | Callable[[int], np.ndarray]
    minimum: float | Callable[[int], float]

    @property
    def dimension(self) -> int | None:
        """The number of variables that it needs, or None for any from 2 on."""
        return len(self.optimum) if isinstance(self.optimum, tuple) else None

    def landmarks(self, dimension: int) -> Landmarks:
        """Its domain and minimum in so many variables."""
        optimum = self.optimum(dimension) if callable(self.optimum) else self.optimum
        minimum = self.minimum(dimension) if callable(self.minimum) else self.minimum
        low, high, x_opt = (np.broadcast_to(np.asarray(a, float), (dimension,)) for a in (self.low, self.high, optimum))
        return Landmarks(low, high, x_opt, minimum)


FUNCTIONS: dict[str, Function] = {}


def _published(
    low: Numbers,
    high: Numbers,
    optimum: Numbers | Callable[[int], np.ndarray],
    minimum: float | Callable[[int], float] = 0.0,
) -> Callable[[Value], Value]:
    """Decorator: put a function in the table with what is known of it."""

    def add(value):
        FUNCTIONS[value.__name__] = Function(value, low, high, optimum, minimum)
        return value

    return add


@_published(-5.12, 5.12, 0.0)
def sphere(x: Float[Array, "d"]) -> Float[Array, ""]:
    """The sum of squares (De Jong 1975)."""
    return jnp.sum(x**2)


@_published(-5.0, 5.0, 0.0)
def ellipsoid(x: Float[Array, "d"]) -> Float[Array, ""]:
    """A quadratic of condition number a million (Hansen et al. 2009, function 2)."""
    return jnp.sum(10 ** (6 * jnp.linspace(0, 1, x.shape[0])) * x**2)


@_published(-5.0, 5.0, 0.0)
def log_sum_exp(x: Float[Array, "d"]) -> Float[Array, ""]:
    """Convex, quadratic near the optimum and linear far away: the mean of log cosh (ours)."""
    return jnp.mean(jnp.logaddexp(x, -x) - jnp.log(2.0))


@_published(-5.0, 10.0, 0.0)
def zakharov(x: Float[Array, "d"]) -> Float[Array, ""]:
    """A sphere with a steep wall on two sides (Zakharov; in Chelouah and Siarry 2000)."""
    ramp = jnp.sum(0.5 * jnp.arange(1, x.shape[0] + 1) * x)
    return jnp.sum(x**2) + ramp**2 + ramp**4


@_published(-5.0, 10.0, 1.0)
def rosenbrock(x: Float[Array, "d"]) -> Float[Array, ""]:
    """A curved valley (Rosenbrock 1960), in the chained form."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


@_published(-10.0, 10.0, lambda d: 2.0 ** (2.0 ** (1 - np.arange(1, d + 1)) - 1))
def dixon_price(x: Float[Array, "d"]) -> Float[Array, ""]:
    """A chain of valleys (Dixon and Price 1989); the last coordinate has a second minimum, with the other sign."""
    return (x[0] - 1) ** 2 + jnp.sum(jnp.arange(2, x.shape[0] + 1) * (2 * x[1:] ** 2 - x[:-1]) ** 2)


@_published(-5.12, 5.12, 0.0)
def rastrigin(x: Float[Array, "d"]) -> Float[Array, ""]:
    """A bowl with many local minima (Rastrigin 1974)."""
    return jnp.sum(x**2 + 10 * (1 - jnp.cos(2 * jnp.pi * x)))


@_published(-32.768, 32.768, 0.0)
def ackley(x: Float[Array, "d"]) -> Float[Array, ""]:
    """Flat far away, a funnel in the middle (Ackley 1987), with its tip rounded off: 4e-6 at the minimum."""
    radius = jnp.sqrt(jnp.mean(x**2) + 1e-12)
    return 20 - 20 * jnp.exp(-0.2 * radius) + jnp.e - jnp.exp(jnp.mean(jnp.cos(2 * jnp.pi * x)))


@_published(-600.0, 600.0, 0.0)
def griewank(x: Float[Array, "d"]) -> Float[Array, ""]:
    """A wide bowl with ripples that couple the coordinates (Griewank 1981)."""
    return jnp.sum(x**2) / 4000 + 1 - jnp.prod(jnp.cos(x / jnp.sqrt(jnp.arange(1, x.shape[0] + 1))))


@_published(-10.0, 10.0, 1.0)
def levy(x: Float[Array, "d"]) -> Float[Array, ""]:
    """Ripples across a bowl (Levy and Montalvo 1985)."""
    w = 1 + (x - 1) / 4
    inner = (w[:-1] - 1) ** 2 * (1 + 10 * jnp.sin(jnp.pi * w[:-1] + 1) ** 2)
    last = (w[-1] - 1) ** 2 * (1 + jnp.sin(2 * jnp.pi * w[-1]) ** 2)
    return jnp.sin(jnp.pi * w[0]) ** 2 + jnp.sum(inner) + last


@_published(-5.0, 5.0, -2.9035340277711774, lambda d: -39.16616570377142 * d)
def styblinski_tang(x: Float[Array, "d"]) -> Float[Array, ""]:
    """Two minima per coordinate, one of them deeper (Styblinski and Tang 1990)."""
    return jnp.sum(x**4 - 16 * x**2 + 5 * x) / 2


@_published((-5.0, 0.0), (10.0, 15.0), (np.pi, 2.275), 1.25 / np.pi)
def branin(x: Float[Array, "2"]) -> Float[Array, ""]:
    """Three global minima in a bent valley (Branin 1972; Dixon and Szegö 1978)."""
    valley = x[1] - 5.1 / (4 * np.pi**2) * x[0] ** 2 + 5 / np.pi * x[0] - 6
    return valley**2 + 10 * (1 - 1 / (8 * np.pi)) * jnp.cos(x[0]) + 10


@_published(-2.0, 2.0, (0.0, -1.0), 3.0)
def goldstein_price(x: Float[Array, "2"]) -> Float[Array, ""]:
    """Values from 3 to a million (Goldstein and Price 1971), multiplied out less far, which rounds less."""
    s, t = x[0] + x[1], 2 * x[0] - 3 * x[1]
    return (1 + (s + 1) ** 2 * (3 * s**2 - 14 * s + 19)) * (30 + t**2 * (3 * t**2 - 16 * t + 18))


@_published((-3.0, -2.0), (3.0, 2.0), (0.08984201310031806, -0.7126564030207396), -1.0316284534898774)
def six_hump_camel(x: Float[Array, "2"]) -> Float[Array, ""]:
    """Six minima, two of them global (Dixon and Szegö 1978)."""
    return (4 - 2.1 * x[0] ** 2 + x[0] ** 4 / 3) * x[0] ** 2 + x[0] * x[1] + 4 * (x[1] ** 2 - 1) * x[1] ** 2


@_published(-4.5, 4.5, (3.0, 0.5))
def beale(x: Float[Array, "2"]) -> Float[Array, ""]:
    """A plateau with a valley and sharp peaks in the corners (Beale 1958)."""
    a, b = x[0], x[1]
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


@_published(-100.0, 100.0, (0.0, 0.0))
def bohachevsky(x: Float[Array, "2"]) -> Float[Array, ""]:
    """A bowl with small ripples (Bohachevsky et al. 1986, the first of three)."""
    ripples = 0.3 * jnp.cos(3 * jnp.pi * x[0]) + 0.4 * jnp.cos(4 * jnp.pi * x[1])
    return x[0] ** 2 + 2 * x[1] ** 2 + 0.7 - ripples


@_published(-10.0, 10.0, (1.0, 1.0, 1.0, 1.0))
def colville(x: Float[Array, "4"]) -> Float[Array, ""]:
    """Two curved valleys, coupled (Colville 1968; Wood's function)."""
    valleys = 100 * (x[0] ** 2 - x[1]) ** 2 + 90 * (x[2] ** 2 - x[3]) ** 2
    b, d = x[1] - 1, x[3] - 1
    return valleys + (x[0] - 1) ** 2 + (x[2] - 1) ** 2 + 10.1 * (b**2 + d**2) + 19.8 * b * d


DEPTHS = np.array([1.0, 1.2, 3.0, 3.2])
SHARPNESS_3 = np.array([[3.0, 10, 30], [0.1, 10, 35], [3, 10, 30], [0.1, 10, 35]])
CENTRES_3 = 1e-4 * np.array([[3689, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381, 5743, 8828]])
SHARPNESS_6 = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
CENTRES_6 = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def _wells(x, sharpness, centres):
    return -jnp.sum(DEPTHS * jnp.exp(-jnp.sum(sharpness * (x[None] - centres) ** 2, axis=1)))


@_published(0.0, 1.0, (0.11458887665506896, 0.5556488946169301, 0.8525469846866774), -3.862779787332663)
def hartmann3(x: Float[Array, "3"]) -> Float[Array, ""]:
    """Four Gaussian wells in three dimensions (Hartman 1973; Dixon and Szegö 1978)."""
    return _wells(x, SHARPNESS_3, CENTRES_3)


@_published(
    0.0, 1.0,
    (0.20168951100670543, 0.15001069182345797, 0.47687397422189703,
     0.2753324304940561, 0.31165161660011326, 0.6573005340656204),
    -3.3223680114155147,
)  # fmt: skip
def hartmann6(x: Float[Array, "6"]) -> Float[Array, ""]:
    """Four Gaussian wells in six dimensions (Hartman 1973; Dixon and Szegö 1978)."""
    return _wells(x, SHARPNESS_6, CENTRES_6)


FOXHOLES = np.array(
    [
        [4, 4, 4, 4], [1, 1, 1, 1], [8, 8, 8, 8], [6, 6, 6, 6], [3, 7, 3, 7],
        [2, 9, 2, 9], [5, 5, 3, 3], [8, 1, 8, 1], [6, 2, 6, 2], [7, 3.6, 7, 3.6],
    ]
)  # fmt: skip
WIDTHS = np.array([0.1, 0.2, 0.2, 0.4, 0.4, 0.6, 0.3, 0.7, 0.5, 0.5])


@_published(
    0.0, 10.0, (4.000746531592046, 4.000592934138532, 3.9996633980403224, 3.9995098005868077), -10.536409816692041
)
def shekel(x: Float[Array, "4"]) -> Float[Array, ""]:
    """Ten narrow holes in a plain (Shekel 1971; Dixon and Szegö 1978, m = 10)."""
    return -jnp.sum(1 / (WIDTHS + jnp.sum((x[None] - FOXHOLES) ** 2, axis=1)))
