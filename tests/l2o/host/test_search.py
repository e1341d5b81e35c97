"""Minimizing a plain Python function: bounds, seeds, failures, workers, logs and what is refused."""

import json
import math
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import l2o
from l2o import HostOptimizer, Optimizer, Problem, Search, Space, Task, UserError, minimize, registry, unroll
from l2o.host.proposals import Proposer, source
from l2o.host.view import BoxView

BOUNDS = [(-5, 10), (0.0, 15.0)]
ROOT = Path(l2o.__file__).resolve().parent.parent


def bowl(x):
    return float(((x - 1) ** 2).sum())


def moody(x):
    """Deterministic, and fails in every way there is."""
    which = int(abs(x[0]) * 1e4) % 7
    if which == 0:
        raise ZeroDivisionError("not here")
    return {1: math.nan, 2: math.inf, 3: -math.inf}.get(which, bowl(x))


def population_optimizer(n):
    """A population around the best point so far, which may leave the cube."""

    def init(key, problem):
        return problem.start, jnp.asarray(jnp.inf), jnp.zeros((), jnp.int32), problem.horizon

    def ask(key, state):
        best, _, t, horizon = state
        width = 0.5 * (1.5 - t / horizon)
        return best[None] + width * jax.random.normal(key, (n, *best.shape)), state

    def tell(key, state, x, evaluation):
        best, value, t, horizon = state
        new = jnp.where(jnp.isfinite(evaluation.value), evaluation.value, jnp.inf)
        i = jnp.argmin(new)
        return jnp.where(new[i] < value, x[i], best), jnp.minimum(value, new[i]), t + 1, horizon

    return Optimizer(init, ask, tell)


def host_optimizer():
    """The same in numpy, two at a time."""

    def init(key, problem):
        return {"best": np.asarray(problem.start, np.float64), "value": math.inf, "told": 0}

    def ask(key, state):
        noise = np.asarray(jax.random.normal(key, (2, state["best"].size)))
        return state["best"][None] + 0.2 * noise, state

    def tell(key, state, x, evaluation):
        value = np.asarray(evaluation.value)
        state = {**state, "told": state["told"] + 1}
        if np.nanmin(np.append(value, np.inf)) < state["value"]:
            i = int(np.nanargmin(value))
            state |= {"best": np.asarray(x[i]), "value": float(value[i])}
        return state

    return HostOptimizer(init, ask, tell)


FOUR = population_optimizer(4)
ONE = population_optimizer(1)
HOST = host_optimizer()
OPTIMIZERS = {"random": "random", "sobol": "sobol", "one": ONE, "four": FOUR, "host": HOST}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


class NearestConfig(l2o.OptimizerConfig):
    """A learned optimizer that needs no gradients."""

    kind: Literal["nearest"] = "nearest"

    def build(self):
        def bind(theta):
            def ask(key, state):
                return state[0][None] + theta["width"] * jax.random.normal(key, (1, *state[0].shape)), state

            def init(key, problem):
                return problem.start, jnp.asarray(jnp.inf)

            def tell(key, state, x, evaluation):
                better = evaluation.value[0] < state[1]
                return jnp.where(better, x[0], state[0]), jnp.where(better, evaluation.value[0], state[1])

            return Optimizer(init, ask, tell)

        return l2o.LearnedOptimizer(lambda key: {"width": jnp.asarray(0.1)}, bind)


@pytest.fixture
def artifact(tmp_path, monkeypatch):
    """A directory with a trained optimizer that needs no gradients."""
    monkeypatch.setitem(registry._KINDS[l2o.OptimizerConfig], "nearest", NearestConfig)
    return l2o.save(tmp_path / "artifact", NearestConfig(), {"width": jnp.asarray(0.2)})


def record(history):
    """What must be equal between equal runs."""
    return [(t.number, t.x.tolist(), repr(t.value), t.error) for t in history]


def events(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


# Proposals


@every_optimizer
def test_finds_something_with_every_budget(optimizer):
    for budget in (1, 3, 4, 9, 40):  # 4 and 2 need not divide it
        result = minimize(bowl, BOUNDS, optimizer, budget=budget, seed=0)
        assert result.nfev == budget == len(result.history)
        assert result.success and result.status == 0 and "spent" in result.message
        assert result.fun == min(t.value for t in result.history) == bowl(result.x)
        assert [t.number for t in result.history] == list(range(budget))
        assert all(t.seconds >= 0 for t in result.history)
    assert result.fun < 40


@pytest.mark.parametrize("n", [1, 4])
def test_is_the_unroll(n):
    """The same optimizer, task and seed give the same run, here and in the one scan."""
    optimizer, budget = population_optimizer(n), 12
    result = minimize(
        lambda u: float(np.float32(((u - 0.3) ** 2).sum())), [(0, 1)] * 3, optimizer, budget=budget, seed=5
    )

    def evaluate(key, x):
        return l2o.Evaluation(jnp.sum((jnp.clip(x, 0, 1) - 0.3) ** 2, axis=1))

    def ask(key, state):  # the search keeps proposals in the cube
        x, state = optimizer.ask(key, state)
        return jnp.clip(x, 0, 1), state

    space = Space.box(jnp.zeros(3), jnp.ones(3))
    problem = Problem(space, jnp.full(3, 0.5), jnp.asarray(0.3), jnp.asarray(budget // n))
    init_key, run_key = jax.random.split(jax.random.key(5))
    state = optimizer.init(init_key, problem)
    steps = budget // n
    _, trajectory = unroll(optimizer._replace(ask=ask), Task(problem, evaluate), state, run_key, steps)
    np.testing.assert_allclose([t.x for t in result.history], np.concatenate(trajectory.x), rtol=1e-4, atol=1e-5)


finite = st.floats(-1e300, 1e300) | st.sampled_from([-1.7e308, 1.7e308, 1e-8, 1e8, 0.0, 5e-324])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(finite, finite).filter(lambda b: b[0] != b[1]), min_size=1, max_size=3), st.integers(0, 9))
def test_proposals_are_inside_any_box(bounds, seed):
    bounds = [tuple(sorted(b)) for b in bounds]
    search = Search(bounds, FOUR, budget=12, seed=seed)
    low, high = np.array(bounds).T
    for _ in range(9):
        trial = search.ask()
        assert trial.x.dtype == np.float64 and trial.x.shape == (len(bounds),)
        assert ((low <= trial.x) & (trial.x <= high)).all()
        search.observe(trial, float(np.sign(trial.x[0])))


def test_both_ends_are_reached_exactly():
    bounds = [(1e-8, 1e8), (-0.1, 0.3)]
    everywhere = Optimizer(
        lambda key, problem: (), lambda key, state: (jnp.array([[-1.0, 0.0], [2.0, 1.0]]), state), lambda k, s, x, e: s
    )
    result = minimize(bowl, bounds, everywhere, budget=2)
    np.testing.assert_array_equal([t.x for t in result.history], np.array(bounds).T)


@every_optimizer
def test_the_seed_decides_everything(optimizer):
    runs = [minimize(moody, BOUNDS, optimizer, budget=10, seed=seed) for seed in (3, 3, 4)]
    assert record(runs[0].history) == record(runs[1].history) != record(runs[2].history)


def test_the_optimizer_knows_the_number_of_rounds():
    told = []

    def init(key, problem):
        told.append(int(problem.horizon))
        return ()

    spy = HostOptimizer(init, lambda key, state: (np.full((4, 1), 0.5), state), lambda key, state, x, evaluation: state)
    minimize(bowl, [(0, 1)], spy, budget=10)
    assert told[-1] == 3


def test_an_optimizer_on_the_host_is_told_doubles():
    told = []

    def tell(key, state, x, evaluation):
        told.extend(np.asarray(evaluation.value).tolist())
        return state

    spy = HostOptimizer(lambda key, problem: (), lambda key, state: (np.full((1, 1), 0.5), state), tell)
    search = Search([(0, 1)], spy, budget=10)
    for value in (1.5, math.nan, math.inf, -math.inf, 1e300, np.float32(2), jnp.asarray([3.0]), True, 10**400):
        search.observe(search.ask(), value)
    search.observe(search.ask(), 1.0, error="lost")
    search.ask()
    expected = [1.5, math.nan, math.nan, math.nan, 1e300, 2.0, 3.0, 1.0, math.nan, math.nan]
    np.testing.assert_array_equal(told, expected)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30), st.sampled_from(["random", "four", "host"]))
def test_results_in_any_order_and_the_log_repeats_it(tmp_path_factory, choices, name):
    """0 asks, another number observes one of the open trials; after that a second search from the log agrees."""
    path = tmp_path_factory.mktemp("search") / "log"
    with Search(BOUNDS, OPTIMIZERS[name], budget=20, log=path) as search:
        waiting = []
        for choice in choices:
            if choice == 0 or not waiting:
                waiting.append(search.ask())
            else:
                trial = waiting.pop(choice % len(waiting))
                search.observe(trial, math.nan if int(abs(trial.x[0]) * 1e4) % 5 == 0 else bowl(trial.x))
        upcoming = [search.ask() for _ in range(3)]
    with Search(BOUNDS, OPTIMIZERS[name], budget=20, log=path) as again:
        assert record(again.history) == record(search.history)
        repeated = [again.ask() for _ in range(len(waiting) + 3)]
        expected = sorted([*waiting, *upcoming], key=lambda t: t.number)
        assert record(repeated) == record(expected)
        following = again.ask()
        assert following.number == max(t.number for t in expected) + 1
    assert again.best is None or again.best.value == search.best.value


def test_a_diverged_optimizer_is_named():
    nan = Optimizer(lambda key, problem: (), lambda key, s: (jnp.full((1, 2), jnp.nan), s), lambda k, s, x, e: s)
    with pytest.raises(RuntimeError, match="not finite"):
        Search(BOUNDS, nan).ask()


def test_learned_optimizers(artifact):
    loaded = l2o.load(artifact)
    runs = [minimize(bowl, BOUNDS, optimizer, budget=30) for optimizer in (artifact, str(artifact), loaded)]
    assert record(runs[0].history) == record(runs[1].history) == record(runs[2].history)
    assert record(runs[0].history) == record(minimize(bowl, BOUNDS, loaded.optimizer, budget=30).history)
    assert [run.optimizer for run in runs] == [str(artifact), str(artifact), "nearest"]
    assert runs[0].fun < 20


def test_baselines_with_settings(tmp_path):
    kinds = l2o.kinds(l2o.BaselineConfig)
    log = tmp_path / "log"
    result = minimize(bowl, BOUNDS, kinds["sobol"](max_trials=8), budget=8, log=log)
    assert result.optimizer == "sobol"
    with pytest.raises(UserError, match="its optimizer has other settings"):
        minimize(bowl, BOUNDS, "sobol", budget=8, log=log)


# What is known, and guesses


@every_optimizer
def test_guesses_come_first_and_what_is_known_does_not_count(optimizer, tmp_path):
    guesses, known = [(1, 2), np.array([3.5, 4])], [((0, 0), 2.0), ([1.0, 1.0], math.nan), ((1, 1), 0.25)]
    calls = []

    def f(x):
        calls.append(x.tolist())
        return 7.0 if len(calls) < 6 else 6.0

    call = dict(bounds=BOUNDS, optimizer=optimizer, budget=6, guesses=guesses, known=known)
    result = minimize(f, log=tmp_path / "whole", **call)
    assert calls[:2] == [[1, 2], [3.5, 4]] and len(calls) == result.nfev == 6
    assert [t.known for t in result.history] == [True] * 3 + [False] * 6
    assert result.fun == 0.25 and result.x.tolist() == [1, 1] and result.status == 0
    for kept in range(1, 15):  # killed after any line
        lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
        (tmp_path / "part").write_bytes(b"".join(lines[:kept]))
        calls[:] = calls[: sum(b"told" in line for line in lines[:kept])]
        assert record(minimize(f, log=tmp_path / "part", **call).history) == record(result.history)
    for other in ({"guesses": guesses[:1]}, {"known": ()}):
        with pytest.raises(UserError, match=f"its {next(iter(other))} is"):
            minimize(f, log=tmp_path / "whole", **call | other)


@pytest.mark.parametrize("n", [1, 4])
def test_an_optimizer_is_told_what_is_known(n):
    """Whether it asks for one point, or for four of which one is replaced."""
    search = Search([(0, 1)] * 2, population_optimizer(n), known=[((0.9, 0.1), -5.0), ((0.5, 0.5), 0.0)])
    for _ in range(8):
        search.observe(search.ask(), 1.0)
    search.ask()
    best, value, rounds, _ = search._suggester._proposer._carry[1]
    np.testing.assert_allclose(best, [0.9, 0.1])
    assert value < 0 and rounds == {1: 10, 4: 2}[n]


def test_a_trial_is_told_by_its_number_a_copy_or_a_point():
    search = Search(BOUNDS, "random")
    trials = [search.ask() for _ in range(4)]
    search.observe(2, 1.0)
    search.observe(np.int64(1), 2.0)
    search.observe(pickle.loads(pickle.dumps(trials[0])), 3.0)
    search.observe([1, 2], 0.5, seconds=2.0)
    assert [t.value for t in search.history] == [3.0, 2.0, 1.0, None, 0.5]
    assert [t.number for t in search.result().history] == [2, 1, 0, 4]
    assert [t.state for t in trials] == ["complete"] * 3 + ["pending"]
    assert search.best.known and search.evaluations == 3


# Evaluations


def test_failed_evaluations_do_not_end_the_run():
    result = minimize(moody, BOUNDS, "random", budget=60)
    failed = [t for t in result.history if t.error]
    assert {t.error for t in failed} == {
        "ZeroDivisionError: not here",
        "the value is nan",
        "the value is inf",
        "the value is -inf",
    }
    assert all(t.value is None and t.state == "infeasible" for t in failed) and result.nfev == 60
    assert result.fun == min(t.value for t in result.history if not t.error)


@pytest.mark.parametrize("workers", [1, 3])
def test_all_evaluations_failed(workers):
    def broken(x):
        raise NameError("name 'y' is not defined")

    result = minimize(broken, BOUNDS, FOUR, budget=6, workers=workers)
    assert not result.success and result.status == 2 and result.x is None and math.isnan(result.fun)
    assert result.nfev == 6 and "all 6 failed" in result.message and "NameError: name 'y'" in result.message


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("3", "str '3'"),
        (None, "NoneType None"),
        (1j, "complex 1j"),
        (np.complex64(1), "complex64"),
        (np.zeros(2), r"shape \(2,\)"),
        (np.zeros(0), r"shape \(0,\)"),
        (jnp.zeros((1, 3)), r"shape \(1, 3\)"),
        (np.array(["a"]), r"shape \(1,\)"),
        ([1.0], r"list \[1.0\]"),
    ],
)
def test_what_is_not_a_number_is_refused_and_the_log_kept(tmp_path, value, found, workers):
    log, calls = tmp_path / "log", []

    def f(x):
        calls.append(1)
        return bowl(x) if len(calls) < 3 else value

    with pytest.raises(UserError, match=f"must be one real number, found .*{found}"):
        minimize(f, BOUNDS, "random", budget=8, log=log, workers=workers)
    assert len([e for e in events(log) if "told" in e]) >= 1
    assert minimize(bowl, BOUNDS, "random", budget=8, log=log).nfev == 8


def test_f_may_change_its_argument():
    def f(x):
        x *= 0
        return 1.0

    result = minimize(f, BOUNDS, "random", budget=3)
    assert all(t.x.any() for t in result.history)


def test_history_cannot_be_changed_by_accident():
    trial = Search(BOUNDS, "random").ask()
    with pytest.raises(ValueError, match="read-only"):
        trial.x[0] = 1


def test_callback_sees_the_run_and_may_stop_it():
    seen = []

    def callback(intermediate_result):
        seen.append((intermediate_result.nfev, intermediate_result.fun))
        if len(seen) == 5:
            raise StopIteration

    result = minimize(bowl, BOUNDS, "random", budget=20, callback=callback)
    assert [n for n, _ in seen] == [1, 2, 3, 4, 5] and seen[-1][1] == result.fun
    assert result.nfev == 5 and result.status == 1 and result.success and "StopIteration" in result.message


def test_a_stop_waits_for_what_is_running():
    def callback(intermediate_result):
        raise StopIteration

    result = minimize(bowl, BOUNDS, "random", budget=20, callback=callback, workers=3)
    assert 1 <= result.nfev <= 3 and result.status == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_propagates_and_the_log_goes_on(tmp_path, workers):
    log = tmp_path / "log"

    def f(x):
        if sum(b"told" in line for line in log.read_bytes().splitlines()) >= 4:
            raise KeyboardInterrupt
        return bowl(x)

    with pytest.raises(KeyboardInterrupt):
        minimize(f, BOUNDS, FOUR, budget=10, log=log, workers=workers)
    assert minimize(bowl, BOUNDS, FOUR, budget=10, log=log, workers=workers).nfev == 10


@every_optimizer
def test_workers_make_every_evaluation_once(optimizer, tmp_path):
    lock, together, calls = threading.Barrier(3), [], []

    def f(x):
        calls.append(tuple(x))
        if len(calls) <= 3:
            lock.wait(timeout=30)  # passes only if three run at the same time
            together.append(1)
        return moody(x)

    result = minimize(f, BOUNDS, optimizer, budget=17, workers=3, log=tmp_path / "log")
    assert len(together) == 3
    assert sorted(calls) == sorted(tuple(t.x) for t in result.history)
    assert sorted(t.number for t in result.history) == list(range(17))
    assert sorted(e["told"] for e in events(tmp_path / "log") if "told" in e) == list(range(17))


def test_result_is_readable():
    result = minimize(bowl, BOUNDS, "random", budget=3)
    assert "message: the budget is spent" in str(result) and "fun: " in str(result)
    assert "history" not in str(result) and repr(result).startswith("Result(x=array(")


# The log


@every_optimizer
@settings(max_examples=20, deadline=None)
@given(lines=st.integers(0, 23), part=st.floats(0, 1))
def test_resumed_is_uninterrupted(optimizer, tmp_path_factory, lines, part):
    """A kill after any byte of the log changes nothing but the evaluations that are made again: at most one."""
    folder = tmp_path_factory.mktemp("search")
    whole = minimize(moody, BOUNDS, optimizer, budget=11, seed=2, log=folder / "whole")
    written = [*(folder / "whole").read_bytes().splitlines(keepends=True), b""]
    kept = b"".join(written[:lines]) + written[lines][: int(part * len(written[lines]))]
    (folder / "cut").write_bytes(kept)
    calls = []

    def f(x):
        calls.append(1)
        return moody(x)

    resumed = minimize(f, BOUNDS, optimizer, budget=11, seed=2, log=folder / "cut")
    assert record(resumed.history) == record(whole.history)
    assert (resumed.fun, resumed.nfev, resumed.message) == (whole.fun, whole.nfev, whole.message)
    assert events(folder / "cut") == events(folder / "whole")
    assert len(calls) == 11 - len([line for line in kept.split(b"\n")[:-1] if line.startswith(b'{"told')])


def test_workers_resume(tmp_path):
    log, calls = tmp_path / "log", []
    with Search(BOUNDS, FOUR, budget=10, log=log) as search:
        trials = [search.ask() for _ in range(6)]
        for trial in (trials[4], trials[0]):
            search.observe(trial, bowl(trial.x))
    result = minimize(lambda x: calls.append(tuple(x)) or bowl(x), BOUNDS, FOUR, budget=10, workers=3, log=log)
    assert [t.number for t in result.history[:2]] == [4, 0]
    assert sorted(t.number for t in result.history) == list(range(10))
    assert set(calls[:3]) == {tuple(trials[i].x) for i in (1, 2, 3)} and len(calls) == 8


def test_a_finished_log_calls_and_compiles_nothing(tmp_path):
    whole = minimize(moody, BOUNDS, FOUR, budget=5, log=tmp_path / "log")
    again = minimize(lambda x: pytest.fail(), BOUNDS, FOUR, budget=5, log=str(tmp_path / "log"))
    assert record(again.history) == record(whole.history) and again.proposal_seconds == 0
    np.testing.assert_array_equal(again.x, whole.x)


def test_a_logged_point_counts_more_than_the_proposed_one(tmp_path):
    """A log from a machine that rounds otherwise goes on from what was evaluated there."""
    log = tmp_path / "log"
    minimize(bowl, BOUNDS, ONE, budget=6, log=log)
    lines = log.read_text().splitlines(keepends=True)
    lines[1] = json.dumps({"asked": 0, "x": [1.0, 1.0]}) + "\n"
    lines[2] = json.dumps({"told": 0, "value": -1.0, "error": None, "seconds": None}) + "\n"
    log.write_text("".join(lines[:3]))
    resumed = minimize(bowl, BOUNDS, ONE, budget=6, log=log)
    assert resumed.fun == -1.0 and resumed.x.tolist() == [1.0, 1.0]
    # told the same point and value by hand
    proposer = Proposer(source(ONE), BoxView(np.zeros(2), np.ones(2)).space, 6, 0)
    first = proposer.propose()
    proposer.replace(first, np.array([6 / 15, 1 / 15]))
    proposer.tell(first, -1.0)
    np.testing.assert_allclose(resumed.history[1].x, np.array([-5, 0]) + 15 * proposer.propose().x, atol=1e-5)


OTHERS = {
    "seed": {"seed": 1},
    "budget": {"budget": 7},
    "bounds": {"bounds": [(-5, 10), (0.0, 16.0)]},
    "optimizer": {"optimizer": "sobol"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_log_of_another_run_is_refused(tmp_path, name):
    call = {"bounds": BOUNDS, "optimizer": "random", "budget": 5, "seed": 0, "log": tmp_path / "log"}
    minimize(bowl, **call)
    content = (tmp_path / "log").read_bytes()
    with pytest.raises(UserError, match=f"the log of another search, its {name} is .* there"):
        minimize(bowl, **call | OTHERS[name])
    assert (tmp_path / "log").read_bytes() == content


def test_a_log_knows_the_weights_and_not_the_folder(tmp_path, artifact):
    log = tmp_path / "log"
    minimize(bowl, BOUNDS, artifact, budget=4, log=log)
    moved = artifact.rename(tmp_path / "moved")
    assert minimize(bowl, BOUNDS, moved, budget=4, log=log).nfev == 4
    moved.rename(artifact)
    l2o.save(artifact, NearestConfig(), {"width": jnp.asarray(0.3)})
    with pytest.raises(UserError, match="its optimizer has other settings or weights"):
        minimize(bowl, BOUNDS, artifact, budget=4, log=log)


@pytest.mark.parametrize(
    "content",
    ["# notes\n", "notes without an end", '{"format": "l2o-optimizer"}\n', '{"format": "l2o-s', "[]\n", "\0\n"],
)
def test_a_file_of_somebody_else_is_left_alone(tmp_path, content):
    log = tmp_path / "notes"
    log.write_text(content)
    if content == '{"format": "l2o-s':  # our own first line, cut by a kill
        assert minimize(bowl, BOUNDS, "random", budget=2, log=log).nfev == 2
        return
    with pytest.raises(UserError, match="is not a log of"):
        minimize(bowl, BOUNDS, "random", log=log)
    assert log.read_text() == content


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (2, '{"asked": 0, "x": [0.5'),
        (3, "garbage"),
        (3, '{"told": 5, "value": 1.0, "error": null, "seconds": 0}'),
        (3, '{"told": 0, "value": NaN, "error": null, "seconds": 0}'),
        (4, '{"asked": 7, "x": [0.5, 0.5]}'),
        (4, '{"asked": 1, "x": [0.5]}'),
        (4, "[]"),
    ],
)
def test_a_damaged_line_in_the_middle_is_refused(tmp_path, number, line):
    log = tmp_path / "log"
    minimize(bowl, BOUNDS, "random", budget=3, log=log)
    lines = log.read_text().splitlines()
    lines[number - 1] = line
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=f"line {number} is damaged"):
        minimize(bowl, BOUNDS, "random", budget=3, log=log)


def test_a_newer_log_is_refused(tmp_path):
    (tmp_path / "log").write_text('{"format": "l2o-search", "version": 2}\n')
    with pytest.raises(UserError, match="has format version 2; this l2o reads version 1"):
        minimize(bowl, BOUNDS, "random", log=tmp_path / "log")


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_two_searches_on_one_log(tmp_path):
    with Search(BOUNDS, "random", log=tmp_path / "log"), pytest.raises(UserError, match="in use by another search"):
        Search(BOUNDS, "random", log=tmp_path / "log")
    Search(BOUNDS, "random", log=tmp_path / "log").close()


# Bad input

REFUSED = {
    "bounds=[]": "expected a pair",
    "bounds=[1, 2]": "expected a pair",
    "bounds=[(0, 1, 2)]": "expected a pair",
    "bounds=[(0, 1), (0,)]": "expected a pair",
    "bounds=3": "expected a pair",
    "bounds='ab'": "expected a pair",
    "bounds=[('a', 'b')]": "expected a pair",
    "bounds=[(None, 1)]": "expected a pair",
    "bounds=[(0, 1j)]": "expected a pair",
    "bounds=[(0, 1), (5, 2)]": "bounds[1] is (5.0, 2.0): expected finite numbers with low < high",
    "bounds=[(2, 2)]": "bounds[0] is (2.0, 2.0)",
    "bounds=[(0, float('nan'))]": "bounds[0] is (0.0, nan)",
    "bounds=[(float('-inf'), 0)]": "bounds[0] is (-inf, 0.0)",
    "budget=0": "budget is 0: expected a whole number",
    "budget=-1": "budget is -1",
    "budget=2.5": "budget is 2.5",
    "budget=True": "budget is True",
    "budget='10'": "budget is '10'",
    "workers=0": "workers is 0",
    "workers=None": "workers is None",
    "workers=1.0": "workers is 1.0",
    "seed=-1": "seed is -1",
    "seed=0.5": "seed is 0.5",
    "seed=2**32": "seed is 4294967296",
    "f=3": "f is 3: expected a function",
    "f=None": "f is None: expected a function",
    "callback=1": "callback is 1: expected a function",
    "optimizer='randon'": "no optimizer named 'randon' (did you mean 'random'?)",
    "optimizer=''": "",
    "optimizer=None": "optimizer is None",
    "optimizer='lstm'": "'lstm' reads gradients, and a Python function has none: take one of ",
    "optimizer='adam'": "'adam' reads gradients",
    "optimizer=l2o.load('mlp')": "'mlp' reads gradients",
    "optimizer=l2o.kinds(l2o.BaselineConfig)['sgd'](learning_rate=0.1)": "'sgd' reads gradients",
    "log='/nowhere/log'": "log /nowhere/log cannot be opened: No such file or directory",
    "log='.'": "log . cannot be opened",
    "guesses=3": "guesses are 3: expected a list",
    "guesses=[0.5]": "guesses[0] is 0.5: expected a number within the bounds for each dimension",
    "guesses=[[0.5], [1.5]]": "guesses[1] is [1.5]: expected a number within the bounds for each dimension",
    "known={1: 2}": "known are {1: 2}: expected a list",
    "known=[[0.5]]": "known[0] is [0.5]: expected a pair of a point and its value",
    "known=[([float('nan')], 1.0)]": "the point of known[0] is [nan]: expected a number",
    "known=[([0.5], 'x')]": "must be one real number, found str 'x'",
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What a person sees, in a process without the type checks of these tests."""
    code = f"""
import json, l2o
found = {{}}
for change in {list(REFUSED)!r}:
    call = dict(f=lambda x: 0.0, bounds=[(0, 1)], optimizer="random", budget=2)
    try:
        l2o.minimize(**call | eval(f"dict({{change}})"))
    except l2o.UserError as error:
        found[change] = str(error)
search = l2o.Search([(0, 1)], "random")
trial = search.ask()
search.observe(trial, 1.0)
other = l2o.Search([(0, 1)], "random", seed=1)
for each in (trial, 0, 1, -1, True, other.ask(), other.ask(), [2.0], [0.5, 0.5], "x", None):
    try:
        search.observe(each, 1.0)
    except l2o.UserError as error:
        found[len(found)] = str(error)
print(json.dumps(found))
"""
    cwd = tmp_path_factory.mktemp("refusals")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("change", REFUSED)
def test_bad_input_is_one_sentence(refusals, change):
    assert REFUSED[change] in refusals[change]
    assert "\n" not in refusals[change]


def test_a_trial_is_observed_once_by_its_own_search(refusals):
    expected = "expected a number within the bounds for each dimension"
    assert [refusals[key] for key in refusals if key.isdigit()] == [
        *["observe: trial 0 is complete already, expected one that is pending"] * 2,
        "observe: there is no trial 1, expected a number below 1",
        "observe: there is no trial -1, expected a number below 1",
        f"the point is True: {expected}",
        *["observe takes a trial that this search asked for, found one of another search"] * 2,
        *(
            f"the point is {x}: expected a number within the bounds for each dimension"
            for x in ("[2.0]", "[0.5, 0.5]", "'x'", "None")
        ),
    ]


def test_a_number_that_is_none_leaves_the_trial_open():
    search = Search(BOUNDS, "random")
    trial = search.ask()
    with pytest.raises(UserError, match="one real number"):
        search.observe(trial, "x")
    search.observe(trial, 1.0)
    assert search.best is trial
