"""Cost of one update of a learned optimizer per parameter, against optax.adam and a plain haiku DeepRNN."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from experiments.bench.timing import Timing, in_turns, ratio, show
from l2o.gradient.lstm import LSTMConfig, log_and_sign

SIZES = (1_000, 10_000, 25_450, 100_000, 1_000_000, 10_000_000)
LARGE = 3_000_000  # beyond this only the fused optimizer and Adam are timed: the plain one would not fit


def plain_rnn(theta: Any = None) -> optax.GradientTransformation:
    """The LSTM of the 2016 paper as haiku has it, coordinates as the batch: what one writes first."""

    def network(gradient, state):
        core = hk.DeepRNN([hk.LSTM(20), hk.LSTM(20), hk.Linear(1)])
        output, state = core(log_and_sign(gradient, 10.0).T, state)
        return 0.1 * output[:, 0], state

    transformed = hk.without_apply_rng(hk.transform(network))

    def zeros(params):
        start = jnp.zeros((params.size, 20))
        return (hk.LSTMState(start, start), hk.LSTMState(start, start))

    theta = theta or transformed.init(jax.random.key(0), jnp.zeros(1), zeros(jnp.zeros(1)))

    def update(updates, state, params=None):
        del params
        return transformed.apply(theta, updates, state)

    return optax.GradientTransformation(zeros, update)


def contender(tx: optax.GradientTransformation, size: int, steps: int) -> tuple[Any, Any]:
    """A training loop of `steps` updates of a vector, under one jit, as (function, first state)."""
    gradient = 0.1 * jax.random.normal(jax.random.key(1), (size,))

    def run(state):
        def step(state, _):
            params, inner = state
            # a gradient that moves with the parameters: a constant one would be preprocessed once for all steps
            updates, inner = tx.update(gradient + 1e-3 * params, inner, params)
            return (optax.apply_updates(params, updates), inner), None

        return jax.lax.scan(step, state, None, steps)[0]

    params = jnp.zeros(size)
    return run, (params, jax.tree.map(jnp.copy, tx.init(params)))  # copied: donated buffers must be distinct


def run(quick: bool = False) -> dict[str, Any]:
    """Measure and print; returns the rows as JSON."""
    learned = LSTMConfig().build()
    assert learned.native is not None
    theta = learned.init(jax.random.key(0))
    rows = []
    print(
        f"{'parameters':>11} {'lstm ns/param':>14} {'/ haiku DeepRNN':>20} {'/ adam':>22}  bf16 state / float32 state"
    )
    for size in SIZES[:2] if quick else SIZES:
        steps = max(2, min(50, 2_000_000 // size))
        native = learned.native(theta, steps)
        half = LSTMConfig(state_dtype="bfloat16").build().native
        assert half is not None
        contenders = {"lstm": contender(native, size, steps), "adam": contender(optax.adam(1e-3), size, steps)}
        if size <= LARGE:
            contenders["haiku"] = contender(plain_rnn(), size, steps)
            contenders["bfloat16"] = contender(half(theta, steps), size, steps)
        timings = in_turns(contenders, rounds=3 if quick or size > LARGE else 7)
        rows.append(_row(size, steps, timings))
        row = rows[-1]
        print(
            f"{size:>11,} {row['nanoseconds_per_parameter']['lstm']:>14.1f} "
            f"{show(row['lstm_over_haiku']) if 'lstm_over_haiku' in row else '-':>20} "
            f"{show(row['lstm_over_adam']):>22}  {show(row['bfloat16_over_lstm']) if 'haiku' in timings else '-'}",
            flush=True,
        )
    return {"rows": rows}


def _row(size: int, steps: int, timings: dict[str, Timing]) -> dict[str, Any]:
    per_parameter = {name: timing.median / steps / size * 1e9 for name, timing in timings.items()}
    row = {
        "parameters": size,
        "steps_per_call": steps,
        "nanoseconds_per_parameter": per_parameter,
        "compile_seconds": {name: timing.compile for name, timing in timings.items()},
        "temporary_bytes": {name: timing.temporary for name, timing in timings.items()},
        "lstm_over_adam": ratio(timings["lstm"], timings["adam"]),
    }
    if "haiku" in timings:
        row["lstm_over_haiku"] = ratio(timings["lstm"], timings["haiku"])
        row["bfloat16_over_lstm"] = ratio(timings["bfloat16"], timings["lstm"])
    return row
