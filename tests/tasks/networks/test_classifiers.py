import dataclasses
from math import erf
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.datasets import Dataset, DigitsConfig
from tasks.networks.classifiers import Classifier, MLPClassifierConfig
from tasks.networks.convolutions import ConvClassifierConfig
from tasks.networks.layers import ACTIVATIONS

CLASSES = 3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


NUMPY_ACTIVATIONS = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2))),
    "swish": lambda x: x * sigmoid(x),
}


def numpy_loss(name, logits, labels):
    if name == "cross_entropy":
        log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -log_probabilities[np.arange(len(labels)), labels].mean()
    return ((logits - np.eye(logits.shape[1])[labels]) ** 2).sum(-1).mean()


def small_data(seed=0, n=12, heldout=7, shape=(4, 4, 1)) -> Dataset:
    rng = np.random.default_rng(seed)
    images, heldout_images = (rng.uniform(size=(size, *shape)).astype(np.float32) for size in (n, heldout))
    labels, heldout_labels = (rng.integers(0, CLASSES, size).astype(np.int32) for size in (n, heldout))
    return Dataset(*map(jnp.asarray, (images, labels, heldout_images, heldout_labels)))


def small(config, **data) -> Classifier:
    return Classifier(small_data(**data), CLASSES, config)


def one_image_each(n=5, **fields) -> Classifier:
    """Softmax regression on n images of one bright pixel each: the gradient shows which of them were drawn."""
    images = np.eye(n, dtype=np.float32).reshape(n, n, 1, 1)
    labels = np.arange(n, dtype=np.int32) % CLASSES
    config = MLPClassifierConfig(depth=0, start_scale=1.0, loss="squared_error", **fields)
    return Classifier(Dataset(*map(jnp.asarray, (images, labels, images, labels))), CLASSES, config)


def counts_of(family: Classifier, key) -> np.ndarray:
    """How often each image of `one_image_each` is in the minibatch of a key.

    With all weights 0 the gradient of the squared error is -2 / batch_size times the sum of x_i one_hot(label_i).
    """
    params = jax.tree.map(jnp.zeros_like, family.sample(jax.random.key(0)))
    task = family.task(params)
    gradient = task.evaluate(key, jax.tree.map(lambda a: a[None], params)).gradient
    counts = -family.config.batch_size / 2 * np.asarray(gradient["linear"]["w"][0]).sum(-1)
    np.testing.assert_allclose(counts, np.rint(counts), atol=0.01)
    return np.rint(counts).astype(int)


@pytest.mark.parametrize(
    ("activation", "loss"), [*((name, "cross_entropy") for name in ACTIVATIONS), ("tanh", "squared_error")]
)
def test_mlp_equals_numpy(activation, loss):
    family = small(MLPClassifierConfig(activation=activation, loss=loss, width=6, depth=2, start_scale=0.7))
    params = family.sample(jax.random.key(1))
    measured = family.task(params).measure(jax.random.key(2), params)

    x = np.asarray(family.data.heldout_images, np.float64).reshape(7, -1)
    weights = [jax.tree.map(np.asarray, params[name]) for name in ("linear", "linear_1", "linear_2")]
    for layer in weights[:-1]:
        x = NUMPY_ACTIVATIONS[activation](x @ layer["w"] + layer["b"])
    logits, labels = x @ weights[-1]["w"] + weights[-1]["b"], np.asarray(family.data.heldout_labels)

    assert set(measured) == {"heldout_loss", "heldout_accuracy"}
    # jax.nn.gelu is the tanh approximation
    tolerance = 2e-3 if activation == "gelu" else 1e-5
    np.testing.assert_allclose(measured["heldout_loss"], numpy_loss(loss, logits, labels), rtol=tolerance)
    np.testing.assert_allclose(measured["heldout_accuracy"], (logits.argmax(-1) == labels).mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MLPClassifierConfig(), 64 * 20 + 20 + 20 * 10 + 10),
        (MLPClassifierConfig(depth=0), 64 * 10 + 10),
        (MLPClassifierConfig(depth=3, width=7), 64 * 7 + 7 + 2 * (7 * 7 + 7) + 7 * 10 + 10),
        (ConvClassifierConfig(channels=(3, 5)), 9 * 3 + 3 + 27 * 5 + 5 + 2 * 2 * 5 * 10 + 10),
    ],
)
def test_number_of_parameters_on_digits(config, expected):
    params = jax.eval_shape(config.build().sample, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_the_splits_of_the_family_are_those_of_the_dataset():
    for split in ("train", "test"):
        family, data = MLPClassifierConfig().build(split), DigitsConfig().load(split)
        assert family.classes == 10
        for found, expected in zip(family.data, data, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_minibatches_differ_by_key_and_are_reproducible():
    family = one_image_each(n=50, batch_size=20)
    first, again = counts_of(family, jax.random.key(3)), counts_of(family, jax.random.key(3))
    other = counts_of(family, jax.random.key(4))
    assert first.sum() == other.sum() == 20
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_image_is_drawn_equally_often_and_with_replacement():
    n, draws = 5, 4000
    counts = counts_of(one_image_each(n=n, batch_size=draws), jax.random.key(5))
    assert counts.sum() == draws
    np.testing.assert_allclose(counts, draws / n, atol=4 * np.sqrt(draws / n))


@pytest.mark.parametrize("n", [1, 3])
def test_each_query_sees_one_minibatch_of_its_own(n):
    """Value and gradient of one query belong to the same rows; the queries of a round draw their rows apart."""
    family = one_image_each(n=6, batch_size=4)
    params = family.sample(jax.random.key(6))
    evaluation = family.task(params).evaluate(jax.random.key(7), jax.tree.map(lambda a: jnp.stack([a] * n), params))
    assert evaluation.value.shape == (n,)

    w, b = (np.asarray(params["linear"][name], np.float64) for name in ("w", "b"))
    residual = w + b - np.eye(CLASSES)[np.asarray(family.data.labels)]
    counts = []
    for i in range(n):
        count = 4 / 2 * np.asarray(evaluation.gradient["linear"]["w"][i])[:, 0] / residual[:, 0]
        np.testing.assert_allclose(count, np.rint(count), atol=1e-3)
        count = np.rint(count)
        assert count.sum() == 4
        np.testing.assert_allclose(evaluation.value[i], count @ (residual**2).sum(-1) / 4, rtol=1e-5)
        expected_w, expected_b = 2 / 4 * count[:, None] * residual, 2 / 4 * count @ residual
        np.testing.assert_allclose(evaluation.gradient["linear"]["w"][i], expected_w, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(evaluation.gradient["linear"]["b"][i], expected_b, rtol=1e-4, atol=1e-5)
        counts.append(tuple(count))
    assert len(set(counts)) == n


def test_cross_entropy_gradient_is_that_of_the_mean_loss_on_the_drawn_rows():
    """The rows are found with the squared error, whose gradient shows them, and the same key."""
    shows = one_image_each(n=6, batch_size=8)
    counts = counts_of(shows, jax.random.key(8))
    data = small_data(n=6)
    family = Classifier(data, CLASSES, MLPClassifierConfig(depth=0, start_scale=1.0, batch_size=8))
    params = family.sample(jax.random.key(9))
    evaluation = family.task(params).evaluate(jax.random.key(8), jax.tree.map(lambda a: a[None], params))

    x, labels = np.asarray(data.images, np.float64).reshape(6, -1), np.asarray(data.labels)
    logits = x @ np.asarray(params["linear"]["w"]) + np.asarray(params["linear"]["b"])
    losses = np.array([numpy_loss("cross_entropy", logits[i : i + 1], labels[i : i + 1]) for i in range(6)])
    error = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) - np.eye(CLASSES)[labels]
    np.testing.assert_allclose(evaluation.value, [counts @ losses / 8], rtol=1e-5)
    expected = x.T @ (counts[:, None] * error) / 8
    np.testing.assert_allclose(evaluation.gradient["linear"]["w"][0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("config", [MLPClassifierConfig(width=4), ConvClassifierConfig(channels=(2,))])
def test_images_are_arguments_of_a_program_and_not_constants(config):
    family = small(config, n=100, heldout=100)
    leaves = jax.tree.leaves(family)
    assert len(leaves) == 4 and all(any(leaf is a for leaf in leaves) for a in family.data)

    def run(family, key):
        sample_key, evaluate_key, measure_key = jax.random.split(key, 3)
        params = family.sample(sample_key)
        task = family.task(params)
        return task.evaluate(evaluate_key, jax.tree.map(lambda a: a[None], params)), task.measure(measure_key, params)

    def constants(function, *arguments):
        return sum(np.size(constant) for constant in jax.make_jaxpr(function)(*arguments).consts)

    assert constants(run, family, jax.random.key(15)) < 100
    closed_over = constants(lambda key: run(family, key), jax.random.key(15))
    assert closed_over >= family.data.images.size, "the check above would not see images in constants"


def test_equal_configurations_share_a_program():
    traces = []

    @jax.jit
    def sample(family, key):
        traces.append(family)
        return family.sample(key)

    for seed in (0, 1):
        sample(small(ConvClassifierConfig(channels=[2, 3]), seed=seed), jax.random.key(16 + seed))
    assert len(traces) == 1
    assert hash(MLPClassifierConfig()) == hash(MLPClassifierConfig(dataset=DigitsConfig()))
    assert hash(MLPClassifierConfig()) != hash(MLPClassifierConfig(width=21))


def test_normal_start():
    """Every weight and every bias is drawn, all with one standard deviation, each leaf from randomness of its own."""
    family = small(MLPClassifierConfig(width=40, depth=3, start_scale=0.5))
    params = family.sample(jax.random.key(18))
    for leaf in jax.tree.leaves(params):
        if leaf.size >= 40:
            np.testing.assert_allclose(np.std(leaf), 0.5, rtol=5 / np.sqrt(2 * leaf.size))
    assert np.abs(params["linear_3"]["b"]).min() > 0
    assert not np.array_equal(params["linear_1"]["w"], params["linear_2"]["w"])
    again = small(MLPClassifierConfig(width=40, depth=3, start_scale=1.0)).sample(jax.random.key(18))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-6), params, again)


def test_lecun_start_is_haikus_default_times_the_scale():
    fields = {"width": 40, "init": "lecun"}
    params = small(MLPClassifierConfig(start_scale=1.0, **fields)).sample(jax.random.key(19))
    draws = hk.initializers.TruncatedNormal(1 / np.sqrt(16))
    reference = hk.transform(lambda: draws((16, 4000), jnp.float32)).apply({}, jax.random.key(20))
    assert np.abs(params["linear"]["w"]).max() <= np.abs(reference).max() * 1.01
    np.testing.assert_allclose(np.std(params["linear"]["w"]), np.std(reference), rtol=0.1)
    np.testing.assert_allclose(
        np.std(params["linear_1"]["w"]) * np.sqrt(40), np.std(params["linear"]["w"]) * np.sqrt(16), rtol=0.2
    )
    assert not np.any(params["linear"]["b"]) and not np.any(params["linear_1"]["b"])
    scaled = small(MLPClassifierConfig(start_scale=0.5, **fields)).sample(jax.random.key(19))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(0.5 * a, b, rtol=1e-6), params, scaled)


@pytest.mark.parametrize(
    "fields", [{"activation": "sine"}, {"batch_size": 0}, {"width": 0}, {"depth": -1}, {"start_scale": -0.1}]
)
def test_impossible_settings_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        MLPClassifierConfig(**fields)


# several activations


@pytest.mark.slow
def test_each_task_draws_one_of_several_activations():
    names = ("relu", "tanh", "swish")
    fields: dict[str, Any] = {"width": 5, "depth": 2, "start_scale": 1.0, "batch_size": 6}
    several = small(MLPClassifierConfig(activation=names, **fields))
    weights, numbers = jax.jit(jax.vmap(several.sample))(jax.random.split(jax.random.key(21), 60))
    assert np.bincount(numbers, minlength=3).min() > 8

    @jax.jit
    def judged(family, params, x):
        task = family.task(params)
        at = jax.tree.map(lambda a: a[None], x)
        return task.problem.start, task.evaluate(jax.random.key(22), at), task.measure(jax.random.key(23), x)

    values = []
    x = jax.tree.map(lambda a: a[0], weights)
    for number, name in enumerate(names):
        found = judged(several, (x, jnp.asarray(number)), x)
        expected = judged(small(MLPClassifierConfig(activation=name, **fields)), x, x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
        values.append(float(found[1].value[0]))
    assert min(np.diff(sorted(values))) > 1e-4, "the comparison above would see another activation"


def test_a_batch_of_tasks_with_different_activations_is_one_vmap():
    family = small(MLPClassifierConfig(width=5, activation=["relu", "sigmoid"], start_scale=1.0))
    params = jax.vmap(family.sample)(jax.random.split(jax.random.key(24), 6))
    assert len(set(params[1].tolist())) == 2

    def measured(params):
        return family.task(params).measure(jax.random.key(25), params[0])["heldout_loss"]

    found = jax.jit(jax.vmap(measured))(params)
    expected = [measured(jax.tree.map(lambda a, i=i: a[i], params)) for i in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_one_activation_in_a_list_is_that_activation():
    alone, listed = (small(MLPClassifierConfig(activation=a)) for a in ("tanh", ["tanh"]))
    params = alone.sample(jax.random.key(26))
    jax.tree.map(np.testing.assert_array_equal, listed.sample(jax.random.key(26)), params)
    for bad in ([], ["tanh", "sine"]):
        with pytest.raises(ValueError, match="activation"):
            MLPClassifierConfig(activation=bad)


@pytest.mark.parametrize(("residual", "layer_norm"), [(True, False), (False, True), (True, True)])
def test_residual_and_normalised_layers_equal_numpy(residual, layer_norm):
    config = MLPClassifierConfig(
        width=6, depth=3, activation="tanh", start_scale=0.7, residual=residual, layer_norm=layer_norm
    )
    family = small(config)
    params = family.sample(jax.random.key(27))
    measured = family.task(params).measure(jax.random.key(28), params)
    x = np.asarray(family.data.heldout_images, np.float64).reshape(7, -1)
    for i, suffix in enumerate(("", "_1", "_2")):
        y = x @ np.asarray(params[f"linear{suffix}"]["w"]) + np.asarray(params[f"linear{suffix}"]["b"])
        if layer_norm:
            norm = params[f"layer_norm{suffix}"]
            y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
            y = y * np.asarray(norm["scale"]) + np.asarray(norm["offset"])
        x = np.tanh(y) + (x if residual and i else 0)
    logits = x @ np.asarray(params["linear_3"]["w"]) + np.asarray(params["linear_3"]["b"])
    expected = numpy_loss("cross_entropy", logits, np.asarray(family.data.heldout_labels))
    np.testing.assert_allclose(measured["heldout_loss"], expected, rtol=1e-5)
    assert ("layer_norm_2" in params) == layer_norm


def test_normalised_layers_start_as_haiku_starts_them():
    params = small(MLPClassifierConfig(layer_norm=True, init="lecun", start_scale=1.0)).sample(jax.random.key(29))
    np.testing.assert_array_equal(params["layer_norm"]["scale"], 1)
    np.testing.assert_array_equal(params["layer_norm"]["offset"], 0)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_validation_images_are_judged_and_never_learned_from(weight):
    """The last fifth of the images is set to NaN: the gradient does not notice, what is judged does."""
    config = MLPClassifierConfig(width=3, batch_size=16, validation=weight)
    family, key = config.build(), jax.random.key(40)
    weights = family.sample(jax.random.key(41))
    point = jax.tree.map(lambda a: a[None], weights)
    whole = jax.jit(family.task(weights).evaluate)(key, point)
    kept = family.data.labels.shape[0] * 4 // 5
    spoilt = dataclasses.replace(family, data=family.data._replace(images=family.data.images.at[kept:].set(jnp.nan)))
    other = jax.jit(spoilt.task(weights).evaluate)(jax.random.clone(key), point)
    np.testing.assert_array_equal(other.value, whole.value)
    jax.tree.map(np.testing.assert_array_equal, other.gradient, whole.gradient)
    assert np.isnan(other.judged).all() and np.isfinite(whole.judged).all()
    alone = dataclasses.replace(family, config=config.model_copy(update={"validation": 1.0}))
    validation = jax.jit(alone.task(weights).evaluate)(jax.random.clone(key), point).judged
    np.testing.assert_allclose(whole.judged, whole.value ** (1 - weight) * validation**weight, rtol=1e-5)


def test_a_training_loss_below_the_floor_does_not_count_beside_validation():
    config = MLPClassifierConfig(width=3, batch_size=16, validation=0.5)
    family, key = config.build(), jax.random.key(42)
    weights = family.sample(jax.random.key(43))
    point = jax.tree.map(lambda a: a[None], weights)
    free = jax.jit(family.task(weights).evaluate)(key, point)
    floored = dataclasses.replace(family, config=config.model_copy(update={"training_floor": 9.0}))
    other = jax.jit(floored.task(weights).evaluate)(jax.random.clone(key), point)
    assert free.value < 9
    np.testing.assert_array_equal(other.value, free.value)
    np.testing.assert_allclose(other.judged, free.judged * (9 / free.value) ** 0.5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "value", "norm"),
    [
        ({}, 2.32415509, 0.119661003),
        ({"activation": ("relu", "tanh"), "loss": "squared_error"}, 1.12690425, 3.37349224),
    ],
)
def test_the_numbers_of_the_first_release(fields, value, norm):
    """Value and squared norm of the gradient, which studies that were published rest on."""
    family = MLPClassifierConfig(**fields).build("test")

    @jax.jit
    def run(family):
        task = family.task(family.sample(jax.random.key(7)))
        evaluation = task.evaluate(jax.random.key(8), jax.tree.map(lambda a: a[None], task.problem.start))
        return evaluation.value[0], sum(jnp.sum(g**2) for g in jax.tree.leaves(evaluation.gradient))

    np.testing.assert_allclose(run(family), (value, norm), rtol=1e-4)
