"""Many devices and processes change nothing but rounding, and what they cannot do is said in one sentence."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import l2o
from experiments.run import Experiment
from l2o.errors import UserError
from l2o.gradient.lstm import LSTMConfig
from meta import parallel
from meta.checkpoints import read_metrics
from meta.curriculum import FixedConfig
from meta.estimator.backprop import BackpropConfig
from meta.estimator.base import Estimator
from meta.estimator.es import ESConfig
from meta.estimator.mix import MixConfig
from meta.estimator.nres import NRESConfig
from meta.estimator.pes import PESConfig
from meta.evaluate import evaluate
from meta.learner.evolution import EvolutionConfig
from meta.learner.gradient import AdamLearnerConfig
from meta.objective import SumConfig
from meta.parallel import DIVIDED, WHOLE, collect, divide, mesh, place, start, use_cores
from meta.trainer import MetaConfig, train
from tasks.quadratic import QuadraticConfig

HORIZON, STEPS = 10, 4
LEARNED = LSTMConfig(layers=1, hidden=4).build()
QUADRATIC = QuadraticConfig(dimension=2, start_scale=1.0).build()
FAMILY = FixedConfig(length=HORIZON).family(QUADRATIC)
WINDOW: dict[str, Any] = {"unroll_length": 5}
ADAM = AdamLearnerConfig(learning_rate=0.01, schedule="constant", average=0.5)
PERTURBED: dict[str, Any] = {"sigma": 0.1, **WINDOW}
LEARNERS = {
    "backprop": (ADAM, BackpropConfig(**WINDOW)),
    "es": (ADAM, ESConfig(**PERTURBED)),
    "pes": (ADAM, PESConfig(**PERTURBED)),
    "nres": (ADAM, NRESConfig(**PERTURBED, pairs=2)),
    "nres_std": (ADAM, NRESConfig(**PERTURBED, pairs=2, normalisation="std")),
    "nres_rank": (ADAM, NRESConfig(**PERTURBED, pairs=2, normalisation="rank", antithetic=False)),
    "mix": (
        ADAM,
        MixConfig(estimators=(BackpropConfig(**WINDOW), PESConfig(**PERTURBED, pairs=2)), weights=(0.7, 0.3)),
    ),
    "evolution": (EvolutionConfig(population_size=8, average=0.5), None),
}


def ranks(name):
    """Rank promotion is an error in this project's code; evosax relies on it."""
    return jax.numpy_rank_promotion("allow" if name == "evolution" else "raise")


def build(rule, estimator, devices, tasks):
    return rule.build(LEARNED, SumConfig().build(), estimator, HORIZON, tasks, STEPS, devices)


def learn(learner, state):
    """The state after a few meta-steps, and their metrics."""

    @jax.jit
    def run(state, family):
        return jax.lax.scan(lambda s, _: learner.step(s, family), state, None, STEPS)

    state, metrics = run(place(state, learner.mesh, learner.specs), place(FAMILY, learner.mesh))
    assert int(state.skipped) == 0
    return state, metrics


def assert_close(first, second, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), first, second)


# to a mesh, es is pes with another sum, nres without normalisation is a part of nres with it, and a mix has two others
ALIKE = ("es", "nres", "backprop", "pes")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in ALIKE else n for n in LEARNERS])
def test_four_devices_equal_one(name):
    rule, estimator = LEARNERS[name]
    tasks = {"nres_std": 6, "nres_rank": 2}.get(name, 8)  # with these the pairs of a task lie on two devices
    with ranks(name):
        learners = [build(rule, estimator, devices, tasks) for devices in (1, 4)]
        begun = jax.jit(learners[0].init)(jax.random.key(1), FAMILY, LEARNED.init(jax.random.key(0)))
        (one, metrics), (four, shared) = (learn(learner, collect(begun)) for learner in learners)
    assert_close((four.theta, four.average, shared), (one.theta, one.average, metrics))
    moved = [np.max(np.abs(a - b)) for a, b in zip(*map(jax.tree.leaves, (one.theta, begun.theta)), strict=True)]
    assert max(moved) > 1e-3, "the comparison above would see a wrong gradient"
    assert len(np.unique(metrics["meta_loss"])) == STEPS
    if name != "evolution":
        for leaf in jax.tree.leaves(four.estimator):
            assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {leaf.shape[0] // 4}


def scripted(losses):
    """An estimator whose runs have these losses, and whose gradient is their sum on the device."""

    def estimate(theta, state, family):
        return jnp.sum(state), state, jnp.nanmean(state)

    return Estimator(lambda key, theta, family: jnp.asarray(losses), estimate, runs=len(losses))


@pytest.mark.parametrize("lost", [[], [3], [0, 1, 3], [0, 1, 2, 3]])
def test_a_device_without_a_finite_run_has_no_say_in_the_loss(lost):
    losses = np.arange(8, dtype=np.float32)
    for device in lost:
        losses[2 * device : 2 * device + 2] = np.nan
    divided = divide(scripted(losses), mesh(4, 8))
    gradient, state, loss = jax.jit(divided.estimate)(jnp.zeros(()), jnp.asarray(losses), FAMILY)
    kept = losses[np.isfinite(losses)]
    np.testing.assert_allclose(loss, kept.mean() if kept.size else np.nan)
    np.testing.assert_allclose(gradient, losses.sum() / 4)
    np.testing.assert_array_equal(state, losses)


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "batch"), [(8, None), (6, 1), (3, None)])
def test_evaluation_on_a_mesh_equals_one_without(tasks, batch):
    theta, key, objective = LEARNED.init(jax.random.key(2)), jax.random.key(3), SumConfig().build()
    options = {"tasks": tasks, "horizon": 5, "batch": batch, "objective": objective}
    alone = evaluate(LEARNED.bind, theta, QUADRATIC, jax.random.clone(key), **options)
    chosen = mesh(4, 4)
    shared = evaluate(LEARNED.bind, theta, place(QUADRATIC, chosen), jax.random.clone(key), **options, mesh=chosen)
    assert set(shared) == {"value", "objective"} and shared["value"].shape == (tasks, 6)
    assert_close(shared, alone)
    assert len(np.unique(alone["objective"])) == tasks


@pytest.mark.parametrize(("runs", "size"), [(8, 4), (6, 3), (2, 2), (9, 3), (7, 1), (1, 1)])
def test_all_is_the_largest_number_that_shares_evenly(runs, size):
    assert mesh("all", runs).size == size


def sentence(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_more_devices_than_there_are():
    with pytest.raises(UserError) as error:
        mesh(99, 99)
    assert sentence(error) == "meta.devices: found 99, expected at most 4, the cpu devices there are"


@pytest.mark.parametrize(
    ("rule", "estimator", "tasks", "words"),
    [
        (ADAM, BackpropConfig(), 6, "meta.tasks: 6 cannot be shared evenly by 4 devices"),
        (ADAM, NRESConfig(pairs=2), 3, "meta.tasks: 6 cannot be shared evenly by 4 devices"),
        (EvolutionConfig(population_size=6), None, 8, "meta.optimizer.population_size: 6 cannot be shared evenly by 4"),
    ],
)
def test_runs_that_cannot_be_shared_evenly(rule, estimator, tasks, words):
    with pytest.raises(UserError) as error:
        build(rule, estimator, 4, tasks)
    assert sentence(error).startswith(words) and "expected a multiple of 4" in sentence(error)


def test_what_is_placed_comes_back():
    chosen = mesh(4, 8)
    tree = {"a": np.arange(24.0, dtype=np.float32).reshape(8, 3), "b": np.arange(8)}
    placed = place((tree, tree), chosen, (DIVIDED, WHOLE))
    for leaf, whole in zip(*map(jax.tree.leaves, placed), strict=True):
        assert leaf.sharding.spec == PartitionSpec(*DIVIDED) and whole.is_fully_replicated
        assert [shard.data.shape[0] for shard in leaf.addressable_shards] == [2] * 4
        assert [shard.data.shape[0] for shard in whole.addressable_shards] == [8] * 4
    back = collect(placed)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(back))
    jax.tree.map(np.testing.assert_array_equal, back, (tree, tree))


def test_alone_there_is_nothing_to_agree_on():
    assert parallel.writes() and parallel.anyone(True) and not parallel.anyone(False)
    assert parallel.agree(lambda: "mine") == "mine"


@pytest.mark.parametrize(
    "given", [("h:1", None, None), (None, 2, None), (None, None, 0), ("h:1", 2, None), (None, 2, 0)]
)
def test_the_three_belong_together(given):
    with pytest.raises(UserError) as error:
        start(*given)
    assert sentence(error) == "--coordinator, --num-processes and --process-id belong together: give all three or none"


@pytest.mark.parametrize("address", ["", "host", "host:", ":1234", "host:port", "host:0", "host:65536", "host:-1"])
def test_a_coordinator_that_is_no_address(address):
    with pytest.raises(UserError) as error:
        start(address, 2, 0)
    assert sentence(error) == f"--coordinator: found {address!r}, expected HOST:PORT"


@pytest.mark.parametrize("number", [2, -1])
def test_a_process_id_out_of_range(number):
    with pytest.raises(UserError) as error:
        start("localhost:1234", 2, number)
    assert sentence(error) == f"--process-id: found {number}, expected 0 to 1"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_coordinator_that_never_answers():
    address, began = f"127.0.0.1:{free_port()}", time.monotonic()
    with pytest.raises(UserError) as error:
        start(address, 2, 1, timeout=1)
    assert 1 <= time.monotonic() - began < 10
    assert sentence(error).startswith(f"--coordinator {address} did not answer within 1 s (")
    assert "--process-id 0" in sentence(error)


def meeting(monkeypatch, count, timeouts):
    """Processes, here threads, that wait so long: those that went on to call JAX, and what the others said."""
    initialized = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **options: initialized.append(given))
    address = f"127.0.0.1:{free_port()}"

    def join(number):
        try:
            start(address, count, number, timeout=timeouts[number])
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        refusals = list(pool.map(join, timeouts))
    return address, sorted(initialized), refusals


def test_all_processes_meet(monkeypatch):
    address, initialized, refusals = meeting(monkeypatch, 3, {2: 30, 0: 30, 1: 30})
    assert initialized == [(address, 3, 0), (address, 3, 1), (address, 3, 2)] and refusals == [None] * 3


def test_process_0_names_those_that_are_missing(monkeypatch):
    address, initialized, refusals = meeting(monkeypatch, 3, {0: 1})
    assert initialized == []
    assert refusals == [f"--coordinator {address}: --process-id 1, 2 did not join within 1 s"]


def test_nobody_goes_on_when_one_is_missing(monkeypatch):
    _, initialized, refusals = meeting(monkeypatch, 3, {0: 1, 1: 3})
    assert initialized == [] and None not in refusals


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError) as error:
            start(f"127.0.0.1:{port}", 2, 0, timeout=1)
    assert f"cannot listen on port {port} (" in sentence(error)


CLUSTER = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "JAX_NUM_PROCESSES", "JAX_COORDINATOR_ADDRESS")


@pytest.mark.parametrize(
    ("variable", "value", "joins"),
    [
        ("SLURM_STEP_NUM_TASKS", "1", False),
        ("SLURM_STEP_NUM_TASKS", "2", True),
        ("OMPI_COMM_WORLD_SIZE", "4", True),
        ("JAX_COORDINATOR_ADDRESS", "host:1234", True),
        ("TPU_WORKER_HOSTNAMES", "one", False),
        ("TPU_WORKER_HOSTNAMES", "one,two", True),
    ],
)
def test_only_a_cluster_is_joined_unasked(monkeypatch, variable, value, joins):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: calls.append(options))
    for name in (*CLUSTER, "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    start(None, None, None)
    assert calls == []
    monkeypatch.setenv(variable, value)
    start(None, None, None, timeout=7)
    assert [call["initialization_timeout"] for call in calls] == ([7] if joins else [])


def test_devices_in_use_stay_as_they_are():
    assert jax.device_count() == 4
    use_cores(2)
    assert jax.device_count() == 4


def test_a_device_for_each_core():
    script = "import jax, meta.parallel as p; p.use_cores({}); print(jax.device_count())"
    bare = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    cases = [("", {"JAX_NUM_CPU_DEVICES": "3"}, 3), ("", {}, len(os.sched_getaffinity(0)))]
    children = [
        subprocess.Popen([sys.executable, "-c", script.format(count)], env=bare | extra, stdout=subprocess.PIPE)
        for count, extra, _ in cases
    ]
    found = [int(child.communicate(timeout=60)[0]) for child in children]
    assert found == [expected for _, _, expected in cases]


class Kill(Exception):
    pass


@pytest.mark.parametrize(("name", "first", "second"), [("pes", 4, 1), ("evolution", 1, 4)])
def test_a_run_goes_on_with_another_number_of_devices(tmp_path, name, first, second):
    rule, estimator = LEARNERS[name]

    def run(out, devices, report=lambda row: None):
        config = MetaConfig(
            steps=6, tasks=4, horizon=FixedConfig(length=HORIZON), estimator=estimator, optimizer=rule, devices=devices,
            log_every=2, validate_every=2, checkpoint_every=2, validation_tasks=3,
        )  # fmt: skip
        out.mkdir(exist_ok=True)
        return train(out, LEARNED, QUADRATIC, config, seed=0, identity={"seed": 0}, report=report)

    def kill(row):
        if row["step"] == 4:
            raise Kill

    with ranks(name), pytest.raises(Kill):
        run(tmp_path / "moved", first, kill)
    assert sorted(path.name for path in (tmp_path / "moved/checkpoints").iterdir()) == ["2"]
    with ranks(name):
        moved, stayed = run(tmp_path / "moved", second), run(tmp_path / "stayed", second)
    assert moved.devices == stayed.devices == second and moved.step == stayed.step == 6
    assert moved.validation_step == stayed.validation_step
    np.testing.assert_allclose(moved.validation, stayed.validation, rtol=1e-4)
    assert_close(moved.theta, stayed.theta, rtol=1e-4, atol=1e-5)


CONFIG = """\
seed = 5
optimizer = { kind = "lstm", layers = 1, hidden = 2 }
task = { kind = "quadratic", dimension = 2, start_scale = 1.0 }

[meta]
steps = 4
tasks = 4
horizon = 4
log_every = 2
validate_every = 2
checkpoint_every = 2
validation_tasks = 6

[meta.estimator]
kind = "pes"
unroll_length = 2
sigma = 0.1

[meta.optimizer]
learning_rate = 0.01
"""
CACHE = Path(__file__).parents[2] / ".jax_cache"
# What two threads inside of XLA print of their connections, a few words at a time and so in any order.
GLOO = re.compile(
    r"(\[Gloo\] Rank | is connected to | peer ranks\. |Expected number of connected peer ranks is : |\s|\d)*"
)


def two_processes(folder, *arguments):
    """`l2o train` in two processes with two devices each: the lines that each of them printed."""
    port, kept = free_port(), ("JAX_DISABLE_MOST_OPTIMIZATIONS",)  # with which tests/conftest.py compiles
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_") or k in kept}
    environment |= {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(CACHE)}
    command = [sys.executable, "-m", "l2o", "train", *map(str, arguments), f"--coordinator=127.0.0.1:{port}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    children = []
    try:
        for i in range(2):
            whole = [*command, "--num-processes=2", f"--process-id={i}"]
            children.append(subprocess.Popen(whole, cwd=folder, env=environment, **pipes))
        deadline = time.monotonic() + 120
        while any(child.poll() is None for child in children):
            if any(child.poll() for child in children) or time.monotonic() > deadline:
                break  # one failed, and the other would wait for it
            time.sleep(0.05)
    finally:
        for child in children:
            child.kill()
    printed = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0], printed
    return [[line for line in out.splitlines() if not GLOO.fullmatch(line)] for out, _ in printed]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with a config and its run in one process, this one, on four devices."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "mine.toml").write_text(CONFIG)
    with jax.numpy_rank_promotion("raise"):
        Experiment.load(folder / "mine.toml").train(folder / "alone", quiet=True)
    return folder


def check_two(run, alone, printed):
    """Process 0 alone said something and wrote everything; theta is that of one process."""
    assert printed[0][-1].startswith("finished: ") and printed[1] == []
    assert (run / "report.html").is_file()
    found, expected = l2o.load(run), l2o.load(alone / "alone")
    assert_close(found.theta, expected.theta)
    assert (expected.provenance["processes"], expected.provenance["devices"]) == (1, 4)
    assert (found.provenance["processes"], found.provenance["devices"]) == (2, 4)
    first, second = (read_metrics(folder / "metrics.jsonl") for folder in (run, alone / "alone"))
    assert [row["step"] for row in first] == [row["step"] for row in second] == [2, 4]
    for name in ("meta_loss", "validation"):
        np.testing.assert_allclose([row[name] for row in first], [row[name] for row in second], rtol=1e-5)


@pytest.mark.slow
def test_two_processes_equal_one(alone):
    printed = two_processes(alone, "mine.toml")
    assert [path.name for path in (alone / "runs").iterdir()] == ["mine-1"]
    check_two(alone / "runs/mine-1", alone, printed)


@pytest.mark.slow  # to go on is to read what fewer devices have left, of which there is a test above
def test_two_processes_go_on_where_one_stopped(alone):
    run = alone / "stopped"
    shutil.copytree(alone / "alone", run)
    shutil.rmtree(run / "checkpoints/4")
    for name in ("report.html", "optimizer.json", "theta.safetensors"):
        (run / name).unlink()
    check_two(run, alone, two_processes(alone, run, "--resume"))
