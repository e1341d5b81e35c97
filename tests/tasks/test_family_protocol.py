"""What every registered task family promises, with its default settings."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from l2o.core import population_size
from meta.recordings.rollouts import RolloutsConfig, generate
from tasks.family import FamilyConfig, TaskFamily

# what nothing is trained on has tests of its own, test_tables.py
KINDS = [kind for kind, config in l2o.kinds(FamilyConfig).items() if "train" in config.splits]
# families of networks through one base class, of which others have all tests, and tests/tasks/networks/ has more
ALIKE = ("autoencoder", "characters", "conv_classifier", "coordinate_network", "residual_classifier", "vit_classifier")
PARAMETERS = [pytest.param(kind, marks=pytest.mark.slow) if kind in ALIKE else kind for kind in KINDS]
FIELDS = {
    "function": {"function": "hartmann6"},
    "mixture": {"families": [{"kind": "mlp_classifier"}, {"kind": "quadratic"}]},
    "neuroevolution": {"family": {"kind": "mlp_classifier"}},
    "rescaled": {"family": {"kind": "quadratic"}, "parameters": 1.0, "per": "coordinate", "objective": 1.0},
    # smooth activations, as a kink between two points makes their difference wrong
    "autoencoder": {"width": 6, "bottleneck": 3, "batch_size": 8},
    "coordinate_network": {
        "dataset": {"kind": "digits"},
        "width": 8,
        "depth": 1,
        "activation": "tanh",
        "batch_size": 8,
    },
    "factorisation": {"vocabulary": 20, "width": 4, "batch_size": 8},
    "regression": {"width": 6, "activation": "swish", "batch_size": 8},
    "residual_classifier": {"channels": (4,), "activation": "gelu", "pool_first": True, "batch_size": 4},
    "vit_classifier": {"width": 8, "depth": 1, "heads": 2, "batch_size": 4},
}


@pytest.fixture(scope="module", autouse=True)
def _files(tmp_path_factory):
    """The files of those families that have none in the package."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    tables = {
        "1": {str(i): {"X": rng.uniform(size=(8, 2)).tolist(), "y": rng.uniform(size=8).tolist()} for i in range(9)}
    }
    for split in ("train", "test"):
        (folder / f"meta-{split}-dataset.json").write_text(json.dumps(tables))
    FIELDS["hpob"] = {"path": str(folder)}
    teacher = {"studies": 16, "optimizer": {"kind": "random"}}
    task = {"kind": "bbob_mixed", "functions": ["sphere"], "noises": ["none"]}
    generate(RolloutsConfig.model_validate({"task": task, "teachers": [teacher], "trials": 4}), folder / "set", seed=0)
    FIELDS["trajectories"] = {"paths": [str(folder / "set")]}


def configured(kind):
    return l2o.kinds(FamilyConfig)[kind](**FIELDS.get(kind, {}))


@pytest.fixture(scope="module", params=PARAMETERS)
def family(request):
    return configured(request.param).build().parts[-1]


@pytest.fixture(scope="module")
def params(family):
    return jax.jit(lambda family: family.sample(jax.random.key(0)))(family)


def many(x, n):
    """n copies of a point, slightly apart."""
    return jax.tree.map(lambda a: jnp.stack([a * (1 + 0.1 * i) for i in range(n)]), x)


def test_the_table_is_not_empty():
    assert {"quadratic", "mlp_classifier", "conv_classifier"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_config_builds_both_splits_and_is_hashable(kind, split):
    config = configured(kind)
    family = config.build(split)
    assert isinstance(family, TaskFamily)
    for part in family.parts:
        assert jax.tree.leaves(jax.eval_shape(part.sample, jax.random.key(0)))
    assert hash(config) == hash(configured(kind))


def test_the_family_is_a_pytree(family):
    leaves, tree = jax.tree.flatten(family)
    again = jax.tree.unflatten(tree, leaves)
    assert type(again) is type(family)
    assert jax.tree.structure(again) == tree and hash(tree) == hash(jax.tree.structure(again))
    for first, second in zip(leaves, jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("n", [1, 3])
def test_evaluate_has_a_leading_axis(family, params, n):
    task = family.task(params)
    x = many(task.problem.start, n)
    assert population_size(x) == n
    evaluation = jax.jit(task.evaluate)(jax.random.key(3), x)
    assert evaluation.value.shape == (n,)
    assert np.all(np.isfinite(evaluation.value))
    if evaluation.gradient is not None:
        same = jax.tree.map(lambda g, a: g.shape == a.shape and bool(jnp.all(jnp.isfinite(g))), evaluation.gradient, x)
        assert all(jax.tree.leaves(same))


def test_the_start_lies_in_the_space(family, params):
    problem = family.task(params).problem
    assert problem.space.contains(problem.start)


def test_sampling_and_evaluation_are_one_vmap(family):
    def run(family, key):
        sample_key, evaluate_key, measure_key = jax.random.split(key, 3)
        task = family.task(family.sample(sample_key))
        return task.evaluate(evaluate_key, many(task.problem.start, 1)), task.measure(measure_key, task.problem.start)

    keys = jax.random.split(jax.random.key(5), 3)
    together, alone = jax.jit(jax.vmap(run, (None, 0)))(family, jax.random.clone(keys)), jax.jit(run)
    for i in range(3):
        one = alone(family, keys[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5), together, one)
    assert len(set(np.asarray(together[0].value).ravel().tolist())) == 3, "the tasks of a batch are different"
    again = alone(family, jax.random.clone(keys)[2])
    jax.tree.map(np.testing.assert_array_equal, one, again)


def test_the_horizon_is_data(family, params):
    traces = []

    @jax.jit
    def run(family, params, horizon):
        traces.append(horizon)
        task = family.task(params).with_horizon(horizon)
        return task.problem.horizon, task.evaluate(jax.random.key(8), many(task.problem.start, 1)).value

    (short, value), (long, same) = run(family, params, 7), run(family, params, 1000)
    assert (short, long) == (7, 1000) and len(traces) == 1
    np.testing.assert_array_equal(value, same)


def test_measures_are_scalars_of_one_point(family, params):
    task = family.task(params)
    for measure in task.measure(jax.random.key(11), task.problem.start).values():
        assert jnp.shape(measure) == () and jnp.isfinite(measure)


def test_gradient_equals_a_finite_difference(family, params):
    """Along a random direction, in float64, with one key and so one minibatch."""
    with jax.enable_x64(True):
        task = family.task(params)
        start = jax.tree.map(lambda a: a.astype(jnp.float64), task.problem.start)
        leaves, tree = jax.tree.flatten(start)
        keys = jax.random.split(jax.random.key(13), len(leaves))
        normals = [jax.random.normal(k, a.shape, jnp.float64) for k, a in zip(keys, leaves, strict=True)]
        direction = jax.tree.unflatten(tree, normals)
        evaluate = jax.jit(task.evaluate)

        def at(step):
            return evaluate(jax.random.key(14), jax.tree.map(lambda a, d: (a + step * d)[None], start, direction))

        gradient = at(0.0).gradient
        if gradient is None:
            pytest.skip("a black-box family")
        slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), normals, strict=True))
        difference = (at(1e-5).value[0] - at(-1e-5).value[0]) / 2e-5
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(difference, slope, rtol=1e-5)
