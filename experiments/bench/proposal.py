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
    paper = RNNConfig(hidden=4 if quick else 64, candidates=0).build()
    found = {"rnn, no memory": paper.bind(paper.init(jax.random.key(0)))}
    if "rnn" in l2o.names() and not quick:
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

    def run(state):
        count, total = state  # every call is a whole run, with a key of its own
        init_key, run_key = jax.random.split(jax.random.fold_in(jax.random.key(0), count))
        _, trajectory = unroll(optimizer, task, optimizer.init(init_key, task.problem), run_key, steps)
        return count + 1, total + jnp.sum(trajectory.evaluation.value)

    return run, (jnp.zeros((), jnp.int32), jnp.zeros(()))


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
                    "gp_ei_over": ratio(timings["gp_ei"], timings[name]),
                    "compile_seconds": {"from_python": first, "inside": timings[name].compile},
                }
            )  # fmt: skip
            row = rows[-1]
            print(
                f"{name:>15} {d:>2} {row['microseconds_from_python']:>15.1f} {row['microseconds_inside']:>16.1f} "
                f"{show(row['gp_ei_over']):>20} {first:>10.1f}",
                flush=True,
            )
    return {"rows": rows}
