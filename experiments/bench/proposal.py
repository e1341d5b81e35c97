"""Time of a proposal: from a Python loop, and inside a compiled run; with and without the memory, beside GP-EI."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import l2o
from experiments.bench.timing import in_turns, ratio, show
from l2o import BaselineConfig, Evaluation, Optimizer, Problem, Space, Task, kinds, unroll
from l2o.blackbox.rnn import RNNConfig

STEPS = 100


def contenders(quick: bool) -> dict[str, Optimizer]:
    """The shipped optimizer, if there is one, the network of the paper, and GP-EI that fits anew for each proposal."""
    paper = RNNConfig(hidden=64, candidates=0).build()
    found = {"rnn, no memory": paper.bind(paper.init(jax.random.key(0)))}
    if "rnn" in l2o.names():
        found["rnn"] = l2o.load("rnn").optimizer
    settings = {"max_trials": 16, "candidates": 16, "fit_steps": 1} if quick else {}
    return found | {"gp_ei": kinds(BaselineConfig)["gp_ei"](**settings).build()}


def bowl(d: int, steps: int) -> Task:
    """Cheap to evaluate, so that what is timed is the optimizer."""
    problem = Problem(Space.box(jnp.zeros(d), jnp.ones(d)), jnp.full(d, 0.5), 0.3, jnp.asarray(steps))
    return Task(problem, lambda key, x: Evaluation(jnp.sum((x - 0.3) ** 2, 1)))


def inside(optimizer: Optimizer, d: int, steps: int) -> tuple[Any, Any]:
    """A run of `steps` proposals under one jit, as (function, first state)."""
    task = bowl(d, steps)
    init_key, run_key = jax.random.split(jax.random.key(0))
    data = jax.random.key_data(run_key)

    def run(state):
        inner, total = state
        inner = optimizer.init(jax.random.key(1), task.problem)  # every call is a whole run
        _, trajectory = unroll(optimizer, task, inner, jax.random.wrap_key_data(data), steps)
        return state[0], total + jnp.sum(trajectory.evaluation.value)

    return run, (optimizer.init(init_key, task.problem), jnp.zeros(()))


def from_python(optimizer: Optimizer, d: int, steps: int) -> tuple[np.ndarray, float]:
    """Seconds of each ask-and-observe of `l2o.Search`, and of the first one, which compiles."""
    seconds = []
    search = l2o.Search([(0.0, 1.0)] * d, optimizer, budget=steps)
    for _ in range(steps):
        start = time.perf_counter()
        trial = search.ask()
        asked = time.perf_counter()
        value = float(((trial.x - 0.3) ** 2).sum())
        told = time.perf_counter()
        search.observe(trial, value)
        seconds.append(asked - start + time.perf_counter() - told)
    return np.array(seconds[2:]), float(sum(seconds[:2]))


def run(quick: bool = False) -> dict[str, Any]:
    """Measure and print; returns the rows as JSON."""
    steps, rows = 10 if quick else STEPS, []
    print(
        f"{'optimizer':>15} {'d':>2} {'us from Python':>15} {'us inside a run':>16} {'/ gp_ei':>20} {'compile s':>10}"
    )
    for d in (2,) if quick else (2, 6):
        optimizers = contenders(quick)
        timings = in_turns({name: inside(o, d, steps) for name, o in optimizers.items()}, rounds=2 if quick else 7)
        for name, optimizer in optimizers.items():
            seconds, first = from_python(optimizer, d, steps)
            rows.append(
                {
                    "optimizer": name, "dimension": d, "steps": steps,
                    "microseconds_from_python": float(np.median(seconds) * 1e6),
                    "microseconds_inside": timings[name].median / steps * 1e6,
                    "over_gp_ei": ratio(timings[name], timings["gp_ei"]),
                    "compile_seconds": {"from_python": first, "inside": timings[name].compile},
                }
            )  # fmt: skip
            row = rows[-1]
            print(
                f"{name:>15} {d:>2} {row['microseconds_from_python']:>15.1f} {row['microseconds_inside']:>16.1f} "
                f"{show(row['over_gp_ei']):>20} {first:>10.1f}",
                flush=True,
            )
    return {"rows": rows}
