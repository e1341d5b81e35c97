"""OptFormer: likelihood is what was sampled with, a cache changes nothing, no token is illegal, nothing is hidden."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from l2o import Evaluation, Problem, SearchSpace, Space, Task, UserError
from l2o.optformer.decoding import EncodedStudy, Sampling, begin, draw, masked_log_softmax, propose, read
from l2o.optformer.model import SLOTS, Tokens, apart
from l2o.optformer.optformer import OptFormerConfig
from l2o.optformer.prompt import Prompt, Range, prompt, reading, stripped
from l2o.record import Record

TINY = OptFormerConfig(bins=16, width=32, heads=2, feedforward=64, encoder_layers=1, decoder_layers=1, max_trials=8)
DEEP = TINY.model_copy(update={"decoder_layers": 2})
TRIALS = 8


@pytest.fixture(scope="module")
def theta():
    return jax.jit(TINY.build().init)(jax.random.key(0))


def mixed():
    """A real number, three categories, whole numbers from 1 to 9."""
    return Space.mixed(
        jnp.array([-5.0, 0.0, 1.0]), jnp.array([5.0, 2.0, 9.0]), jnp.array([0, 3, 9]), jnp.array([0, 0, 0]),
        jnp.array([True, False, True]),
    )  # fmt: skip


def problem(space=None, **changes):
    space = mixed() if space is None else space
    return Problem(
        space, space.from_unit(jnp.full(space.low.shape, 0.5)), context=stripped(space, "random")._replace(**changes)
    )


def fixed():
    return Range(*(jnp.asarray(a) for a in (0.0, 40.0, 0.3)))


def bowl(problem, fail=False):
    def evaluate(key, x):
        value = jnp.sum(x**2, -1)
        return Evaluation(jnp.where(fail & (value > 20), jnp.nan, value))

    return Task(problem, evaluate)


@functools.partial(jax.jit, static_argnames=("trials", "config"))
def run(theta, problem, fail=False, trials=TRIALS, config=TINY):
    optimizer = config.build().bind(theta)
    state = optimizer.init(jax.random.key(1), problem)
    return l2o.unroll(optimizer, bowl(problem, fail), state, jax.random.key(2), trials)


likelihood = jax.jit(TINY.build().log_prob)


@functools.cache
def compiled():
    """`init`, `ask` and `tell`, each of which also takes theta."""
    return {
        field: jax.jit(lambda theta, *given, field=field: getattr(TINY.build().bind(theta), field)(*given))
        for field in l2o.Optimizer._fields
    }


def bound(theta):
    return l2o.Optimizer(*(functools.partial(compiled()[field], theta) for field in l2o.Optimizer._fields))


def played(optimizer, task, state, key, trials):
    """Points of a plain loop, with the keys of `unroll`."""
    points = []
    for t in range(trials):
        ask_key, tell_key = (jax.random.fold_in(jax.random.fold_in(jax.random.clone(key), t), i) for i in (0, 2))
        x, state = optimizer.ask(ask_key, state)
        state = optimizer.tell(tell_key, state, x, task.evaluate(None, x))
        points.append(x[0])
    return jnp.stack(points)


@pytest.mark.parametrize("fail", [pytest.param(False, marks=pytest.mark.slow), True])
def test_likelihood_is_what_was_sampled_with(theta, fail):
    """The sum over a run of the log-probabilities of its draws, at a fixed range, is its log_prob."""
    task, optimizer = problem(range=fixed()), bound(theta)
    _, whole = run(theta, task, fail)
    drawn_as = jax.jit(
        lambda state, key: propose(TINY.network(), theta, state.inner.study, state.inner.context, key, TINY.sampling)
    )
    state, sums = optimizer.init(jax.random.key(1), task), []
    for t in range(TRIALS):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(2), t), 0)
        x, state = optimizer.ask(key, state)
        np.testing.assert_array_equal(x[0], whole.x[t, 0])
        sums.append(jnp.sum(drawn_as(state, jax.random.clone(key))[1]))
        told = jax.tree.map(lambda a, t=t: a[t], whole.evaluation)
        state = optimizer.tell(jax.random.key(0), state, x, told)
    found = likelihood(theta, task, whole)
    np.testing.assert_allclose(found["x"], jnp.stack(sums), atol=2e-5)
    assert np.all(np.asarray(found["y"]) < 0)
    assert fail == bool(jnp.isnan(whole.evaluation.value).any())


def test_cached_equals_uncached():
    """Reading trial by trial, several at a time, and all at once give the same logits."""
    net, space, start = DEEP.network(), mixed(), DEEP.vocabulary.word("start")
    theta = jax.jit(DEEP.build().init)(jax.random.key(0))
    told = stripped(space, "eagle")
    memory = jax.jit(net.encode)(theta, jnp.where(told.token < 0, -1, told.token + 16), told.slot)
    study = EncodedStudy(memory, space.sizes(16), space.ordered, told.first, jnp.asarray(start))
    tokens = jax.random.randint(jax.random.key(3), (24,), 0, 3)
    at = lambda position: tokens[jnp.clip(position, 0, 23)]  # noqa: E731

    @jax.jit
    def at_once():
        read = reading(at, jnp.arange(25) - 1, start, told.first, jnp.asarray(3), space.sizes(16), space.ordered)
        return net.decode(theta, read, memory, ())[0]

    full, begun, further = at_once(), jax.jit(begin, static_argnums=0), jax.jit(read, static_argnums=0)
    context = begun(net, theta, study, jnp.zeros(24, jnp.int32), jnp.asarray(0))
    np.testing.assert_allclose(context.logits, full[0], atol=1e-5)
    for i in range(0, 24, 4):
        context = further(net, theta, study, context, tokens[i : i + 4])
        np.testing.assert_allclose(context.logits, full[i + 4], atol=1e-5)
    partly = begun(net, theta, study, tokens, jnp.asarray(12))
    np.testing.assert_allclose(partly.logits, full[12], atol=1e-5)
    whole = further(net, theta, study, partly, tokens[12:16])
    np.testing.assert_allclose(whole.logits, full[16], atol=1e-5)


def test_no_illegal_token_in_100000(theta):
    """Random spaces of random sizes, extreme logits, every way of sampling."""
    size_key, logit_key, key = jax.random.split(jax.random.key(4), 3)
    sizes = jax.random.randint(size_key, (100_000,), 1, 18)
    logits = 30 * jax.random.normal(logit_key, (100_000, 18))
    for how in (Sampling(), Sampling(5.0), Sampling(0.1, top_k=3), Sampling(nucleus=0.7)):
        keys = jax.random.split(jax.random.clone(key), 100_000)
        tokens, log_probs = jax.jit(jax.vmap(lambda k, a, b, how=how: draw(k, a, b, how)))(keys, logits, sizes)
        assert np.all(tokens >= 0) and np.all(tokens < sizes)
        assert np.all(log_probs <= 0) and np.all(log_probs > -1e3)


def test_proposals_lie_in_random_spaces(theta):
    optimizer = bound(theta)

    @jax.jit
    def random_space(level_key, order_key):
        levels = jax.random.randint(level_key, (3,), 0, 40)
        space = Space.mixed(
            jnp.ones(3), jnp.where(levels > 0, levels, 100).astype(jnp.float32), levels, jnp.array([0, 1, 2]),
            jax.random.bernoulli(order_key, shape=(3,)),
        )  # fmt: skip
        return space._replace(scale=jnp.where(levels == 1, 0, space.scale))

    contains = jax.jit(lambda space, x: jax.vmap(space.contains)(x))
    for key in jax.random.split(jax.random.key(5), 32):
        level_key, order_key, init_key, run_key = jax.random.split(key, 4)
        space = random_space(level_key, order_key)
        task = bowl(problem(space))
        assert np.all(contains(space, played(optimizer, task, optimizer.init(init_key, task.problem), run_key, 3)))


def test_top_k_and_nucleus_keep_the_likeliest():
    logits, keys = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05])), jax.random.split(jax.random.key(0), 2000)

    def seen(how):
        tokens, log_probs = jax.jit(jax.vmap(lambda k: draw(jax.random.clone(k), logits, jnp.asarray(4), how)))(keys)
        return set(np.asarray(tokens).tolist()), np.exp(np.asarray(log_probs[tokens == 0][0]))

    assert seen(Sampling(top_k=2)) == ({0, 1}, pytest.approx(0.625, abs=1e-5))
    assert seen(Sampling(nucleus=0.79)) == ({0, 1}, pytest.approx(0.625, abs=1e-5))
    assert seen(Sampling(nucleus=0.81))[0] == {0, 1, 2}
    assert seen(Sampling(0.01))[0] == {0}
    assert seen(Sampling()) == ({0, 1, 2, 3}, pytest.approx(0.5, abs=1e-5))


def test_illegal_tokens_have_no_probability():
    logits = jnp.array([1.0, 2.0, 50.0])
    np.testing.assert_allclose(jnp.exp(masked_log_softmax(logits, jnp.asarray(2))).sum(), 1.0, rtol=1e-6)


def test_likelihood_sees_no_future(theta):
    """At a fixed range, what is said of a trial depends on no later one; on a mask's far side nothing counts."""
    task = problem(range=fixed())
    _, whole = run(theta, task)
    changed = whole._replace(x=whole.x.at[5:].set(whole.x[0]))
    a, b = likelihood(theta, task, whole), likelihood(theta, task, changed)
    for name in ("x", "y"):
        np.testing.assert_allclose(a[name][:5], b[name][:5], atol=1e-6)
    assert not np.allclose(a["x"][5:], b["x"][5:])
    cut = likelihood(theta, task, changed._replace(mask=jnp.arange(TRIALS) < 5))
    np.testing.assert_allclose(cut["x"][:5], a["x"][:5], atol=1e-6)
    assert np.all(cut["x"][5:] == 0) and np.all(cut["y"][5:] == 0)


def test_likelihood_sees_the_past(theta):
    """Another point, another value, or two trials in another order, and what follows has another probability."""
    task = problem(range=fixed())
    _, whole = run(theta, task)
    value = whole.evaluation.value
    swap = jnp.array([0, 1, 2, 4, 3, *range(5, TRIALS)])
    changes = (
        whole._replace(x=whole.x.at[4].set(whole.x[0])),
        whole._replace(evaluation=Evaluation(value.at[4].set(jnp.where(value[4] > 10, 1.0, 30.0)))),
        jax.tree.map(lambda a: a[swap], whole),
    )
    before = likelihood(theta, task, whole)
    assert len({tuple(map(float, point)) for point in whole.x[jnp.array([0, 3, 4]), 0]}) == 3
    for changed in changes:
        after = likelihood(theta, task, changed)
        for name in ("x", "y"):
            assert np.max(np.abs(before[name][5:] - after[name][5:])) > 1e-4


def test_likelihood_does_not_see_padding(theta):
    """Of parameters beyond those in use, of trials beyond those read, and of the prompt."""
    task = problem(range=fixed())
    _, whole = run(theta, task)
    expected = likelihood(theta, task, whole)

    def wider(a, value):
        return jnp.concatenate([a, jnp.full(2, value, a.dtype)])

    space = Space(*(wider(a, v) for a, v in zip(task.space, (0, 1, 0, 0, 1), strict=True)))
    told = task.context
    padded = told._replace(
        token=wider(told.token, -1), slot=wider(told.slot, 0), parameters=jnp.asarray(3), reads=jnp.zeros(TRIALS * 4)
    )
    x = jnp.concatenate([whole.x, jnp.zeros((TRIALS, 1, 2))], -1)
    found = likelihood(theta, task._replace(space=space, context=padded), whole._replace(x=x))
    for name in ("x", "y"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_likelihood_does_not_see_units(theta):
    """Bounds in other units, values in other units: the same study."""
    space, task = mixed(), problem()
    _, whole = run(theta, task)
    expected = likelihood(theta, task, whole)
    other = space._replace(low=space.low * 1.0, high=space.high)
    other = other._replace(low=other.low.at[0].set(100.0), high=other.high.at[0].set(140.0))
    x = whole.x.at[..., 0].set(100 + 4 * (whole.x[..., 0] + 5))
    value = Evaluation(3.0 * whole.evaluation.value - 7.0)
    found = likelihood(
        theta, task._replace(space=other, context=stripped(other, "random")), whole._replace(x=x, evaluation=value)
    )
    for name in ("x", "y"):
        np.testing.assert_allclose(found[name], expected[name], atol=2e-3)


def test_encoder_is_blind_to_nothing(theta):
    """Any change of the metadata changes what the decoder is told."""
    encode = jax.jit(TINY.network().encode)

    def encoded(**changes):
        space = SearchSpace.from_dict(
            {"lr": {"kind": "float", "low": 1e-4, "high": 1.0, "scale": "log"}, "opt": ["sgd", "adam"]}
            | changes.pop("space", {})
        )
        told = prompt(
            Record(space, **{"name": "convnet", "metric": "accuracy", "algorithm": "eagle"} | changes), room=160
        )
        return np.asarray(encode(theta, jnp.where(told.token < 0, -1, told.token + 16), told.slot).value[:, 0])

    base = encoded()
    np.testing.assert_array_equal(encoded(), base)
    lr = {"kind": "float", "low": 1e-4, "high": 1.0, "scale": "log"}
    for changes in (
        {"name": "convnets"}, {"metric": "loss"}, {"goal": "maximize"}, {"algorithm": "random"},
        {"space": {"opt": ["sgd", "adan"]}}, {"space": {"opt": ["sgd", "adam", "lion"]}},
        {"space": {"lr": lr | {"low": 1e-5}}}, {"space": {"lr": lr | {"high": 2.0}}},
        {"space": {"lr": lr | {"scale": "linear"}}}, {"space": {"depth": {"kind": "integer", "low": 1, "high": 4}}},
    ):  # fmt: skip
        assert np.max(np.abs(encoded(**changes) - base)) > 1e-4, changes


def test_range():
    values = jnp.array([3.0, jnp.nan, 5.0, jnp.inf, 4.0, 100.0])
    used = jnp.arange(6) < 5
    tokens = Range.of(values, used).tokens(values, TINY.vocabulary)
    # the median 4 lies at 0.2 + 0.6 log(11) / log(21)
    np.testing.assert_array_equal(tokens, [3, 16, 12, 16, 10, 15])
    # there are ten times the median's distance below the least value 3, by logarithms
    lower = jnp.array([2.99, 2.0, -1.0, -6.9, -7.1, -1e9])
    np.testing.assert_allclose(
        Range.of(values, used).share(lower)[:4], 0.2 * (1 - np.log1p([0.1, 10, 40, 99]) / np.log(101)), atol=1e-4
    )
    np.testing.assert_array_equal(Range.of(values, used).tokens(lower, TINY.vocabulary), [3, 1, 0, 0, 0, 0])
    # one diverged trial takes less than three quarters of the bins from all others
    diverged = jnp.array([3.0, 4.0, 5.0, 6.0, 13.0, 1e30])
    bins = Range.of(diverged, jnp.ones(6, bool)).tokens(diverged, TINY.vocabulary._replace(bins=256))
    assert bins[-1] == 255 and 35 < bins[-2] - bins[0] < 0.6 * 256
    far = jnp.array([0.0, 1e-3, 1e-2, 1.0, 1e3, 1e9])
    assert len(np.unique(Range.of(far, jnp.ones(6, bool)).tokens(far, TINY.vocabulary))) >= 4
    for odd in (jnp.full(6, 2.0), jnp.full(6, jnp.nan)):
        tokens = Range.of(odd, used).tokens(odd, TINY.vocabulary)
        assert np.all(tokens == (8 if np.isfinite(odd[0]) else 16))
    huge = jnp.array([-3e38, 3e38, 0.0, 0, 0, 0])
    assert np.all(Range.of(huge, used).tokens(huge, TINY.vocabulary) < 16)


def test_a_new_extreme_is_read_again_and_nothing_else(theta):
    """Between new extremes the range stays, and so does what was read."""
    optimizer, task = bound(theta), problem()
    state = optimizer.init(jax.random.key(0), task)
    seen = []
    for t, value in enumerate([5.0, 1.0, 3.0, 2.0, 0.5, 7.0]):
        x, state = optimizer.ask(jax.random.key(t), state)
        seen.append(float(state.inner.range.anchor) if t else None)
        assert int(state.inner.fed) == t
        state = optimizer.tell(jax.random.key(t), state, x, Evaluation(jnp.array([value])))
        _, partial = optimizer.ask(jax.random.key(t), state)
        forgotten = state.inner._replace(fed=jnp.asarray(-1), fixed=partial.inner.range)
        _, full = optimizer.ask(jax.random.key(t), state._replace(inner=forgotten))
        np.testing.assert_allclose(full.inner.context.logits, partial.inner.context.logits, atol=1e-5)
    assert seen[1:] == [5.0, 1.0, 1.0, 1.0, 0.5]


def test_longer_than_it_remembers(theta):
    optimizer, task = bound(theta), bowl(problem())
    state = optimizer.init(jax.random.key(1), task.problem)
    assert np.all(jax.vmap(mixed().contains)(played(optimizer, task, state, jax.random.key(2), 20)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtypes_agree(theta, dtype):
    config = TINY.model_copy(update={"dtype": dtype})
    task = problem(range=fixed())
    _, whole = run(theta, task)
    found, expected = jax.jit(config.build().log_prob)(theta, task, whole), likelihood(theta, task, whole)
    np.testing.assert_allclose(found["x"], expected["x"], atol=0.5 if dtype == "bfloat16" else 1e-6)
    assert found["x"].dtype == jnp.float32
    _, sampled = run(theta, task, config=config)
    assert np.all(jax.vmap(mixed().contains)(sampled.x[:, 0]))


@pytest.mark.parametrize("values", [[], [1.0, 1.0, 1.0], [np.nan, np.nan], [np.inf, 2.0, np.nan]])
def test_odd_histories(theta, values):
    optimizer = bound(theta)
    state = optimizer.init(jax.random.key(0), problem())
    for value in values:
        x, state = optimizer.ask(jax.random.key(1), state)
        state = optimizer.tell(jax.random.key(1), state, x, Evaluation(jnp.array([value])))
    x, _ = optimizer.ask(jax.random.key(2), state)
    assert mixed().contains(x[0])


@pytest.mark.slow
def test_odd_spaces(theta):
    names = ["学習率 🎲", "n" * 500, '"<name>",&*|']
    space = SearchSpace.from_dict(
        {name: (0.0, 1.0) for name in names} | {"one": ["only"]} | {f"p{i}": (0, 1) for i in range(8)}
    )
    assert len(space) == 12
    told = prompt(Record(space, name="ü" * 500))
    optimizer = bound(theta)
    state = optimizer.init(jax.random.key(0), Problem(space.space, space.space.low, context=told))
    x, _ = optimizer.ask(jax.random.key(1), state)
    assert set(space.from_point(np.asarray(x[0]))) == set(space.names)
    many = SearchSpace.from_dict({f"p{i}": (0.0, 1.0) for i in range(SLOTS + 1)})
    with pytest.raises(UserError, match="found 17 parameters, expected at most 16"):
        prompt(Record(many))
    with pytest.raises(UserError, match="needs a space with bounds"):
        optimizer.init(jax.random.key(0), Problem(Space.free(), jnp.zeros(2)))


def test_named_prompt_begins_like_a_stripped_one():
    space = SearchSpace.from_dict({"a": (0.0, 1.0), "b": ["x", "y"]})
    bare = stripped(space.space, "eagle")
    named = prompt(Record(space, algorithm="eagle"))
    assert isinstance(named, Prompt)
    for slot in (0, 1):
        kept = bare.token[(bare.slot == slot) & (bare.token >= 0)]
        np.testing.assert_array_equal(named.token[named.slot == slot][: kept.size], kept)


def test_tokens_of_a_slot_do_not_depend_on_the_number_of_parameters():
    stands = lambda position: 10 + position  # noqa: E731
    sizes, ordered = jnp.array([20, 20, 1]), jnp.array([True, False, True])  # the third one is padded
    a = reading(stands, jnp.arange(-1, 6), 99, jnp.asarray(2), jnp.asarray(2), sizes, ordered)
    assert isinstance(a, Tokens)
    np.testing.assert_array_equal(a.token, [99, 10, 11, 12, 13, 14, 15])
    np.testing.assert_array_equal(a.previous, [99, 99, 10, 11, 99, 13, 14])
    np.testing.assert_array_equal(a.outcome, [99, 12, 12, 12, 15, 15, 15])
    np.testing.assert_array_equal(a.next_slot, [2, 3, SLOTS, 2, 3, SLOTS, 2])
    np.testing.assert_array_equal(a.slot, [SLOTS + 1, 2, 3, SLOTS, 2, 3, SLOTS])
    np.testing.assert_array_equal(a.trial, [0, 1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(a.next_trial, [1, 1, 1, 2, 2, 2, 3])
    np.testing.assert_allclose(a.point[1:4, :2], [[10.5 / 20, 11]] * 3, rtol=1e-6)
    np.testing.assert_allclose(a.point[4:, :2], [[13.5 / 20, 14]] * 3, rtol=1e-6)
    known = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(a.known, [*known, *known[1:]])
    np.testing.assert_array_equal(a.places, [2, 3, 4])
    # the second trial from the first: so far by the first parameter, and then by the category, too
    distances = apart(a, a.trial, a.point)
    np.testing.assert_allclose(distances[4, 1:4], [[3 / 20, 0, 0]] * 3, rtol=1e-5)
    np.testing.assert_allclose(distances[5, 1:4], [[3 / 20, 1, 0]] * 3, rtol=1e-5)
    far = [[0.0, 0, 0, 0, 0, 0, 0]] * 4 + [[0, 3 / 20, 3 / 20, 3 / 20, 0, 0, 0]] + [[0, *[23 / 20] * 3, 0, 0, 0]]
    np.testing.assert_allclose(distances.sum(-1), [*far, [0.0] * 7], rtol=1e-5)


@pytest.mark.slow
def test_runs_side_by_side_are_those_one_by_one(theta):
    """Also where some of them read everything again and others do not, under one jit."""
    levels = jnp.array([[0, 3, 9], [4, 0, 2], [0, 0, 0], [5, 2, 3]])

    def space_of(levels):
        ends = jnp.where(levels > 0, levels - 1.0, 5.0)
        return Space.mixed(jnp.where(levels > 0, 0.0, -5.0), ends, levels, jnp.zeros(3, int), jnp.ones(3, bool))

    def one(levels, key):
        optimizer, task = TINY.build().bind(theta), bowl(problem(space_of(levels)))
        _, found = l2o.unroll(optimizer, task, optimizer.init(key, task.problem), key, TRIALS)
        return found.x

    keys = jax.random.split(jax.random.key(0), 4)
    together, optimizer = jax.jit(jax.vmap(one))(levels, keys), bound(theta)
    for i in range(4):
        key, task = jax.random.clone(keys[i]), bowl(problem(space_of(levels[i])))
        state = optimizer.init(key, task.problem)
        alone = played(optimizer, task, state, jax.random.clone(key), TRIALS)
        np.testing.assert_allclose(together[i, :, 0], alone, atol=1e-6)
