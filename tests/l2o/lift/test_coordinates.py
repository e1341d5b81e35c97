"""Tuners of other libraries behind the contract: what they are told of a space, and what is told to them."""

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from l2o import Evaluation, HostOptimizer, Problem, SearchSpace, Space, UserError
from l2o.baselines import hebo
from l2o.baselines.hebo import HEBOConfig
from l2o.baselines.optuna import OptunaGPConfig, TPEConfig
from l2o.baselines.smac import SMACConfig
from l2o.core import BaselineConfig
from l2o.lift import coordinates as lift
from l2o.lift.coordinates import Coordinate, coordinates, from_tuner, not_installed, whole

MIXED = SearchSpace.from_dict({
    "rate": {"kind": "float", "low": 1e-4, "high": 1.0, "scale": "log"},
    "momentum": {"kind": "float", "low": 0.1, "high": 0.9, "scale": "reverse_log"},
    "kernel": ["a", "b", "c"],
    "units": {"kind": "integer", "low": 16, "high": 512, "scale": "log"},
    "drop": {"kind": "discrete", "values": [0, 0.3, 0.6]},
}).space  # fmt: skip
OTHERS = (OptunaGPConfig, SMACConfig, HEBOConfig)


class Counter:
    """Proposes the lower bounds, then a step further each time, and remembers what it is told."""

    def __init__(self, declared, seed, horizon):
        self.declared, self.seed, self.horizon, self.asked, self.told = declared, seed, horizon, 0, []

    def suggest(self):
        self.asked += 1
        return np.array([each.low for each in self.declared]) + self.asked

    def observe(self, setting, value):
        self.told.append((setting.tolist(), value))


def test_coordinates_are_what_the_parameters_are():
    found = coordinates(MIXED)
    assert [(each.kind, each.log) for each in found] == [
        ("float", True), ("float", False), ("category", False), ("integer", True), ("integer", False),
    ]  # fmt: skip
    np.testing.assert_allclose([each[1:3] for each in found], [(1e-4, 1), (0.1, 0.9), (0, 2), (16, 512), (0, 2)])
    box = coordinates(Space.box(jnp.zeros(2), jnp.ones(2)))
    assert box == [Coordinate("float", 0.0, 1.0, log=False)] * 2


def test_numbers_are_of_the_kind_of_their_coordinate():
    integer, real = Coordinate("integer", 1.0, 9.0, log=False), Coordinate("float", 0.0, 1.0, log=False)
    assert [whole(x, integer) for x in (2.6, -1, 20.0)] == [3, 1, 9] and isinstance(whole(2.6, integer), int)
    assert whole(np.float32(0.5), real) == 0.5 and whole(1.0000001, real) == 1.0


def test_a_tuner_is_asked_and_told_in_the_coordinates_of_the_space():
    optimizer = from_tuner(Counter, "counter")
    state = optimizer.init(jax.random.key(0), Problem(MIXED, MIXED.low, horizon=7))
    tuner = state[0]
    assert tuner.horizon == 7 and 0 <= tuner.seed < 2**31 and tuner.declared == coordinates(MIXED)
    x, state = optimizer.ask(jax.random.key(1), state)
    np.testing.assert_allclose(x[0], [1.0, 0.9, 1, 17, 1])  # beyond the bounds: the nearest point
    other = jnp.stack([MIXED.low, x[0]])
    optimizer.tell(jax.random.key(2), state, other, Evaluation(jnp.array([jnp.nan, 2.0])))
    (first, failed), (second, value) = tuner.told
    np.testing.assert_allclose([first, second], other, rtol=1e-6)
    assert np.isnan(failed) and value == 2.0
    with pytest.raises(UserError, match="counter needs a space with bounds"):
        optimizer.init(jax.random.key(0), Problem(Space.free(), jnp.zeros(2)))


def test_what_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setattr(lift, "find_spec", lambda module: module == "there" or None)
    assert not_installed("mine", {"there": "There"}) == ""
    assert not_installed("mine", {"a": "A"}) == "mine needs A, which is not installed: pip install A"
    both = "mine needs A and B, which are not installed: pip install A B"
    assert not_installed("mine", {"a": "A", "there": "There", "b": "B"}) == both
    assert TPEConfig().lacks == "tpe needs optuna, which is not installed: pip install optuna"
    for config in OTHERS:
        optimizer = config().build()
        assert isinstance(optimizer, HostOptimizer)
        with pytest.raises(UserError, match=f"{config().kind} needs .*: pip install"):
            optimizer.init(jax.random.key(0), Problem(MIXED, MIXED.low))


def test_a_package_that_does_not_fit_is_one_sentence(monkeypatch):
    def fails(module):
        raise ModuleNotFoundError("No module named 'pymoo.factory'")

    monkeypatch.setattr(lift, "find_spec", lambda module: True)
    monkeypatch.setattr(hebo, "import_module", fails)
    assert HEBOConfig().lacks == "hebo is installed, but cannot be imported: No module named 'pymoo.factory'"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [config().kind for config in OTHERS])
def test_theirs_go_on_after_failures_and_are_the_same_again(kind):
    config = l2o.kinds(BaselineConfig)[kind]()
    if config.lacks:
        pytest.skip(config.lacks)

    def value(x):
        return jnp.log10(x[0]) ** 2 + (x[1] - 0.3) ** 2 + (x[2] != 1) + jnp.log2(x[3] / 64) ** 2 + x[4]

    def run():
        optimizer, found = config.build(), []
        state = optimizer.init(jax.random.key(0), Problem(MIXED, MIXED.low, horizon=16))
        for t in range(16):
            x, state = optimizer.ask(jax.random.key(t), state)
            assert MIXED.contains(x[0])
            found.append((np.asarray(x[0]).tolist(), jnp.nan if t in (0, 6) else float(value(x[0]))))
            state = optimizer.tell(jax.random.key(t), state, x, Evaluation(jnp.array([found[-1][1]])))
            if t == 3:  # a point that was never asked for
                state = optimizer.tell(jax.random.key(t), state, MIXED.low[None], Evaluation(value(MIXED.low)[None]))
        return found

    first = run()
    assert [x for x, _ in first] == [x for x, _ in run()]
    assert len({tuple(x) for x, _ in first}) > 12, "they do not repeat themselves"


@pytest.mark.skipif(find_spec("optuna") is None, reason="the extra `optuna` is not installed")
def test_optuna_is_told_of_every_kind():
    state = TPEConfig().build().init(jax.random.key(0), Problem(MIXED, MIXED.low))
    kinds = [(type(each).__name__, getattr(each, "log", None)) for each in state.distributions.values()]
    assert kinds == [
        ("FloatDistribution", True), ("FloatDistribution", False), ("CategoricalDistribution", None),
        ("IntDistribution", True), ("IntDistribution", False),
    ]  # fmt: skip
