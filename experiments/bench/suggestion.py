"""Latency of a draw from an OptFormer's policy by the trials read: with the cache, and when all is read again."""

from typing import Any

import jax
import jax.numpy as jnp

import l2o
from experiments.bench.timing import in_turns
from l2o import Evaluation, Optimizer, Problem, Space
from l2o.optformer.optformer import OptFormerConfig
from l2o.wrappers.flat import Flat

DIMENSION = 4


def told(optimizer: Optimizer, trials: int) -> Flat:
    """Its state after so many trials of a bowl, all but the last of them read."""
    space = Space.box(jnp.zeros(DIMENSION), jnp.ones(DIMENSION))
    state = optimizer.init(jax.random.key(0), Problem(space, jnp.full(DIMENSION, 0.5)))
    ask, tell = jax.jit(optimizer.ask), jax.jit(optimizer.tell)
    for t in range(trials):
        x, state = ask(jax.random.key(t), state)
        # the extremes come first, so that none is read again later
        value = jnp.asarray([0.0, 1.0])[t] if t < 2 else 0.2 + 0.6 * jnp.mean(x)
        state = tell(jax.random.key(t), state, x, Evaluation(value.reshape(1)))
    return state


def suggest(optimizer: Optimizer, state: Flat, again: bool) -> tuple[Any, Any]:
    """`carry -> carry`: the suggestion after the last trial, which the cache lacks, or with `again` after all."""
    fed = jnp.full_like(state.inner.fed, -1) if again else jnp.copy(state.inner.fed)
    filled = jnp.copy(state.inner.context.filled)
    opened = jnp.copy(state.inner.opened)

    def call(carry):
        state, count = carry
        context = state.inner.context._replace(filled=filled)
        # and without the suggestions of earlier calls, which nobody told
        before = state.inner._replace(fed=fed, context=context, opened=opened)
        x, after = optimizer.ask(jax.random.fold_in(jax.random.key(0), count), state._replace(inner=before))
        return after, count + 1 + 0 * x[0, 0].astype(jnp.int32)

    return call, (jax.tree.map(jnp.copy, state), jnp.zeros((), jnp.int32))


def run(quick: bool = False) -> dict[str, Any]:
    """Measure and print; returns the rows as JSON."""
    rows = []
    shipped = l2o.load("optformer") if "optformer" in l2o.names() and not quick else None
    small: dict[str, Any] = {"width": 16, "heads": 2, "feedforward": 16, "decoder_layers": 1} if quick else {}
    base = (shipped.config if shipped else OptFormerConfig(**small)).model_copy(update={"acquisition": "none"})
    theta = shipped.theta if shipped else base.build().init(jax.random.key(0))
    print(f"{'trials':>7} {'ms with the cache':>18} {'ms reading all again':>21}")
    for trials in (3,) if quick else (10, 20, 40, 80):
        optimizer = base.model_copy(update={"max_trials": trials}).build().bind(theta)
        state = told(optimizer, trials)
        contenders = {"cache": suggest(optimizer, state, False), "again": suggest(optimizer, state, True)}
        timings = in_turns(contenders, rounds=2 if quick else 15)
        row = {name: [float(s) * 1e3 for s in sorted(t.seconds)] for name, t in timings.items()}
        rows.append(
            {"trials": trials, "dimension": DIMENSION, "milliseconds": {n: t.median * 1e3 for n, t in timings.items()},
             "all": row, "compile_seconds": {n: t.compile for n, t in timings.items()}}
        )  # fmt: skip
        print(f"{trials:>7} {timings['cache'].median * 1e3:>18.2f} {timings['again'].median * 1e3:>21.2f}", flush=True)
    return {"rows": rows, "parameters": sum(leaf.size for leaf in jax.tree.leaves(theta))}
