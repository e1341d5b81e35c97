"""Recorded studies and the imitation learner: no future is seen, augmentation and devices change no study."""

import functools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o import UserError
from l2o.core import LearnedOptimizer
from l2o.optformer.model import NOWHERE, SLOTS
from l2o.optformer.optformer import OptFormerConfig
from l2o.optformer.prompt import METADATA
from l2o.record import ALGORITHMS
from meta.learner.base import LearnerConfig
from meta.learner.imitation import ImitationConfig
from meta.objective import SumConfig
from meta.recordings.recorded import TrajectoriesConfig
from meta.recordings.trajectories import Manifest, Studies, Writer
from meta.trainer import MetaConfig, train
from tasks.quadratic import QuadraticConfig

TINY = OptFormerConfig(bins=8, width=16, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1, max_trials=6)
TRIALS, BUCKETS = 6, (8, 24)


def studies(count=40, seed=0):
    """Three parameters, of which every second study has two: a real number, three categories, a log scale."""
    rng = np.random.default_rng(seed)
    low, high = np.tile([0.0, 0.0, 1.0], (count, 1)), np.tile([1.0, 2.0, 100.0], (count, 1))
    x = rng.uniform(low[:, None], high[:, None], (count, TRIALS, 3))
    x[..., 1] = np.round(x[..., 1])
    dimension = 3 - np.arange(count) % 2
    levels, scale, ordered = (
        np.tile([0, 3, 0], (count, 1)),
        np.tile([0, 0, 1], (count, 1)),
        np.tile([1, 0, 1], (count, 1)),
    )
    for array, value in ((low, 0), (high, 1), (levels, 0), (scale, 0), (ordered, 1)):
        array[dimension == 2, 2] = value
    x[dimension == 2, :, 2] = 0
    y = rng.normal(size=(count, TRIALS))
    y[3, 2] = np.nan
    length = np.full(count, TRIALS)
    length[::5] = 4
    return Studies(
        *(np.asarray(a, t) for a, t in ((x, np.float32), (y, np.float32), (length, np.int32), (dimension, np.int32))),
        low.astype(np.float32), high.astype(np.float32), levels.astype(np.int32), scale.astype(np.int32),
        ordered.astype(bool), np.asarray(np.arange(count) % len(ALGORITHMS), np.int32), np.zeros(count, np.int32),
        np.zeros(count, np.uint32),
    )  # fmt: skip


def write(path, data):
    path.mkdir()
    manifest = Manifest(
        made_with="0", seed=0, config={}, origins=("f",), licence=None, trials=TRIALS, dimension=3, planned=1
    )
    Writer(path, manifest).add(0, data)
    return path


def named(data):
    """The same studies with names."""
    space = {"lr 学": {"kind": "float", "low": 0.0, "high": 1.0}, "opt": ["a", "b", "c"]}
    third = {"width": {"kind": "float", "low": 1.0, "high": 100.0, "scale": "log"}}
    documents = [
        json.dumps(
            {"name": f"study {i}", "metric": "loss", "goal": "maximize", "space": space | (third if d == 3 else {})}
        ).encode()
        for i, d in enumerate(data.dimension)
    ]
    text = np.frombuffer(b"".join(documents), np.uint8)
    return data._replace(text=text, text_end=np.cumsum([len(d) for d in documents]).astype(np.int64))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    write(folder / "plain", studies())
    write(folder / "named", named(studies(seed=1)))
    return folder


@pytest.fixture(scope="module")
def family(paths):
    return TrajectoriesConfig(paths=(str(paths / "plain"), str(paths / "named")), held_out=0.1).build()


@functools.partial(jax.jit, static_argnames=("above", "most", "count", "names", "held_out"))
def drawn(family, above, most, count=64, names=False, held_out=False):
    keys = jax.random.split(jax.random.key(0), count)
    return jax.vmap(lambda key: family.draw(key, above, most, names=names, held_out=held_out))(keys)


@jax.jit
def likelihoods(problem, run):
    theta = TINY.build().init(jax.random.key(0))
    return jax.vmap(lambda p, r: TINY.build().log_prob(theta, p, r))(problem, run)


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("bucket", [(0, 8), (8, 24)])
def test_draws_fit_their_bucket(family, bucket, names):
    problem, run = drawn(family, *bucket, names=names)
    assert problem.context.token.shape[1] == family.lengths[names]
    tokens = run.mask.sum(1) * (problem.context.parameters + 1)
    assert np.all(tokens > bucket[0]) and np.all(tokens <= bucket[1])
    assert problem.context.reads.shape[1] == bucket[1]
    assert len(np.unique(tokens)) > 2


def test_values_are_scaled_by_what_is_left(family):
    """Changing what lies after the cut changes no token."""
    problem, run = drawn(family, 0, 24)
    scale = jax.vmap(lambda r, y: r.tokens(y[:, 0], TINY.vocabulary))(problem.context.range, run.evaluation.value)
    kept = np.where(np.asarray(run.mask), np.asarray(scale), -1)
    marks = (TINY.vocabulary.infeasible, TINY.vocabulary.pending)
    assert kept[~np.isin(kept, marks)].max() < TINY.bins
    y = np.where(
        np.asarray(run.mask) & ~np.isneginf(run.evaluation.value[..., 0]), run.evaluation.value[..., 0], np.nan
    )
    some = np.isfinite(y).any(1)  # of a short study all may be in progress
    y, scaling = y[some], jax.tree.map(lambda a: np.asarray(a)[some], problem.context.range)
    least, most = np.fmin.accumulate(y, 1), np.fmax.accumulate(y, 1)
    # that of all, or of the first trials; single precision
    of_some = np.isclose(scaling.anchor[:, None], least, rtol=1e-6)
    of_some &= np.isclose(scaling.span[:, None], most - least, rtol=1e-5, atol=1e-6)
    assert of_some.any(1).all() and np.mean(of_some[:, -1]) < 0.9
    whole = replace(family, config=family.config.model_copy(update={"rescale": False}))
    problem, _ = drawn(whole, 0, 24)
    anchor, span = (np.asarray(a)[some] for a in problem.context.range[:2])
    np.testing.assert_allclose(anchor, least[:, -1], rtol=1e-6)
    np.testing.assert_allclose(span, (most - least)[:, -1], rtol=1e-5, atol=1e-6)


def dataclass_with(family, **changes):
    return replace(family, studies=family.studies._replace(**changes))


def cut_after(family):
    return jnp.arange(TRIALS)[None] >= family.studies.length[:, None]


def test_what_lies_beyond_a_study_is_not_seen(family):
    other = dataclass_with(family, y=jnp.where(cut_after(family), 1e6, family.studies.y))
    a, b = (likelihoods(*drawn(family, 8, 24)) for family in (family, other))
    np.testing.assert_array_equal(a["x"], b["x"])
    np.testing.assert_array_equal(a["y"], b["y"])


@pytest.mark.parametrize("names", [False, True])
def test_parameters_move_with_their_metadata(family, names):
    """A parameter, its space, its points and its metadata stand in one place, whatever the order."""
    problem, run = jax.tree.map(np.asarray, drawn(family, 8, 24, 200, names=names))
    space, told = problem.space, problem.context
    orders = set()
    for i in range(200):
        d, first = int(told.parameters[i]), int(told.first[i])
        kinds = []
        for j in range(d):
            slot = (first + j) % SLOTS
            token = np.asarray(told.token[i])[(np.asarray(told.slot[i]) == slot) & (np.asarray(told.token[i]) >= 0)]
            assert token[0] == METADATA.word("parameter")
            categorical = int(space.levels[i, j]) == 3
            assert token[1] == METADATA.word("categorical" if categorical else "float")
            assert token[2] == METADATA.word("log" if float(space.high[i, j]) == 100 else "linear")
            kinds.append((categorical, float(space.high[i, j])))
            name = [
                METADATA.byte(b) for b in ("opt" if categorical else "lr" if kinds[-1][1] == 1 else "width").encode()
            ]
            begin = 5 if categorical else 4
            assert list(token[begin : begin + len(name)]) == name if names else token.size <= begin
            points = np.asarray(run.x[i, :, 0, j])[np.asarray(run.mask[i])]
            assert np.all(points <= space.high[i, j]) and np.all(points >= space.low[i, j])
            assert not categorical or np.all(points == np.round(points))
        orders.add(tuple(kinds))
        head = np.asarray(told.token[i])[np.asarray(told.slot[i]) == NOWHERE]
        assert METADATA.algorithm("unknown") <= head[0] < METADATA.byte(0)
    assert len(orders) == 2 + 6


def rows(pools):
    return set(np.concatenate([pool.row for pool in pools]).tolist())


def test_held_out_studies_are_others(family):
    assert not rows(family.train) & rows(family.test)
    assert len(rows(family.train) | rows(family.test)) == 80
    problem, run = drawn(family, 8, 24, held_out=True)
    assert not jnp.any(run.evaluation.value == -jnp.inf)
    told = set(np.asarray(problem.context.token[:, 0] - METADATA.algorithm("unknown")).tolist())
    assert told <= {int(family.studies.algorithm[row]) for row in rows(family.test)}


def test_every_study_counts_with_its_weight_and_names_are_dropped_so_often(paths):
    """Of the weight of the named studies, which is 3 in 4, three tenths are told without names."""
    both = (str(paths / "plain"), str(paths / "named"))
    family = TrajectoriesConfig(paths=both, weights=(1, 3), drop_names=0.3, held_out=0.0125).build()
    plain, named = (np.asarray(pool.row) for pool in family.train)
    counted = (np.sum(plain < 40), np.sum(plain >= 40), np.sum(named < 40), np.sum(named >= 40))
    expected = np.array([40 * 1.0, 40 * 3 * 0.3, 0, 40 * 3 * 0.7])
    np.testing.assert_allclose(counted / np.sum(counted), expected / np.sum(expected), atol=0.02)
    assert family.train_named == named.size / (plain.size + named.size)
    assert np.all(np.diff(family.train[1].total) >= 0)


@pytest.mark.slow
def test_some_of_the_last_trials_are_told_as_in_progress(family, paths):
    """Not in studies without `pending`; in all cases the likelihood of their values is 0."""
    problem, run = drawn(family, 8, 24, 300)
    open_ = np.asarray(run.evaluation.value[..., 0] == -jnp.inf) & np.asarray(run.mask)
    assert 0.1 < np.mean(open_.any(1)) < 0.25
    found = likelihoods(problem, run)
    assert np.all(np.asarray(found["y"])[open_] == 0) and np.all(np.asarray(found["y"])[~open_ & run.mask] < 0)
    without = replace(family, config=family.config.model_copy(update={"pending": 0.0}))
    _, run = drawn(without, 8, 24, 300)
    assert not np.any(run.evaluation.value == -jnp.inf)


def test_a_recorded_study_is_a_task(family):
    """At a recorded point it has the recorded value."""
    params = family.sample(jax.random.key(0))
    task = family.task(params)
    found = task.evaluate(jax.random.key(1), params.x)
    used = np.arange(TRIALS) < params.length
    np.testing.assert_array_equal(found.value[used], params.y[used])


def meta(**changes):
    optimizer = ImitationConfig(buckets=BUCKETS, warmup=2, learning_rate=0.01)
    return MetaConfig(
        **{"steps": 40, "tasks": 8, "optimizer": optimizer, "log_every": 10, "validate_every": 20,
           "checkpoint_every": 20, "validation_tasks": 32, "devices": 1} | changes
    )  # fmt: skip


def fit(out, family, **changes):
    rows = []
    result = train(out, TINY.build(), family, meta(**changes), seed=0, identity={}, report=rows.append)
    return result, rows


@pytest.fixture(scope="module")
def trained(paths, tmp_path_factory):
    """A training on studies that are all told with names, in which values count thrice: its result and rows."""
    family = TrajectoriesConfig(paths=(str(paths / "named"),), drop_names=0.0, held_out=0.1).build()
    optimizer = ImitationConfig(buckets=BUCKETS, warmup=2, learning_rate=0.01, y_weight=3.0)
    with jax.numpy_rank_promotion("raise"):
        return fit(tmp_path_factory.mktemp("trained"), family, optimizer=optimizer, log_every=1)


def test_training_lowers_the_loss_and_reports_its_parts(trained):
    result, rows = trained
    assert result.validation < rows[0]["meta_loss"]
    last = max(rows, key=lambda row: abs(row["loss_x"] - row["loss_y"]))
    assert min(last["loss_x"], last["loss_y"]) < last["meta_loss"] < max(last["loss_x"], last["loss_y"])
    last = rows[-1]
    assert {"loss_x", "loss_y", "tokens", "tokens_per_second", "validation_x", "validation_y"} <= last.keys()
    assert last["validation"] == pytest.approx(result.validation)


def test_the_loss_weighs_parameters_and_values(trained):
    """A weighted mean over tokens."""
    apart = [row for row in trained[1] if abs(row["loss_y"] - row["loss_x"]) > 0.05]
    assert len(apart) > 5
    for row in apart:
        share = (row["meta_loss"] - row["loss_x"]) / (row["loss_y"] - row["loss_x"])
        assert 0.4 < share < 0.95, "of two or three parameters each counts once, and a value thrice, where it is told"


@pytest.mark.slow  # the one before has weights, too, none of which is 0
def test_what_has_no_weight_is_not_in_the_loss(family, tmp_path):
    optimizer = ImitationConfig(buckets=BUCKETS[:1], warmup=2, x_weight=0.0)
    _, rows = fit(tmp_path, family, optimizer=optimizer, steps=10)
    assert rows[-1]["meta_loss"] == pytest.approx(rows[-1]["loss_y"])


@pytest.mark.slow
def test_one_device_equals_four(family, tmp_path):
    options = {"steps": 10, "optimizer": ImitationConfig(buckets=BUCKETS[1:], warmup=2, learning_rate=0.01)}
    one, _ = fit(tmp_path / "1", family, devices=1, **options)
    four, _ = fit(tmp_path / "4", family, devices=4, **options)
    assert four.devices == 4
    for a, b in zip(jax.tree.leaves(one.theta), jax.tree.leaves(four.theta), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.slow  # test_finetune.py stops a training of the same learner and goes on, to the bit, and test_trainer.py
def test_resumed_equals_uninterrupted(family, tmp_path):
    whole, _ = fit(tmp_path / "whole", family)

    def interrupt(row):
        if row["step"] == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", TINY.build(), family, meta(checkpoint_every=10), seed=0, identity={}, report=interrupt)
    resumed = train(tmp_path / "cut", TINY.build(), family, meta(checkpoint_every=10), seed=0, identity={})
    for a, b in zip(jax.tree.leaves(whole.theta), jax.tree.leaves(resumed.theta), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_input():
    config: LearnerConfig = ImitationConfig(buckets=BUCKETS)
    blind = LearnedOptimizer(TINY.build().init, TINY.build().bind)
    with pytest.raises(UserError, match="needs an optimizer with a likelihood"):
        config.build(blind, SumConfig().build(), None, 1, 4, 10)
    learner = config.build(TINY.build(), SumConfig().build(), None, 1, 4, 10)
    state = learner.init(jax.random.key(0), QuadraticConfig().build(), TINY.build().init(jax.random.key(0)))
    with pytest.raises(UserError, match="needs recorded studies"):
        learner.step(state, QuadraticConfig().build())
    with pytest.raises(ValueError, match="buckets must increase"):
        ImitationConfig(buckets=(8, 8))
    with pytest.raises(UserError, match="manifest"):
        TrajectoriesConfig(paths=("nowhere",)).build()
