"""Cost of one update of rules for whole tensors, beside `optax.contrib.muon`: time, compilation, memory, state."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import l2o
from experiments.bench.timing import in_turns, ratio, show
from l2o.gradient.learned_polar import LearnedPolarConfig
from tasks.networks.characters import CharactersConfig

REFERENCE = "muon"
STEPS = 10  # updates in one compiled call


def parameters(quick: bool = False) -> dict[str, Any]:
    """Four square matrices, and a transformer of six layers of many small tensors."""
    key = jax.random.key(0)
    side, depth, width = (32, 2, 16) if quick else (512, 6, 64)
    matrices = {f"w{i}": jax.random.normal(jax.random.fold_in(key, i), (side, side)) for i in range(4)}
    family = CharactersConfig(width=width, depth=depth).build()
    return {"matrices": matrices, "transformer": family.task(family.sample(key)).problem.start}


def rules() -> dict[str, optax.GradientTransformation]:
    """The contenders, by name."""
    learned = LearnedPolarConfig().build()
    assert learned.native is not None
    return {
        "adam": optax.adam(1e-3),
        REFERENCE: optax.contrib.muon(1e-3),
        "normuon": l2o.normuon(1e-3),
        "polar": l2o.polar(1000),
        "learned_polar": learned.native(learned.init(jax.random.key(0)), 1000),
        "mlp": l2o.load("mlp").optax(1000),
    }


def contender(tx: optax.GradientTransformation, params: Any) -> tuple[Any, Any]:
    """Updates in a row, with a gradient that costs nothing: the parameters themselves, and some noise."""
    tx = optax.with_extra_args_support(tx)
    noise = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)

    def step(carry, _):
        x, state = carry
        grads = jax.tree.map(lambda p, e: p + e, x, noise)
        updates, state = tx.update(grads, state, x, value=jnp.ones(()))
        return (optax.apply_updates(x, updates), state), None

    def run(carry):
        return jax.lax.scan(step, carry, None, STEPS)[0]

    start = jax.tree.map(jnp.array, params)
    return run, (start, tx.init(start))


def run(quick: bool = False) -> dict[str, Any]:
    """Measure and print; returns the rows as JSON."""
    rows = []
    print(f"{'':>12} {'rule':>14} {'ms':>8} {'/ muon':>20} {'compile s':>10} {'temp MB':>8} {'state bytes':>12}")
    for name, params in parameters(quick).items():
        size = sum(a.size for a in jax.tree.leaves(params))
        contenders = {rule: contender(tx, params) for rule, tx in rules().items()}
        state = {
            rule: sum(a.nbytes for a in jax.tree.leaves(carry[1])) / size for rule, (_, carry) in contenders.items()
        }
        timings = in_turns(contenders, rounds=2 if quick else 7)
        for rule, timing in timings.items():
            row = {
                "tree": name,
                "tensors": len(jax.tree.leaves(params)),
                "parameters": size,
                "rule": rule,
                "milliseconds": timing.median / STEPS * 1e3,
                "over_muon": ratio(timing, timings[REFERENCE]),
                "compile_seconds": timing.compile,
                "compile_over_muon": timing.compile / timings[REFERENCE].compile,
                "temporary_bytes": timing.temporary,
                "temporary_over_muon": timing.temporary / max(timings[REFERENCE].temporary, 1),
                "state_bytes_per_parameter": state[rule],
            }
            rows.append(row)
            print(
                f"{name:>12} {rule:>14} {row['milliseconds']:>8.2f} {show(row['over_muon']):>20}"
                f" {timing.compile:>10.2f} {timing.temporary / 1e6:>8.2f} {state[rule]:>12.1f}",
                flush=True,
            )
    return {"rows": rows}
