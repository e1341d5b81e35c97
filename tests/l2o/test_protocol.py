"""One table for every optimizer there is: the promises of the contract that generic code relies on."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from l2o import HostOptimizer, Problem, Space, Task, UserError, unroll
from l2o.baselines.gp import GPSearchConfig
from l2o.baselines.optax import TunedConfig
from l2o.core import population_size

START = {"w": jnp.array([[0.5, -1.0], [1.2, 0.25]]), "b": jnp.float32(0.75)}
BOX = Space.box(jax.tree.map(lambda a: a - 4, START), jax.tree.map(lambda a: a + 3, START))


def baseline(kind):
    """Small, and such that three rounds reach all of its parts."""
    config = l2o.kinds(l2o.BaselineConfig)[kind]
    settings = {"learning_rate": 0.01} if issubclass(config, TunedConfig) else {}
    if issubclass(config, GPSearchConfig):
        settings = {"initial": 1, "max_trials": 2, "candidates": 8, "fit_steps": 2, "ascent_steps": 2}
    return config(**settings).build()


# a HostOptimizer cannot be traced, by its definition, and this table is of what tracing promises
FROM_FILES = {"celo"}  # test_celo.py makes a file of weights for it, and keeps these promises
TRACED = [
    kind
    for kind in l2o.kinds(l2o.BaselineConfig)
    if kind not in FROM_FILES and not isinstance(baseline(kind), HostOptimizer)
]
OPTIMIZERS = [
    *(f"baseline {kind}" for kind in TRACED),
    *(f"fresh {kind}" for kind in l2o.kinds(l2o.OptimizerConfig)),
    # their weights become constants of every program; test_artifact.py has a few steps of each of them
    *(pytest.param(f"shipped {name}", marks=pytest.mark.slow) for name in l2o.names()),
]
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
# algorithms of evosax behind one adapter, and one process with two acquisitions: others of their kind have all tests
RULES = (
    "soap",
    "shampoo",
    "normuon",
    "schedule_free",
    "nag",
    "momentum",
    "adamw",
    "prodigy",
)  # of optax, through one lift
ALIKE = {f"baseline {kind}" for kind in (*RULES, "pso", "snes", "sep_cma_es", "xnes", "pgpe", "evosax_les", "gp_ucb")}
LARGE = {"fresh optformer", "fresh rnn"}
every_way = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if isinstance(n, str) and n in ALIKE else n for n in OPTIMIZERS]
)


@functools.cache
def build(name):
    source, name = name.split(" ", 1)
    if source == "shipped":
        return l2o.load(name).optimizer
    if source == "fresh":
        # the shipped ones are of full size
        small = {
            "optformer": {"bins": 16, "width": 16, "heads": 2, "feedforward": 16, "decoder_layers": 1},
            "pfn": {
                "width": 8,
                "heads": 2,
                "feedforward": 8,
                "layers": 1,
                "parameter_width": 8,
                "processes": 2,
                "buckets": 8,
                "max_trials": 8,
                "initial": 1,
                "candidates": 8,
                "ascent_steps": 1,
                "max_pending": 2,
            },
            "memory": {
                "hidden": 8,
                "slots": 4,
                "width": 8,
                "buckets": 8,
                "max_trials": 8,
                "initial": 1,
                "candidates": 8,
                "ascent_steps": 1,
                "max_pending": 2,
            },
            "rnn": {"hidden": 4, "pooled": 2, "candidates": 4, "max_trials": 4},
        }
        learned = l2o.kinds(l2o.OptimizerConfig)[name](**small.get(name, {})).build()
        return learned.bind(jax.jit(learned.init)(jax.random.key(0)))
    return baseline(name)


@functools.cache
def space(name):
    """The box, for optimizers that refuse a free space."""
    free = Problem(Space.free(), START)
    try:
        jax.eval_shape(lambda: build(name).init(jax.random.key(0), free))
    except UserError:
        return BOX
    return Space.free()


def loss(key, x):
    """Not convex, and noisy."""
    return jnp.sum(jnp.cosh(x["w"]) + jnp.sin(x["w"] + 0.1 * jax.random.normal(key))) + jnp.cos(x["b"]) * x["b"]


def problem(name, start=START, horizon=20):
    return Problem(space(name), start, jnp.asarray(1.0), jnp.asarray(horizon))


def task_of(problem):
    """Gives gradients, except on a box."""
    task = Task.from_loss(loss, problem)
    if problem.space.is_free:
        return task
    return task._replace(evaluate=lambda key, x: task.evaluate(key, x)._replace(gradient=None))


@jax.jit
def evaluate(key, problem, x):
    return task_of(problem).evaluate(key, x)


def rounds(optimizer, problem, count=3):
    """Rounds of ask, evaluate, tell in plain Python; the queries of each, and the last state."""
    init_key, run_key = jax.random.split(jax.random.key(1))
    state, queries = optimizer.init(init_key, problem), []
    for t in range(count):
        ask_key, evaluate_key, tell_key = jax.random.split(jax.random.fold_in(run_key, t), 3)
        x, state = optimizer.ask(ask_key, state)
        state = optimizer.tell(tell_key, state, x, evaluate(evaluate_key, problem, x))
        queries.append(x)
    return queries, state


@functools.cache
def compiled(name):
    """The optimizer with each of its functions compiled, and how often each was traced."""
    optimizer, traced = build(name), []

    def counted(field):
        def call(*args):
            traced.append(field)
            return getattr(optimizer, field)(*args)

        return jax.jit(call)

    return l2o.Optimizer(*(counted(field) for field in l2o.Optimizer._fields)), traced


def scanned(optimizer, problem):
    """What `rounds` gives, by `unroll`."""
    init_key, run_key = jax.random.split(jax.random.key(1))
    state = optimizer.init(init_key, problem)
    state, trajectory = unroll(optimizer, task_of(problem), state, run_key, 3)
    return trajectory.x, state


def looped(name, problem):
    queries, state = rounds(compiled(name)[0], problem)
    return jax.tree.map(lambda *x: jnp.stack(x), *queries), state


def shapes(tree):
    return jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a)), tree)


def assert_close(name, a, b):
    # climbing a flat function amplifies rounding, and so does the attention of evosax's rule, on some processors
    tolerance = 1e-3 if name.startswith(("baseline gp_", "baseline evosax_lga")) else 1e-5
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, tolerance, tolerance), a, b)


def test_the_table_is_not_empty():
    found = [name for name in OPTIMIZERS if isinstance(name, str)]
    assert {"baseline adam", "baseline sgd", "baseline cma_es", "baseline gp_ei"} <= set(found)
    assert {"fresh lstm", "fresh les", "fresh lga"} <= set(found)
    assert "baseline tpe" not in found


@every_optimizer
def test_signatures(name):
    expected = {"init": ["key", "problem"], "ask": ["key", "state"], "tell": ["key", "state", "x", "evaluation"]}
    found = {field: list(inspect.signature(f).parameters) for field, f in build(name)._asdict().items()}
    assert found == expected


@every_way
def test_shapes_are_stable_and_ask_may_be_called_twice(name):
    optimizer, chosen = compiled(name)[0], problem(name)
    init_key, *keys = jax.random.split(jax.random.key(1), 5)
    state = optimizer.init(init_key, chosen)
    first, asked = optimizer.ask(keys[0], state)
    second, asked_again = optimizer.ask(keys[1], asked)
    told = optimizer.tell(keys[3], asked_again, first, evaluate(keys[2], chosen, first))
    states, queries = (state, asked, asked_again, told), (first, second)
    for state in states:
        assert jax.tree.structure(state) == jax.tree.structure(states[0])
        assert shapes(state) == shapes(states[0])
    n = population_size(queries[0])
    assert n >= 1
    for x in queries:
        assert shapes(x) == jax.tree.map(lambda a: ((n, *a.shape), a.dtype), START)
        assert all(chosen.space.contains(jax.tree.map(lambda a, i=i: a[i], x)) for i in range(n))


# op by op these two take longest, and each function of theirs is compared in the other tests and, in a release, here
EAGER = [pytest.param(n, marks=pytest.mark.slow) if n in ALIKE | LARGE else n for n in OPTIMIZERS if isinstance(n, str)]


@pytest.mark.parametrize("name", [*EAGER, *(n for n in OPTIMIZERS if not isinstance(n, str))])
def test_jit_equals_eager(name):
    eager, jitted = rounds(build(name), problem(name)), rounds(compiled(name)[0], problem(name))
    assert_close(name, jitted, eager)


@pytest.mark.slow  # the next one has the same scan, over a batch
@every_way
def test_scan_equals_a_loop(name):
    found = jax.jit(functools.partial(scanned, build(name)))(problem(name))
    assert_close(name, found, looped(name, problem(name)))


@every_way
def test_vmap_over_problems_equals_a_loop(name):
    problems = [
        problem(name, jax.tree.map(lambda a, s=s: s * a, START), 10 * i + 5) for i, s in enumerate((1.0, -0.7, 0.3))
    ]
    batched = jax.jit(jax.vmap(functools.partial(scanned, build(name))))(
        jax.tree.map(lambda *a: jnp.stack(a), *problems)
    )
    for i, single in enumerate(problems):
        assert_close(name, jax.tree.map(lambda a, i=i: a[i], batched), looped(name, single))


@every_optimizer
def test_each_function_is_traced_once_whatever_the_horizon(name):
    optimizer, traced = compiled(name)
    for horizon in (5, 50):
        rounds(optimizer, problem(name, horizon=horizon))
    assert sorted(traced) == ["ask", "init", "tell"]
