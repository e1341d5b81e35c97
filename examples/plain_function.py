"""The minimum of a plain Python function, from its values alone.

`rnn` is a learned black-box optimizer for up to six numbers. Random search has the same number of evaluations.
"""

import math

import l2o


def branin(x):
    """It has three minima, of 0.398."""
    return (x[1] - 5.1 / (4 * math.pi**2) * x[0] ** 2 + 5 / math.pi * x[0] - 6) ** 2 + 9.6 * math.cos(x[0]) + 10


bounds = [(-5, 10), (0, 15)]
found = {name: l2o.minimize(branin, bounds, name, budget=40, seed=0) for name in ("rnn", "random")}
for name, best in found.items():
    print(f"{name}: {best.fun:.3f} at ({best.x[0]:.2f}, {best.x[1]:.2f}) after {best.nfev} evaluations")
assert found["rnn"].fun < min(0.6, found["random"].fun)
