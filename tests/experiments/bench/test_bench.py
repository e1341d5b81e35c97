"""The benchmarks: what is compared does the same work, and what is saved is what was measured."""

import json
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from typer.testing import CliRunner

import l2o
from experiments.bench import bias, collectives, influence, meta_step, scaling, update
from experiments.bench.commands import app
from experiments.bench.networks import mlp_rule
from experiments.bench.timing import Timing, in_turns, ratio
from experiments.run import Experiment
from l2o.gradient.lstm import LSTMConfig
from l2o.lift.optax import gradient_based
from l2o.registry import parse
from meta.estimator import EstimatorConfig
from meta.estimator.base import InnerRun, Windows
from meta.objective import SumConfig
from meta.trainer import MetaConfig


@pytest.fixture
def bench(tmp_path):
    """Run a command with --quick; the JSON it has saved and what it has printed."""

    def run(command, *arguments):
        out = tmp_path / "new" / command
        result = CliRunner().invoke(app, [command, "--quick", "--out", str(out), *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads((out / f"{command}.json").read_text()), result.output, out

    return run


# timing


def test_contenders_take_turns_and_the_first_turn_is_not_counted():
    calls = []

    class Plain:
        plain = True

        def __init__(self, name, seconds):
            self.name, self.seconds = name, seconds

        def __call__(self, state):
            calls.append(self.name)
            time.sleep(self.seconds + 0.2 * (state == 0))
            return state + 1

    found = in_turns({"a": (Plain("a", 0.02), 0), "b": (Plain("b", 0.0), 0)}, rounds=3, calls=2)
    assert calls == list("aabb") * 4
    assert found["a"].seconds.shape == (3,) and 0.02 <= found["a"].median < 0.1 and found["b"].median < 0.02


def test_compiled_contenders_go_on_from_their_state_and_say_what_they_cost():
    seen = []

    def step(state):
        jax.debug.callback(lambda value: seen.append(int(value)), state)
        return state + 1

    timing = in_turns({"f": (step, jnp.array(0))}, rounds=2)["f"]
    jax.effects_barrier()
    assert sorted(seen) == [0, 1, 2]
    assert timing.compile > 0 and timing.seconds.shape == (2,) and timing.median > 0


def test_a_ratio_is_taken_round_by_round():
    first, second = (Timing(0.0, np.array(seconds), 0) for seconds in ([2.0, 4.0, 80.0], [1.0, 1.0, 10.0]))
    assert ratio(first, second) == [4.0, 3.0, 6.0]


# update


@pytest.mark.slow
def test_update_saves_positive_numbers(bench, monkeypatch):
    monkeypatch.setattr(update, "SIZES", (1234,))
    found, printed, _ = bench("update")
    assert found["machine"]["devices"] == 4 and found["machine"]["jax"] == jax.__version__
    (row,) = found["rows"]
    assert row["parameters"] == 1234 and "1,234" in printed
    assert set(row["nanoseconds_per_parameter"]) == {"lstm", "adam", "haiku", "bfloat16"}
    assert all(0 < value < 1e6 for value in row["nanoseconds_per_parameter"].values())
    for name in ("lstm_over_adam", "lstm_over_haiku", "bfloat16_over_lstm"):
        median, low, high = row[name]
        assert 0 < low <= median <= high < 1e6


def test_the_plain_haiku_network_makes_the_same_updates():
    network = LSTMConfig().build()
    assert network.native is not None
    theta = network.init(jax.random.key(0))
    names = {"lstm/linear": "lstm_0", "lstm_1/linear": "lstm_1", "linear": "output"}
    weights = {name: {"w": theta[ours]["w"].T, "b": theta[ours]["b"] + 0.1} for name, ours in names.items()}
    theta = jax.tree.map(lambda a: a + 0.1 if a.ndim == 1 else a, theta)
    updates = []
    with jax.numpy_rank_promotion("allow"):
        for tx in (network.native(theta, None), update.plain_rnn(weights)):
            run, (params, state) = update.contender(tx, size=30, steps=4)
            moved, _ = jax.jit(run)((params, state))
            updates.append(moved)
    assert np.abs(updates[0]).min() > 1e-3
    np.testing.assert_allclose(updates[0], updates[1], rtol=1e-4, atol=1e-6)


# collectives


def test_collectives_are_counted_in_a_program():
    program = """
      %a = (f32[3,4]{1,0}, f32[]) all-reduce(%x, %y), to_apply=%sum
      %g = bf16[8]{0} all-gather(%z), dimensions={0}
      %s = f32[2]{0} add(%p, %q)
    """
    assert collectives.counted(program) == (2, 4 * 12 + 4 + 2 * 8)


def test_too_few_devices_to_split_over(monkeypatch):
    monkeypatch.setattr(collectives, "DEVICES", 1000)
    with pytest.raises(l2o.UserError, match=f"found {len(jax.devices())} devices, expected at least 1000"):
        collectives.split({"w": jnp.ones(4)})


# meta_step


def test_the_mlp_has_the_published_number_of_meta_parameters():
    theta = jax.eval_shape(mlp_rule().init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(theta)) == 1762


DESCENT = gradient_based(
    lambda key: {"rate": jnp.array(-3.0), "momentum": jnp.array(0.2)},
    lambda theta, horizon: optax.sgd(jnp.exp(theta["rate"]), jax.nn.sigmoid(theta["momentum"])),
)


def test_meta_steps_of_a_config(tmp_path):
    quadratics = {"kind": "quadratic", "dimension": 2}
    meta = {"steps": 30, "tasks": 2, "horizon": 4, "estimator": {"kind": "nres", "unroll_length": 3, "pairs": 5}}
    experiment = Experiment.parse({"optimizer": {"kind": "lstm", "hidden": 2}, "task": quadratics, "meta": meta}, "x")
    assert meta_step.inner_steps(experiment) == 2 * 2 * 5 * 3
    (tmp_path / "mine.toml").write_text(experiment.toml())
    arguments = ["--config", str(tmp_path / "mine.toml"), "--set", "meta.tasks=4", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["meta_step", "--quick", *arguments], catch_exceptions=False)
    row = json.loads((tmp_path / "out" / "meta_step.json").read_text())["row"]
    assert row["tasks"] == 4 and "120 inner steps in a meta-step" in result.output
    assert row["inner_steps_per_second"] == pytest.approx(120 * row["meta_steps_per_second"])
    assert row["training_seconds"] == pytest.approx(30 / row["meta_steps_per_second"])
    backprop = experiment.model_copy(update={"meta": MetaConfig(steps=1, tasks=3, horizon=4)})
    assert meta_step.inner_steps(backprop) == 3 * 4
    imitation = MetaConfig.model_validate({"steps": 1, "optimizer": {"kind": "imitation"}})
    with pytest.raises(l2o.UserError, match="expected backprop, es, pes or nres"):
        meta_step.inner_steps(experiment.model_copy(update={"meta": imitation}))
    with pytest.raises(l2o.UserError, match="name one with --config"):
        CliRunner().invoke(app, ["meta_step", "--set", "meta.tasks=4"], catch_exceptions=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["backprop", "es", "pes"])
def test_the_python_loop_estimates_what_the_compiled_steps_do(monkeypatch, kind):
    """Two windows in a row; quadratics have no randomness, so the same runs give the same losses."""
    for name, value in {"TASKS": 3, "WINDOW": 2, "HORIZON": 4, "STEPS": 2}.items():
        monkeypatch.setattr(meta_step, name, value)
    loop = meta_step.PythonLoop(DESCENT, kind)
    *first, step = loop.first(DESCENT)
    theta, _, states, params, _, _ = first

    @jax.jit
    def gradients(first):
        seen = []
        monkeypatch.setattr(loop, "update", lambda theta, state, gradient: (seen.append(gradient) or theta, state))
        assert loop((*first, step))[-1] == 2
        return seen

    objective, family = SumConfig().build(), meta_step.family()
    zeros = jnp.zeros(len(params[1]), jnp.int32)
    runs = InnerRun(jnp.zeros((len(zeros), 2), jnp.uint32), params, states, (), zeros)
    config = parse(EstimatorConfig, {"kind": "backprop", "unroll_length": 2})
    estimate = jax.jit(config.build(DESCENT, objective, 4, 3).estimate)
    advance = jax.jit(jax.vmap(lambda theta, run: Windows(DESCENT, objective, 2).advance(theta, run, family)))
    total, steps = 0.0, gradients(first)
    for step, found in enumerate(steps):
        if kind == "backprop":
            expected, runs, _ = estimate(theta, runs, family)
        else:
            thetas, noise = loop.perturb(theta, jax.random.fold_in(jax.random.key(2), step))
            runs, losses, _ = advance(thetas, runs)
            total = jax.tree.map(jnp.add, total, noise) if step and kind == "pes" else noise
            weight = (losses[:3] - losses[3:]) / (2 * loop.sigma * 3)
            expected = jax.tree.map(lambda e, w=weight: jnp.sum(w * e), total)
            if kind == "es":
                both = jax.tree.map(lambda a: jnp.concatenate([a[:3], a[:3]]), runs.state)
                runs = runs._replace(state=both)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected)
    assert not np.allclose(steps[0]["rate"], steps[1]["rate"], rtol=0.1)


# scaling


@pytest.mark.parametrize(("power", "expected"), [(1, 1.0), (2, None)])
def test_growth_is_the_time_per_unit_against_the_first(monkeypatch, power, expected):
    """A cost that is linear in tasks, window length and parameters does not grow; a quadratic one does."""

    def contender(estimator, tasks, unroll_length, width, **fields):
        size = 75 * width + 10
        return (tasks * unroll_length * size) ** power, None, size

    def turns(contenders, rounds):
        return {name: SimpleNamespace(median=cost, temporary=1, compile=1.0) for name, (cost, _) in contenders.items()}

    monkeypatch.setattr(scaling, "contender", contender)
    monkeypatch.setattr(scaling, "in_turns", turns)
    rows = [row for row in scaling.run()["rows"] if row["axis"] != "remat"]
    assert [(row["estimator"], row["axis"]) for row in rows[::3]] == [
        (estimator, axis) for estimator in ("backprop", "pes") for axis in ("tasks", "unroll_length", "width")
    ]
    for row in rows:
        others = {name: value for name, value in scaling.CENTRE.items() if name != row["axis"]}
        assert others.items() <= row.items() and row[row["axis"]] in scaling.GRID[row["axis"]]
        units = scaling.GRID["width"][0] * 75 + 10 if row["axis"] == "width" else scaling.GRID[row["axis"]][0]
        grown = row["parameters" if row["axis"] == "width" else row["axis"]] / units
        np.testing.assert_allclose(row["growth"], expected or grown)


# bias


def test_the_exact_gradient_is_the_derivative_of_the_exact_loss():
    for theta, horizon in ((0.5, 100), (-0.2, 7)):
        (low, _), (high, _) = (influence.exact(theta + offset, horizon) for offset in (-1e-4, 1e-4))
        np.testing.assert_allclose(influence.exact(theta, horizon)[1], (high - low) / 2e-4, rtol=1e-6)


@pytest.mark.slow
def test_backprop_through_the_whole_run_learns_as_the_exact_gradient_does():
    config = parse(EstimatorConfig, {"kind": "backprop", "unroll_length": 30, "stagger": False})
    found = influence.learn(config, horizon=30, steps=6, tasks=1, rate=0.05)
    adam, theta, expected = optax.adam(0.05), jnp.asarray(0.5), [0.5]
    state = adam.init(theta)
    for _ in range(6):
        step, state = adam.update(jnp.asarray(influence.exact(theta, 30)[1]), state)
        theta = jnp.asarray(optax.apply_updates(theta, step))
        expected.append(float(theta))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_bias_saves_means_and_errors_and_draws(bench, monkeypatch):
    asked = []

    def estimates(config, theta, horizon, repeats):
        asked.append((config, float(theta), horizon))
        return np.array([1.0, 3.0, 5.0, 7.0]) if repeats > 1 else np.array([2.5])

    monkeypatch.setattr(bias, "estimates", estimates)
    monkeypatch.setattr(bias, "learn", lambda config, horizon, steps, tasks, rate: np.linspace(0.5, 0.0, steps + 1))
    found, printed, out = bench("bias")
    assert (out / "influence_balancing.png").read_bytes().startswith(b"\x89PNG")
    _, exact = influence.exact(0.5, 100)
    losses = [influence.exact(found["best_theta"] + offset, 100)[0] for offset in (-0.01, 0.0, 0.01)]
    assert losses[1] < min(losses[0], losses[2])
    assert len(found["rows"]) == len(asked) == 6
    for row, (config, theta, horizon) in zip(found["rows"], asked, strict=True):
        assert (theta, horizon, row["exact"]) == (0.5, 100, exact) and not config.stagger
        assert row["estimator"].startswith(config.kind) and row["estimator"] in printed
        noisy = config.kind != "backprop"
        mean, error, spread = (4.0, (20 / 3 / 4) ** 0.5, (20 / 3) ** 0.5) if noisy else (2.5, 0.0, 0.0)
        np.testing.assert_allclose([row["mean"], row["standard_error"], row["spread"]], [mean, error, spread])
        assert len(row["theta"]) == 51 and row["theta"][-1] == 0.0


# proposal


@pytest.mark.slow
def test_proposals_are_timed_in_both_ways_beside_gp_ei(bench):
    found, output, _ = bench("proposal")
    rows = {row["optimizer"]: row for row in found["rows"]}
    assert {"rnn, no memory", "gp_ei"} <= set(rows)
    assert rows["gp_ei"]["gp_ei_over"] == [1.0, 1.0, 1.0]
    assert all(row["microseconds_inside"] > 0 and row["microseconds_from_python"] > 0 for row in rows.values())
    assert "gp_ei" in output


# generation


@pytest.mark.slow
def test_generations_are_timed_beside_evosax(bench):
    with jax.numpy_rank_promotion("allow"):  # evosax's algorithms do
        found, output, _ = bench("generation")
    rows = {row["strategy"]: row for row in found["rows"]}
    assert {"les", "rma", "evosax_les", "cma_es"} <= set(rows)
    assert rows["evosax_les"]["evosax_les_over"] == [1.0, 1.0, 1.0]
    assert all(row["generations_per_second"] > 0 for row in rows.values())
    assert [row["strategy"] for row in found["meta_training"]] == ["les", "lga", "rma"]
    assert all(row["evaluations_per_second"] > 0 for row in found["meta_training"])
    assert "million evaluations per second" in output


# suggestion


@pytest.mark.slow
def test_suggestions_are_timed_with_the_cache_and_without(bench):
    found, output, _ = bench("suggestion")
    assert 1e3 < found["parameters"] < 1e5, "a small network, as it is quick"
    for row in found["rows"]:
        assert row["milliseconds"]["cache"] > 0 and row["milliseconds"]["again"] > 0
        assert str(row["trials"]) in output


# tuners


@pytest.mark.slow
def test_tuners_are_timed_side_by_side(bench):
    found, output, _ = bench("tuners")
    assert {"optformer, EI", "optformer, prior", "gp_ucb", "Optuna's TPE"} <= set(found["rows"])
    assert found["rows"]["optformer, EI"]["ratio"] == [1.0, 1.0, 1.0]
    assert all(row["milliseconds"] > 0 for row in found["rows"].values())
    assert "times as long" in output


@pytest.mark.slow
def test_rules_are_compared_with_muon(bench):
    rows = bench("rules")[0]["rows"]
    assert {row["rule"] for row in rows} >= {"muon", "polar", "learned_polar", "mlp"}
    for row in rows:
        assert row["milliseconds"] > 0 and row["compile_seconds"] > 0
        if row["rule"] == "muon":
            assert row["over_muon"] == [1.0, 1.0, 1.0]
    state = {row["rule"]: row["state_bytes_per_parameter"] for row in rows if row["tree"] == "matrices"}
    assert state["polar"] == pytest.approx(4, abs=0.1) and state["learned_polar"] == pytest.approx(8, abs=0.1)
