"""Meta-steps per second: everything under one jit, against the same mathematics as a Python loop over a jitted step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.bench.networks import mlp_rule
from experiments.bench.timing import in_turns, ratio, show
from experiments.run import Experiment
from l2o.core import LearnedOptimizer
from l2o.errors import UserError
from l2o.gradient.lstm import LSTMConfig
from l2o.registry import parse
from l2o.unroll import query
from meta import parallel
from meta.curriculum import FixedConfig
from meta.estimator import EstimatorConfig
from meta.estimator.backprop import BackpropConfig
from meta.estimator.perturbed import PerturbedConfig
from meta.learner.gradient import AdamLearnerConfig
from meta.objective import SumConfig
from tasks.quadratic import QuadraticConfig

TASKS, WINDOW, HORIZON, STEPS = 128, 20, 200, 10  # STEPS: meta-steps in one call


def family():
    """10-dimensional quadratics, in runs of 200 steps."""
    return FixedConfig(length=HORIZON).family(QuadraticConfig().build())


def fused(learned: LearnedOptimizer, estimator: dict[str, Any], devices: int) -> tuple[Any, Any]:
    """Meta-steps as `l2o train` makes them: `STEPS` of them in one compiled call."""
    config = parse(EstimatorConfig, estimator)
    learner = AdamLearnerConfig().build(learned, SumConfig().build(), config, HORIZON, TASKS, 1000, devices)
    tasks = parallel.place(family(), learner.mesh)
    shardings = jax.tree.map(lambda spec: jax.NamedSharding(learner.mesh, spec), learner.specs)
    theta = parallel.place(learned.init(jax.random.key(0)), learner.mesh)
    state = jax.jit(lambda theta: learner.init(jax.random.key(1), tasks, theta), out_shardings=shardings)(theta)

    def run(state):
        return jax.lax.scan(lambda s, _: (learner.step(s, tasks)[0], None), state, None, STEPS)[0]

    return run, state


class PythonLoop:
    """One meta-step at a time, its inner steps a Python loop over a jitted, vmapped step: what one writes first.

    The tasks, the network, the windows, the meta-gradient and Adam on theta are those of `fused`; runs that are over
    are not replaced, which spares the loop that work.
    """

    plain = True

    def __init__(self, learned: LearnedOptimizer, kind: str) -> None:
        self.kind, self.sigma = kind, 0.01
        tasks = family()
        self.adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))

        def start(theta, key):
            params = tasks.sample(jax.random.fold_in(key, 0))
            return learned.bind(theta).init(jax.random.fold_in(key, 1), tasks.task(params).problem), params

        def inner(theta, state, params, key, t):
            optimizer, task = learned.bind(theta), tasks.task(params)
            x, evaluation, state = query(optimizer, task, state, key, t)
            return optimizer.tell(jax.random.fold_in(key, 2), state, x, evaluation), evaluation.value[0]

        def judge(theta, state, params, key, t):
            return query(learned.bind(theta), tasks.task(params), state, key, t)[1].value[0]

        axes = (None if kind == "backprop" else 0, 0, 0, 0, None)
        self.inner, self.judge = jax.jit(jax.vmap(inner, axes)), jax.jit(jax.vmap(judge, axes))
        self.start = jax.jit(jax.vmap(start, (None, 0)))

        @jax.jit
        def perturb(theta, key):
            leaves, tree = jax.tree.flatten(theta)
            keys = jax.random.split(key, len(leaves))
            noise = tree.unflatten([jax.random.normal(k, (TASKS, *a.shape)) for k, a in zip(keys, leaves, strict=True)])
            both = jax.tree.map(lambda a, e: a + self.sigma * jnp.concatenate([e, -e]), theta, noise)
            return both, noise

        @jax.jit
        def combine(noise, total):
            weight = (total[:TASKS] - total[TASKS:]) / (2 * self.sigma * TASKS)
            return jax.tree.map(lambda e: jnp.einsum("p,p...->...", weight, e), noise)

        @jax.jit
        def update(theta, state, gradient):
            updates, state = self.adam.update(gradient, state, theta)
            return optax.apply_updates(theta, updates), state

        self.perturb, self.combine, self.update = perturb, combine, update
        self.add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))

    def first(self, learned: LearnedOptimizer) -> Any:
        """The state before the first call."""
        theta = learned.init(jax.random.key(0))
        keys = jax.random.split(jax.random.key(1), TASKS)
        runs, params = self.start(theta, keys)
        if self.kind != "backprop":
            runs, params, keys = jax.tree.map(lambda a: jnp.concatenate([a, a]), (runs, params, keys))
        noise = jax.tree.map(lambda a: jnp.zeros((TASKS, *a.shape)), theta)
        return theta, self.adam.init(theta), runs, params, keys, noise, 0

    def window(self, theta, runs, params, keys, t):
        """A window of inner steps in Python: the runs after it, and their mean losses."""
        values = []
        for i in range(WINDOW):
            runs, value = self.inner(theta, runs, params, keys, t + i)
            values.append(value)
        values.append(self.judge(theta, runs, params, keys, t + WINDOW))
        return sum(values[1:]) / WINDOW, runs

    def __call__(self, state):
        for _ in range(STEPS):
            theta, adam, runs, params, keys, noise, step = state
            t = step * WINDOW
            if self.kind == "backprop":

                def loss(theta, runs=runs, params=params, keys=keys, t=t):
                    losses, runs = self.window(theta, runs, params, keys, t)
                    return jnp.mean(losses), runs

                (_, runs), gradient = jax.value_and_grad(loss, has_aux=True)(theta)
            else:
                both, drawn = self.perturb(theta, jax.random.fold_in(jax.random.key(2), step))
                start = runs
                total, runs = self.window(both, runs, params, keys, t)
                if self.kind == "es":  # both runs of a pair go on from the state of the first
                    runs = jax.tree.map(lambda a: jnp.concatenate([a[:TASKS], a[:TASKS]]), runs)
                    noise = drawn
                else:
                    noise = self.add(noise, drawn)
                del start
                gradient = self.combine(noise, total)
            theta, adam = self.update(theta, adam, gradient)
            state = (theta, adam, runs, params, keys, noise, step + 1)
        return state


def run(quick: bool = False) -> dict[str, Any]:
    """Measure and print; returns the rows as JSON."""
    networks = {"mlp": mlp_rule(), "lstm": LSTMConfig(preprocessing="none").build()}
    kinds = {
        "backprop": {"kind": "backprop", "unroll_length": WINDOW},
        "es": {"kind": "es", "unroll_length": WINDOW},
        "pes": {"kind": "pes", "unroll_length": WINDOW},
    }
    devices, rows = len(jax.devices()), []
    print(f"{TASKS} tasks x {WINDOW} inner steps, 10-dimensional quadratics; {devices} devices")
    print(
        f"{'network':>8} {'estimator':>9} {'meta-steps/s':>13} {'on 1 device':>12} {'python loop':>12}"
        "  faster than the loop"
    )
    for network, learned in networks.items():
        for kind, estimator in kinds.items():
            loop = PythonLoop(learned, kind)
            contenders = {"one": fused(learned, estimator, 1), "loop": (loop, loop.first(learned))}
            if devices > 1:
                contenders["all"] = fused(learned, estimator, devices)
            timings = in_turns(contenders, rounds=2 if quick else 7)
            best = timings.get("all", timings["one"])
            faster = ratio(timings["loop"], best)
            rows.append(
                {
                    "network": network,
                    "estimator": kind,
                    "devices": devices,
                    "meta_steps_per_second": {name: STEPS / timing.median for name, timing in timings.items()},
                    "compile_seconds": {name: timings[name].compile for name in timings if name != "loop"},
                    "loop_over_fused": faster,
                    "loop_over_fused_on_one_device": ratio(timings["loop"], timings["one"]),
                }
            )
            per_second = rows[-1]["meta_steps_per_second"]
            print(
                f"{network:>8} {kind:>9} {STEPS / best.median:>13.1f} {per_second['one']:>12.1f}"
                f" {per_second['loop']:>12.1f}  {show(faster)}",
                flush=True,
            )
    return {"rows": rows}


def inner_steps(experiment: Experiment) -> int:
    """How many inner steps a meta-step of a config takes, over all its runs.

    Raises:
      UserError: it takes none, or not the same number in each.
    """
    meta = experiment.meta
    estimator = meta.estimator
    if isinstance(estimator, PerturbedConfig):
        runs = 2 * estimator.pairs * meta.tasks
    elif isinstance(estimator, BackpropConfig):
        runs = meta.tasks
    else:
        named = "none" if estimator is None else repr(estimator.kind)
        raise UserError(f"meta.estimator: found {named}, expected backprop, es, pes or nres to measure a meta-step")
    return runs * min(estimator.unroll_length or meta.horizon.longest, meta.horizon.longest)


def run_config(experiment: Experiment, quick: bool = False) -> dict[str, Any]:
    """Meta-steps of a config as `l2o train` makes them, measured and printed; returns the row as JSON."""
    inner, meta = inner_steps(experiment), experiment.meta
    learned, tasks = experiment.optimizer.build(), experiment.task.build("train")
    learner = meta.learner(learned, tasks)
    stage = parallel.place(meta.horizon.family(tasks, 0), learner.mesh)
    shardings = jax.tree.map(lambda spec: jax.NamedSharding(learner.mesh, spec), learner.specs)
    theta = parallel.place(learned.init(jax.random.key(0)), learner.mesh)
    start = jax.jit(lambda theta, family: learner.init(jax.random.key(1), family, theta), out_shardings=shardings)

    def run(state):
        return jax.lax.scan(lambda s, _: (learner.step(s, stage)[0], None), state, None, STEPS)[0]

    timing = in_turns({"run": (run, start(theta, stage))}, rounds=1 if quick else 5)["run"]
    seconds = timing.median / STEPS
    row = {
        "optimizer": experiment.optimizer.kind,
        "tasks": meta.tasks,
        "devices": learner.mesh.size,
        "meta_steps_per_second": 1 / seconds,
        "inner_steps_per_second": inner / seconds,
        "compile_seconds": timing.compile,
        "temporary_bytes": timing.temporary,
        "training_seconds": meta.steps * seconds,
    }
    print(
        f"{row['optimizer']}: {meta.tasks} tasks, {inner} inner steps in a meta-step, {row['devices']} devices\n"
        f"{1 / seconds:.2f} meta-steps/s, {inner / seconds:.0f} inner steps/s, compiled in {timing.compile:.0f} s,"
        f" {timing.temporary / 1e6:.0f} MB of intermediates;"
        f" all {meta.steps} meta-steps would take {meta.steps * seconds / 60:.1f} minutes without validation",
        flush=True,
    )
    return {"config": experiment.model_dump(mode="json"), "row": row}
