"""Latency of a suggestion after 40 trials of a mixed space: OptFormer, our GP-UCB, and samplers of Optuna, in turns."""

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import l2o
from experiments.bench.timing import in_turns, ratio, show
from l2o import BaselineConfig, Evaluation, Loaded, Optimizer, Problem, SearchSpace, kinds
from l2o.host.policy import Policy
from l2o.lift.optuna import need_optuna, silent
from l2o.optformer.optformer import OptFormerConfig
from l2o.record import Record, RecordedTrial

SPACE = SearchSpace.from_dict({
    "learning_rate": {"kind": "float", "low": 1e-5, "high": 1e-1, "scale": "log"},
    "layers": {"kind": "integer", "low": 1, "high": 8},
    "dropout": (0.0, 0.9),
    "optimizer": ["sgd", "adam", "rmsprop"],
})  # fmt: skip


def history(trials: int) -> list[RecordedTrial]:
    """Random trials of a bowl in the unit cube."""
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(trials, len(SPACE)))
    return [RecordedTrial(SPACE.from_unit(u), float(np.sum((u - 0.3) ** 2))) for u in points]


def policy(loaded: Loaded, done: list[RecordedTrial], **settings: Any) -> Callable[[int], int]:
    """From names and numbers to a suggestion, the trials read again each time, as `l2o.Study` does."""
    chooses, record = Policy(loaded.configured(**settings)), Record(SPACE, "bench", "loss", trials=done)

    def call(count: int) -> int:
        chooses.suggest(record, seed=count)
        return count + 1

    return call


def under_jit(optimizer: Optimizer, done: list[RecordedTrial]) -> Callable[[int], int]:
    """An `ask` after all has been told; each was asked for before, as some count that to know when to model."""
    x = jnp.asarray(np.array([SPACE.to_point(trial.parameters) for trial in done]))
    y = jnp.asarray([trial.value for trial in done], jnp.float32)
    ask, tell = jax.jit(optimizer.ask), jax.jit(optimizer.tell)
    state = optimizer.init(jax.random.key(0), Problem(SPACE.space, x[0], 0.3, jnp.asarray(2 * len(done))))
    for t in range(len(done)):
        _, state = ask(jax.random.key(t), state)
        state = tell(jax.random.key(t), state, x[t][None], Evaluation(y[t][None]))

    def call(count: int) -> int:
        np.asarray(ask(jax.random.key(count), state)[0])
        return count + 1

    return call


def sampler(make: Callable[[Any], Any], done: list[RecordedTrial]) -> Callable[[int], int]:
    """An `ask` of an Optuna study in memory."""
    optuna = need_optuna()
    with silent():
        study, distributions = optuna.create_study(sampler=make(optuna.samplers)), SPACE.to_optuna()
    for trial in done:
        study.add_trial(
            optuna.trial.create_trial(params=trial.parameters, distributions=distributions, value=trial.value)
        )

    def call(count: int) -> int:
        asked = study.ask(distributions)
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
        return count + 1

    return call


def run(quick: bool = False) -> dict[str, Any]:
    """Measure and print; returns the rows as JSON."""
    trials, candidates = (6, 4) if quick else (40, 64)
    done = history(trials)
    if "optformer" in l2o.names() and not quick:
        loaded = l2o.load("optformer")
    else:
        config = OptFormerConfig(width=16, heads=2, feedforward=16, decoder_layers=1, max_trials=trials)
        loaded = Loaded(config, config.build().init(jax.random.key(0)), {}, [], "")
    gp = kinds(BaselineConfig)["gp_ucb"](max_trials=trials, **({"candidates": 16, "fit_steps": 1} if quick else {}))
    calls = {
        "optformer, EI": policy(loaded, done, acquisition="expected_improvement", candidates=candidates),
        "optformer, prior": policy(loaded, done, acquisition="none"),
        "gp_ucb": under_jit(gp.build(), done),
    }
    if importlib.util.find_spec("optuna"):
        calls["Optuna's TPE"] = sampler(lambda samplers: samplers.TPESampler(seed=0), done)
        if importlib.util.find_spec("torch"):  # it needs that
            calls["Optuna's GP"] = sampler(lambda samplers: samplers.GPSampler(seed=0), done)
    for call in calls.values():
        call.plain = True  # pyright: ignore[reportFunctionMemberAccess]
    timings = in_turns({name: (call, 0) for name, call in calls.items()}, rounds=2 if quick else 21)
    first = timings["optformer, EI"]
    print(f"after {trials} trials, {candidates} candidates\n{'':>18} {'ms':>8}   times as long as optformer's EI")
    for name, timing in timings.items():
        print(f"{name:>18} {timing.median * 1e3:>8.1f}   {show(ratio(timing, first))}", flush=True)
    rows = {
        name: {"milliseconds": timing.median * 1e3, "ratio": ratio(timing, first)} for name, timing in timings.items()
    }
    return {"trials": trials, "candidates": candidates, "rows": rows}
