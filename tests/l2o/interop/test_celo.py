"""Celo and Celo-Adam against numbers of their authors' code, and the promises of an optax transformation."""

import functools
import os
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import pytest
from flax.serialization import msgpack_serialize
from safetensors.numpy import load_file

import l2o
from l2o import Problem, Space, Task, UserError, unroll
from l2o.interop.celo import CeloConfig, celo
from l2o.interop.celo_rule import factored_axes
from l2o.interop.celo_weights import read_weights

KINDS = ("celo", "celo_adam")
both = pytest.mark.parametrize("kind", KINDS)

# Parameters after each of 8 updates, leaf by leaf in the order of their names, [8, 208]. They come from the classes
# `Celo` of github.com/amoudgl/celo (commit 66d9761) with `learned_optimization` (commit 32186aa), unchanged, with
# stand-ins for gin and for its summaries, in jax 0.10.2 on a CPU: `opt.init(params, num_steps=HORIZON)`, then
# `opt.update(state, grads, loss)` with what `inputs` gives. "random" is at `random_weights`, "published" at the
# published weights.
RECORDED = load_file(Path(__file__).with_name("celo.safetensors"))
HORIZON = 40
SHAPES = {
    "bias": (7,), "block": {"first": (5, 7), "second": (5, 7)}, "gain": (), "kernel": (3, 3, 2, 4), "offset": (7,),
    "square": (4, 4), "tall": (7, 5),
}  # fmt: skip
PUBLISHED = {kind: name for kind, name in zip(KINDS, ("theta.state", "theta_adam.state"), strict=True)}


def drawn(rng, shapes):
    return jax.tree.map(lambda s: np.float32(rng.normal(size=s)), shapes, is_leaf=lambda s: isinstance(s, tuple))


@functools.cache
def inputs():
    """Parameters, gradients of many sizes, losses that rise and jump."""
    rng = np.random.default_rng(7)
    params = drawn(rng, SHAPES)
    grads = [
        jax.tree.map(lambda a, c=c: np.float32(c) * a, drawn(rng, SHAPES)) for c in (1, 1e-3, 30, 1e-6, 1, 0.1, 2, 1)
    ]
    grads[0]["bias"] = np.zeros(7, np.float32)
    grads[2]["tall"][0, 0] = 5e3  # is clipped
    return params, grads, np.float32([2.3, 2.1, 1.9, 1.95, 40.0, 1.7, 1.5, 1.6])


def random_weights(kind, hidden=64):
    """Of the published shapes, larger than the published ones, so that eight updates go far."""
    rng, h, k = np.random.default_rng(len(kind)), hidden, 4
    layers = {"linear": (18, h), "linear_1": (18, h), "linear_2": (18, h), "rnn/linear": (2 * h, 4 * h)}
    layers |= {"step_size": (h, 1)} | ({"rnn_to_controls": (h, 1)} if kind == "celo" else {})
    tree = {
        "lstm_init_state": drawn(rng, {"cell": (1, h), "hidden": (1, h)}),
        "rnn_params": drawn(rng, {name: {"b": shape[1:], "w": shape} for name, shape in layers.items()}),
    }
    for layer in tree["rnn_params"].values():
        layer["w"] /= np.float32(np.sqrt(len(layer["w"])))
    tree["rnn_params"]["step_size"]["b"] += np.float32(5)
    if kind == "celo":
        sizes = {f"w0__{i}": (1, width, k) for i, width in enumerate((1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3))}
        sizes |= {"b0": (1, k), "w1": (1, k, k), "b1": (1, k), "w2": (1, k, 3), "b2": (1, 3)}
        tree["ff_mod_stack"] = {"~": drawn(rng, sizes)}
    return tree


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of random weights of each kind, as flax writes it."""
    folder = tmp_path_factory.mktemp("celo")
    for kind in KINDS:
        (folder / f"{kind}.state").write_bytes(msgpack_serialize(random_weights(kind)))
    return {kind: folder / f"{kind}.state" for kind in KINDS}


def step(tx):
    @jax.jit
    def run(grads, state, params, value):
        updates, state = tx.update(grads, state, params, value=value)
        return updates, state, optax.apply_updates(params, updates)

    return run


def play(tx, params, grads, values):
    """The updates of each step, the parameters after each, and the last state."""
    run, state, found, points = step(tx), tx.init(params), [], []
    for gradient, value in zip(grads, values, strict=True):
        updates, state, params = run(gradient, state, params, value)
        found.append(updates)
        points.append(params)
    return found, points, state


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def assert_close(a, b, rtol=1e-4, atol=1e-7):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


# the authors' numbers


def assert_recorded(tx, recorded):
    params, grads, values = inputs()
    points = np.stack([flat(point) for point in play(tx, params, grads, values)[1]])
    travelled = np.abs(recorded - flat(params)).max(axis=1)
    assert points.shape == recorded.shape == (8, 208) and np.all(travelled > 1e-4)
    for found, expected, far in zip(points, recorded, travelled, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=5e-5 * far)


@both
def test_random_weights_give_the_numbers_of_the_authors_code(kind, files):
    assert_recorded(celo(files[kind], HORIZON), RECORDED[f"{kind} random"])


@both
def test_published_weights_give_the_numbers_of_the_authors_code(kind):
    path = Path(os.environ.get("L2O_DATA", "")) / "celo" / PUBLISHED[kind]
    if not path.is_file():
        pytest.skip(f"there is no celo/{path.name} in the folder that L2O_DATA names")
    assert_recorded(celo(path, HORIZON), RECORDED[f"{kind} published"])


# what the rules have by themselves


@functools.cache
def small_file(folder, kind):
    """Few units, which compile as fast as many and make small files."""
    path = folder / f"small_{kind}.state"
    path.write_bytes(msgpack_serialize(random_weights(kind, hidden=3)))
    return path


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return lambda kind, horizon=HORIZON: celo(small_file(folder, kind), horizon)


def only(tree, names):
    return {name: tree[name] for name in names}


@both
def test_relabelled_axes_relabel_the_updates(kind, make):
    """Coordinates, rows, columns and tensors have no names; any axis may be longest; a number is a vector of one."""
    rng = np.random.default_rng(1)
    order = {n: rng.permutation(n) for n in (5, 7)}

    def relabelled(tree):
        first, tall = tree["block"]["first"], tree["tall"]
        return {
            "a": tree["bias"][order[7]], "b": [first[order[5]][:, order[7]], tree["block"]["second"]],
            "c": tree["gain"][None], "d": np.transpose(tree["kernel"], (2, 3, 0, 1)), "e": tall.T,
        }  # fmt: skip

    params, grads, values = inputs()
    plain = play(make(kind), params, grads[:4], values[:4])[0]
    moved = play(make(kind), relabelled(params), [relabelled(g) for g in grads[:4]], values[:4])[0]
    for expected, found in zip(plain, moved, strict=True):
        expected = relabelled(jax.tree.map(np.asarray, expected))
        assert_close(found, expected, atol=1e-6)


@both
def test_a_tensor_moves_alone_as_beside_others(kind, make):
    """Those of one shape are computed together, and one rate holds for all."""
    params, grads, values = inputs()
    together = play(make(kind), params, grads[:4], values[:4])[0]
    names = ("square",)
    alone = play(make(kind), only(params, names), [only(g, names) for g in grads[:4]], values[:4])[0]
    assert_close(alone, [only(update, names) for update in together])


@both
def test_the_unit_of_the_loss_does_not_count_nor_do_the_first_two_losses_but_later_ones_do(kind, make):
    params, grads, values = inputs()
    runs = [play(make(kind), params, grads, v)[0] for v in (values, 1024 * values, values[::-1])]
    for plain, scaled in zip(*runs[:2], strict=True):
        jax.tree.map(np.testing.assert_array_equal, plain, scaled)
    same = [np.array_equal(flat(plain), flat(other)) for plain, other in zip(runs[0], runs[2], strict=True)]
    assert same == [True, True, *[False] * 6]


def test_celo_adam_is_adam_with_one_rate_for_all(make):
    """Adam as its paper has it, in double precision."""
    params, grads, values = inputs()
    m, v = 0.0, 0.0
    for t, (update, gradient) in enumerate(zip(play(make("celo_adam"), params, grads, values)[0], grads, strict=True)):
        g = np.clip(np.float64(flat(gradient)), -1000, 1000)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        direction = m / (1 - 0.9 ** (t + 1)) / (np.sqrt(v / (1 - 0.999 ** (t + 1)) + 1e-10) + 1e-8)
        moved = np.abs(direction) > 0
        rate = -flat(update)[moved] / direction[moved]
        assert rate.min() > 0
        np.testing.assert_allclose(rate, np.median(rate), rtol=1e-4)


def test_the_longest_axes_are_factored_and_of_ties_the_last():
    assert factored_axes(()) is None and factored_axes((3,)) is None
    assert factored_axes((2, 3)) == (0, 1) and factored_axes((3, 2)) == (1, 0) and factored_axes((4, 4)) == (0, 1)
    assert factored_axes((3, 3, 2, 4)) == (1, 3) and factored_axes((3, 3, 16, 16)) == (2, 3)


# an optax transformation


def described(tree):
    return [(a.shape, a.dtype, a.weak_type) for a in jax.tree.leaves(tree)]


@both
def test_the_state_keeps_its_structure_and_is_donated_and_traced_once(kind, make):
    tx, traced = make(kind), []

    def run(grads, state, params, value):
        traced.append(1)
        return tx.update(grads, state, params, value=value)

    params, grads, values = inputs()
    jitted, state = jax.jit(run, donate_argnums=1), tx.init(params)
    structure, leaves = jax.tree.structure(state), described(state)
    assert described(jax.eval_shape(tx.init, params)) == leaves
    for gradient, value in zip(grads[:3], values, strict=False):
        before = state
        _, state = jitted(gradient, state, params, value)
        assert jax.tree.structure(state) == structure and described(state) == leaves
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before) if leaf.size)
    assert len(traced) == 1
    assert jax.tree.structure(optax.tree_map_params(tx, lambda leaf: leaf, state)) == structure


@both
def test_jit_equals_eager(kind, make):
    tx, (params, grads, values) = make(kind), inputs()
    params, grads = only(params, ("bias", "tall")), [only(g, ("bias", "tall")) for g in grads[:2]]
    jitted, _, last = play(tx, params, grads, values[:2])
    state = tx.init(params)
    for gradient, value, expected in zip(grads, values, jitted, strict=False):
        updates, state = tx.update(gradient, state, params, value=value)
        assert_close(updates, expected)
        params = optax.apply_updates(params, updates)
    assert_close(state, last)


@both
def test_lifted_and_over_a_batch_of_horizons_it_equals_a_plain_loop(kind, make, tmp_path):
    rng = np.random.default_rng(3)
    start = drawn(rng, {"w": (3, 2), "v": (3, 2), "b": (2,)})
    optimizer = CeloConfig(weights=str(small_file(tmp_path, kind))).build()

    def loss(key, x):
        return jnp.sum(jnp.cosh(x["w"] @ x["v"].T)) + jnp.sum(x["b"] ** 2)

    @jax.jit
    @jax.vmap
    def scanned(horizon):
        task = Task.from_loss(loss, Problem(Space.free(), start, horizon=horizon))
        state = optimizer.init(jax.random.key(0), task.problem)
        return unroll(optimizer, task, state, jax.random.key(1), 5)[1].x

    found = scanned(jnp.array([5, 300]))
    gradient = jax.jit(jax.value_and_grad(functools.partial(loss, None)))
    for i, horizon in enumerate((5, 300)):
        tx, x = make(kind, horizon), start
        run, state = step(tx), tx.init(start)
        for t in range(5):
            assert_close(jax.tree.map(lambda a, i=i, t=t: a[i, t, 0], found), x, atol=1e-6)
            value, g = gradient(x)
            _, state, x = run(g, state, x, value)


@both
def test_leaves_of_every_kind(kind, make):
    low = np.float32([0.5, -2.0, 1.5])
    tree = {
        "bfloat16": jnp.asarray(low, jnp.bfloat16), "float8": jnp.asarray(low, jnp.float8_e4m3fn), "float32": low,
        "integer": jnp.arange(3), "empty": np.zeros((0, 2), np.float32), "none": None,
    }  # fmt: skip
    grads = tree | {"integer": np.zeros(3, jax.dtypes.float0)}
    found, points, _ = play(make(kind), tree, [grads] * 2, [1.0, 0.9])
    for updates, point in zip(found, points, strict=True):
        assert [a.dtype for a in jax.tree.leaves(point)] == [a.dtype for a in jax.tree.leaves(tree)]
        assert not updates["integer"].any() and np.array_equal(point["integer"], tree["integer"])
    np.testing.assert_array_equal(found[0]["bfloat16"], found[0]["float32"].astype(jnp.bfloat16))
    tx = make(kind)
    assert jax.tree.leaves(tx.update({}, tx.init({}), {}, value=1.0)[0]) == []
    with pytest.raises(UserError, match=r"^celo has no rule for complex numbers, .* complex64$"):
        tx.init(np.ones(2, np.complex64))


@both
def test_double_precision(kind, make):
    params, grads, values = inputs()
    names = ("bias", "tall")
    single = play(make(kind), only(params, names), [only(g, names) for g in grads[:3]], values[:3])[0]
    with jax.enable_x64(True):
        params, *doubles = (jax.tree.map(jnp.float64, only(tree, names)) for tree in (params, *grads[:3]))
        tx = make(kind)
        before = described(tx.init(params))
        found, points, state = play(tx, params, doubles, values[:3])
        assert described(state) == before
        assert {leaf.dtype for leaf in jax.tree.leaves((found, points))} == {jnp.dtype("float64")}
    assert_close(found, single, rtol=1e-3, atol=1e-6)


def test_what_it_needs_is_asked_for_in_one_sentence(make):
    tx, params = make("celo"), np.ones(2, np.float32)
    state = tx.init(params)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(params, state, value=1.0)
    with pytest.raises(ValueError, match="needs the loss"):
        tx.update(params, state, params)
    with pytest.raises(UserError, match=r"^value has shape \(0,\)"):
        tx.update(params, state, params, value=jnp.ones(0))
    with pytest.raises(UserError, match=r"^celo needs the horizon"):
        make("celo", None)
    with pytest.raises(UserError, match=r"^horizon is 0: expected a whole number"):
        make("celo", 0)


# files


@both
def test_a_file_is_read_as_it_was_written(kind, files):
    read, written = read_weights(files[kind]), random_weights(kind)
    jax.tree.map(np.testing.assert_array_equal, read, written)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(read))


def changed(**changes):
    """Of Celo's weights, with some arrays replaced (None to leave one out), by names with two underscores for dots."""
    tree = random_weights("celo", hidden=3)
    for name, value in changes.items():
        *branches, leaf = name.replace("step", "step_size").split("__")
        branch = functools.reduce(lambda b, n: b[n], branches, tree)
        branch.pop(leaf, None)
        if value is not None:
            branch[leaf] = value
    return msgpack_serialize(tree)


def numbers(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def array(*parts):
    """An extension as flax would write it, of parts that may lie."""
    return msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(parts))})


GOOD = changed()
BAD = {
    "empty": (b"", "is damaged or no msgpack of arrays"),
    "truncated": (GOOD[:-100], "is damaged or no msgpack of arrays"),
    "with a tail": (GOOD + b"\0", "is damaged or no msgpack of arrays"),
    "pickled": (pickle.dumps(random_weights("celo", 3)), "is damaged or no msgpack of arrays"),
    "text": (b"weights", "is damaged or no msgpack of arrays"),
    "another extension": (msgpack.packb({"a": msgpack.ExtType(3, b"")}), "an extension of code 3 is no array"),
    "objects": (array([1], "object", b"12345678"), "dtype 'object', expected float32"),
    "a negative axis": (array([-1, -1], "float32", b"1234"), r"shape \[-1, -1\]"),
    "too few bytes": (array([2], "float32", b"1234"), "other bytes than it needs"),
    "a huge array": (array([2**40, 2**40], "float32", b"1234"), "other bytes than it needs"),
    "no array": (array(1), "is damaged or no msgpack of arrays"),
    "numbers as keys": (msgpack.packb({1: 2}), "is damaged or no msgpack of arrays"),
    "deep": (b"\x91" * 100_000 + b"\x90", "is damaged or no msgpack of arrays"),
    "a list": (msgpack.packb([1]), "no dictionary but of type list"),
    "a number": (msgpack.packb({"a": 1}), "'a' is no array but of type int"),
    "nothing": (msgpack.packb({}), "there is no lstm_init_state.hidden"),
    "double precision": (
        changed(rnn_params__step__b=numbers(1, dtype=np.float64)),
        "dtype 'float64', expected float32",
    ),
    "no layer": (changed(rnn_params__linear_1=None), "there is no rnn_params.linear_1.b"),
    "a layer more": (changed(rnn_params__linear_3={"w": numbers(1)}), "it has 'rnn_params.linear_3.w', which neither"),
    "a scalar state": (changed(lstm_init_state__hidden=numbers()), r"hidden has shape \(\), expected \(1, units\)"),
    "other inputs": (changed(rnn_params__linear__w=numbers(30, 3)), r"w has shape \(30, 3\), expected \(18, 3\)"),
    "other units": (changed(rnn_params__step__w=numbers(4, 1)), r"w has shape \(4, 1\), expected \(3, 1\)"),
    "not finite": (changed(rnn_params__step__b=np.float32([np.nan])), "step_size.b has numbers that are not finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_other_files_are_refused_in_one_sentence(name, tmp_path):
    blob, why = BAD[name]
    path = tmp_path / "theta.state"
    path.write_bytes(blob)
    with pytest.raises(UserError, match=why) as error:
        celo(path, 10)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_file_that_is_missing_a_folder_or_too_large_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nowhere cannot be read: No such file"):
        read_weights(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"cannot be read: "):
        read_weights(tmp_path)
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(UserError, match=r"large has 67108865 bytes, expected weights of Celo"):
        read_weights(tmp_path / "large")


# the baseline


def test_the_kind_is_in_the_room_of_baselines():
    config = l2o.kinds(l2o.BaselineConfig)["celo"]
    assert config is CeloConfig and config.reads_gradients and not config.tuned
    files = ("theta.state", "a/theta_adam.state", "celo-adam.state", "mine.state")
    assert [config(weights=file).label for file in files] == ["celo", "celo-adam", "celo-adam", "celo-mine"]
    with pytest.raises(UserError, match=r"^celo needs weights, the path of a file"):
        config().build()
