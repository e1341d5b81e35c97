"""How the time and the memory of a meta-step grow with tasks, window length and parameters: linearly, never faster."""

from typing import Any

import jax

from experiments.bench.timing import in_turns
from l2o.gradient.lstm import LSTMConfig
from l2o.registry import parse
from meta.curriculum import FixedConfig
from meta.estimator import EstimatorConfig
from meta.learner.gradient import AdamLearnerConfig
from meta.objective import SumConfig
from tasks.networks.classifiers import MLPClassifierConfig
from tasks.quadratic import QuadraticConfig

CENTRE = {"tasks": 16, "unroll_length": 20, "width": 8}
GRID = {"tasks": (4, 16, 64), "unroll_length": (5, 20, 80), "width": (2, 8, 32)}
STEPS = 2


def contender(estimator: str, tasks: int, unroll_length: int, width: int, **fields: Any) -> tuple[Any, Any, int]:
    """Meta-steps on small classifiers of the digits (width > 0): function, first state, inner parameters."""
    learned = LSTMConfig().build()
    config = parse(EstimatorConfig, {"kind": estimator, "unroll_length": unroll_length, **fields})
    horizon = 2 * unroll_length
    learner = AdamLearnerConfig().build(learned, SumConfig().build(), config, horizon, tasks, 1000)
    task = MLPClassifierConfig(width=width, batch_size=8) if width else QuadraticConfig()
    family = FixedConfig(length=horizon).family(task.build("train"))
    state = jax.jit(lambda f: learner.init(jax.random.key(1), f, learned.init(jax.random.key(0))))(family)
    start = family.task(family.sample(jax.random.key(0))).problem.start
    size = sum(leaf.size for leaf in jax.tree.leaves(start))

    def run(state):
        return jax.lax.scan(lambda s, _: (learner.step(s, family)[0], None), state, None, STEPS)[0]

    return run, state, size


def run(quick: bool = False) -> dict[str, Any]:
    """Measure and print; returns the rows as JSON."""
    rows = []
    print("classifiers of the digits, minibatches of 8; growth: time per unit against the smallest setting of the axis")
    print(
        f"{'estimator':>9} {'axis':>14} {'value':>6} {'parameters':>10} {'ms / meta-step':>15} {'growth':>7}"
        f" {'peak MB':>9} {'compile s':>9}"
    )
    for estimator in ("backprop", "pes"):
        for axis, values in GRID.items():
            first = None
            for value in values[:2] if quick else values:
                setting = {**CENTRE, axis: value}
                function, state, size = contender(estimator, **setting)
                timing = in_turns({"run": (function, state)}, rounds=2 if quick else 4)["run"]
                unit = size if axis == "width" else value
                cost = timing.median / STEPS / unit
                first = first or cost
                rows.append(
                    {
                        "estimator": estimator,
                        "axis": axis,
                        **setting,
                        "parameters": size,
                        "seconds_per_meta_step": timing.median / STEPS,
                        "growth": cost / first,
                        "temporary_bytes": timing.temporary,
                        "compile_seconds": timing.compile,
                    }
                )
                print(
                    f"{estimator:>9} {axis:>14} {value:>6} {size:>10,} {timing.median / STEPS * 1e3:>15.1f}"
                    f" {cost / first:>7.2f} {timing.temporary / 2**20:>9.1f} {timing.compile:>9.1f}",
                    flush=True,
                )
    rows += _remat(quick)
    return {"rows": rows}


def _remat(quick: bool) -> list[dict[str, Any]]:
    """Peak memory and time of the three policies of the backward pass on a long window."""
    length = 20 if quick else 160
    built = {
        policy: contender("backprop", tasks=16, unroll_length=length, width=8, remat=policy)
        for policy in ("none", "step", "segment")
    }
    timings = in_turns({name: (function, state) for name, (function, state, _) in built.items()}, rounds=3)
    print(f"what the backward pass stores, window of {length}:")
    for name, timing in timings.items():
        print(f"{name:>9} {timing.median / STEPS * 1e3:>10.1f} ms / meta-step {timing.temporary / 2**20:>9.1f} MB")
    return [
        {
            "axis": "remat",
            "policy": name,
            "unroll_length": length,
            "seconds_per_meta_step": timing.median / STEPS,
            "temporary_bytes": timing.temporary,
        }
        for name, timing in timings.items()
    ]
