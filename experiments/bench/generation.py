"""Generations per second of evolution strategies beside evosax's, and evaluations per second of meta-training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.timing import in_turns, ratio, show
from l2o import BaselineConfig, Optimizer, OptimizerConfig, Problem, Space, Task, kinds, unroll
from l2o.core import Evaluation
from meta.learner.evolution import EvolutionConfig
from meta.objective import BestConfig
from tasks.bbob.bbob import BBOBConfig

SETTINGS = ((16, 10, 1), (16, 10, 512), (64, 100, 16))  # members, dimensions, runs side by side
FIVE = ("sphere", "rosenbrock", "discus", "rastrigin", "schwefel")  # those of Lange et al. (2022)


def contenders(n: int) -> dict[str, Optimizer]:
    """Fresh learned strategies, evosax's learned one with its weights, and a classical one."""
    found = {name: kinds(BaselineConfig)[name](population_size=n).build() for name in ("evosax_les", "cma_es")}
    for kind in ("les", "rma"):
        learned = kinds(OptimizerConfig)[kind](population_size=n).build()
        found[kind] = learned.bind(learned.init(jax.random.key(0)))
    return found


def loop(optimizer: Optimizer, d: int, runs: int, generations: int) -> tuple[Any, Any]:
    """Runs on the sphere, which costs next to nothing, as (function, first state)."""
    task = Task(Problem(Space.free(), jnp.ones(d)), lambda key, x: Evaluation(jnp.sum(x**2, 1)))

    def one(key):
        init_key, run_key = jax.random.split(key)
        _, run = unroll(optimizer, task, optimizer.init(init_key, task.problem), run_key, generations)
        return jnp.min(run.evaluation.value)

    def several(state):
        count, total = state  # every call is of runs of its own
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), count), runs)
        return count + 1, total + jnp.sum(jax.vmap(one)(keys))

    return several, (jnp.zeros((), jnp.int32), jnp.zeros(()))


def meta_training(kind: str, quick: bool) -> tuple[float, float]:
    """Evaluations per second of a meta-step of the evolution learner, and the seconds of its compilation.

    64 members, 32 tasks or as many more as five functions need, 16 members inside, 50 generations, 10 dimensions.
    """
    members, tasks, generations = (4, 1, 3) if quick else (64, 35, 50)
    learned = kinds(OptimizerConfig)[kind](population_size=16).build()
    functions, dimensions = (FIVE[:1], (2,)) if quick else (FIVE, (10,))
    family = BBOBConfig(functions=functions, dimensions=dimensions).build()
    config = EvolutionConfig(algorithm="Open_ES", population_size=members, learning_rate=0.02)
    learner = config.build(learned, BestConfig().build(), None, generations, tasks, 1, 1, len(family.parts))
    state = learner.init(jax.random.key(0), family, learned.init(jax.random.key(1)))
    state = jax.tree.map(lambda a: jnp.array(a, a.dtype), state)  # no weak types, no buffer twice
    timing = in_turns({kind: (lambda state: learner.step(state, family)[0], state)}, rounds=1 if quick else 3)[kind]
    return members * tasks * 16 * generations / timing.median, timing.compile


def run(quick: bool = False) -> dict[str, Any]:
    """Measure and print; returns the rows as JSON."""
    rows, training = [], []
    print(f"{'strategy':>12} {'members':>8} {'d':>4} {'runs':>5} {'generations/s':>14} {'evosax_les / it':>20}")
    for n, d, runs in ((4, 2, 2),) if quick else SETTINGS:
        generations = 5 if quick else max(20, 2000 // runs)
        timings = in_turns(
            {name: loop(o, d, runs, generations) for name, o in contenders(n).items()}, rounds=2 if quick else 9
        )
        for name, timing in timings.items():
            rows.append(
                {
                    "strategy": name, "population_size": n, "dimension": d, "runs": runs,
                    "generations_per_second": runs * generations / timing.median,
                    "evosax_les_over": ratio(timings["evosax_les"], timing), "compile_seconds": timing.compile,
                }
            )  # fmt: skip
            speed, over = rows[-1]["generations_per_second"], show(rows[-1]["evosax_les_over"])
            print(f"{name:>12} {n:>8} {d:>4} {runs:>5} {speed:>14,.0f} {over:>20}", flush=True)
    for kind in ("les", "lga", "rma"):
        speed, seconds = meta_training(kind, quick)
        training.append({"strategy": kind, "evaluations_per_second": speed, "compile_seconds": seconds})
        print(f"meta-training {kind}: {np.round(speed / 1e6, 2)} million evaluations per second", flush=True)
    return {"rows": rows, "meta_training": training}
