import os
import signal
import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meta.trainer as trainer
from l2o.core import Problem, Task
from l2o.errors import UserError
from l2o.files import difference
from l2o.gradient.lstm import LSTMConfig
from l2o.space.domain import Space
from meta.checkpoints import Checkpoints, Progress, read_metrics
from meta.estimator.backprop import BackpropConfig
from meta.learner.gradient import AdamLearnerConfig
from meta.objective import BestConfig
from meta.trainer import Interrupt, MetaConfig, train
from tasks.family import TaskFamily
from tasks.quadratic import QuadraticConfig

LEARNED = LSTMConfig(layers=1, hidden=2).build()
FAMILY = QuadraticConfig(dimension=2, start_scale=1.0).build()
IDENTITY = {"seed": 0, "meta": {"steps": 7, "horizon": 4}}


def meta_config(**fields) -> MetaConfig:
    """Seven meta-steps: rows at 2, 4, 6, 7; checkpoints at 4 and 7; validations at 2, 4, 6, 7."""
    defaults = {
        "steps": 7, "tasks": 2, "horizon": 4, "log_every": 2, "validate_every": 2, "checkpoint_every": 4,
        "validation_tasks": 2, "estimator": BackpropConfig(unroll_length=2),
        "optimizer": AdamLearnerConfig(average=0.5), "devices": 1,
    }  # fmt: skip
    return MetaConfig(**{**defaults, **fields})


ROWS = [2, 4, 6, 7]


class Kill(Exception):
    pass


def killer(*steps):
    """A report that dies at the first row of each of the steps, once per step."""
    due = list(steps)

    def report(row):
        if row["step"] in due:
            due.remove(row["step"])
            raise Kill

    return report


def start(out, seed=0, identity=IDENTITY, family=FAMILY, config=None, report=lambda row: None, **fields):
    out.mkdir(exist_ok=True)
    config = config or meta_config(**fields)
    return train(out, LEARNED, family, config, seed=seed, identity=identity, report=report)


def checkpoints(out):
    return sorted(int(path.name) for path in (out / "checkpoints").iterdir() if path.name.isdigit())


def stable(rows):
    """What a row holds apart from clock readings."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "steps_per_second")} for row in rows]


def assert_same(first, second):
    for name in ("step", "validation", "validation_step", "skipped", "finished"):
        assert getattr(first, name) == getattr(second, name), name
    jax.tree.map(np.testing.assert_array_equal, first.theta, second.theta)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted training."""
    out = tmp_path_factory.mktemp("whole")
    with jax.numpy_rank_promotion("raise"):
        result = start(out)
    return SimpleNamespace(result=result, rows=read_metrics(out / "metrics.jsonl"), out=out)


def test_a_training_changes_theta_and_says_what_it_did(whole):
    result = whole.result
    assert result.finished and result.step == 7 and result.skipped == 0
    assert [row["step"] for row in whole.rows] == ROWS
    assert all({"meta_loss", "gradient_norm", "skipped", "seconds", "validation"} <= set(row) for row in whole.rows)
    seconds = [row["seconds"] for row in whole.rows]
    assert seconds == sorted(seconds) and result.seconds >= seconds[-1] > 0
    fresh = LEARNED.init(jax.random.split(jax.random.key(0), 3)[1])
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (result.theta, fresh)), strict=True))


def test_one_seed_decides_everything(whole, tmp_path):
    assert_same(start(tmp_path / "again"), whole.result)
    assert stable(read_metrics(tmp_path / "again" / "metrics.jsonl")) == stable(whole.rows)
    other = start(tmp_path / "other", seed=1)
    assert all(
        not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (other.theta, whole.result.theta)), strict=True)
    )


def test_two_chunks_of_one_length_are_one_compilation(tmp_path, monkeypatch):
    """Also where a state begins with weak types, as the carry of this objective does."""
    traced, learner = [], MetaConfig.learner

    def counting(self, *args):
        chosen = learner(self, *args)
        return chosen._replace(step=lambda state, family: traced.append(1) or chosen.step(state, family))

    monkeypatch.setattr(MetaConfig, "learner", counting)
    start(tmp_path / "out", steps=6, objective=BestConfig())
    assert len(traced) == 1


def test_empty_arrays_are_kept_in_checkpoints(tmp_path):
    state = {"full": np.arange(3.0), "empty": np.zeros((0, 2), np.int32)}
    with Checkpoints(tmp_path, IDENTITY) as checkpoints:
        checkpoints.save(1, state, state, Progress())
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
        found, best, _ = checkpoints.restore(abstract, state)
    for restored in (found, best):
        jax.tree.map(np.testing.assert_array_equal, restored, state)
        assert restored["empty"].shape == (0, 2) and restored["empty"].dtype == np.int32


# at every row in turn: 4 and 7 die before their own checkpoint is written; in a release before and after one alone, too
@pytest.mark.parametrize(
    "kills", [pytest.param((2,), marks=pytest.mark.slow), pytest.param((6,), marks=pytest.mark.slow), (2, 4, 6, 7)]
)
def test_resumed_equals_uninterrupted_to_the_bit(whole, tmp_path, kills):
    report = killer(*kills)
    for step in kills:
        with pytest.raises(Kill):
            start(tmp_path, report=report)
        rows = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")]
        assert rows == ROWS[: ROWS.index(step) + 1]
        assert checkpoints(tmp_path) == ([4] if step > 4 else [])
    result = start(tmp_path, report=report)
    assert_same(result, whole.result)
    assert stable(read_metrics(tmp_path / "metrics.jsonl")) == stable(whole.rows)


def test_a_finished_training_is_not_repeated(whole):
    rows = []
    again = start(whole.out, report=rows.append)
    assert rows == []
    assert_same(again, whole.result)
    assert read_metrics(whole.out / "metrics.jsonl") == whole.rows


@pytest.mark.parametrize("tail", ['{"step": 6, "meta_lo', '{"step": 6, "meta_loss": 1.0}'])
def test_a_torn_last_line_is_dropped(whole, tmp_path, tail):
    """A kill may cut the last row anywhere, even before its line break."""
    with pytest.raises(Kill):
        start(tmp_path, report=killer(6))
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + tail)
    assert [row["step"] for row in read_metrics(path)] == ([2, 4, 6] if tail.endswith("}") else [2, 4])
    assert_same(start(tmp_path), whole.result)
    assert stable(read_metrics(path)) == stable(whole.rows)
    assert len(path.read_text().splitlines()) == len(ROWS)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 0, "meta": {"steps": 7, "horizon": 5}}, "meta.horizon changed from 4 to 5"),
        ({"seed": 1, "meta": {"steps": 7, "horizon": 4}}, "seed changed from 0 to 1"),
        ({"seed": 0, "meta": {"steps": 7, "horizon": 4}, "task": "mlp"}, "task changed from None to 'mlp'"),
    ],
)
def test_a_checkpoint_of_another_config_is_refused(whole, changed, words):
    with pytest.raises(UserError, match=words.replace(".", r"\.")) as error:
        start(whole.out, identity=changed)
    assert "\n" not in str(error.value)
    assert read_metrics(whole.out / "metrics.jsonl") == whole.rows, "a refused resume touches nothing"


def test_difference_names_the_first_change():
    assert difference({"a": [1, 2], "b": None}, {"a": [1, 2]}) == ""
    assert difference({"a": [1, 2]}, {"a": [1, 3]}) == "a changed from [1, 2] to [1, 3]"
    assert difference({"a": {"kind": "x"}}, {"a": {"kind": "y"}}) == "a.kind changed from 'x' to 'y'"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops_and_resume_goes_on(whole, tmp_path, number):
    """At row 2, where no checkpoint is due."""
    before = signal.getsignal(number)

    def report(row):
        if row["step"] == 2:
            os.kill(os.getpid(), number)

    result = start(tmp_path, report=report)
    assert not result.finished and result.step == 2
    assert checkpoints(tmp_path) == [2]
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [2]
    assert signal.getsignal(number) == before
    assert_same(start(tmp_path), whole.result)
    assert stable(read_metrics(tmp_path / "metrics.jsonl")) == stable(whole.rows)


@pytest.fixture
def usual_interrupt():
    """Python's own handler; a shell that starts the tests in the background has interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_second_interrupt_acts_as_usual(usual_interrupt):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(signal.SIGINT) == before


def test_outside_the_main_thread_signals_are_left_alone():
    seen = []

    def run():
        with Interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def script(monkeypatch, scores):
    """Validations that give these scores one after another, and the theta that each of them saw."""
    remaining, thetas = list(scores), []

    def evaluate(make, theta, family, key, **options):
        thetas.append(jax.tree.map(np.array, theta))
        return {"objective": np.array([remaining.pop(0)]), "value": np.zeros((1, 5))}

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    return thetas


@pytest.mark.parametrize("scores", [[3, 1, 2, 5], [4, 3, 2, 1], [np.nan, 2, np.nan, 3]])
def test_the_theta_with_the_lowest_validation_is_kept(tmp_path, monkeypatch, scores):
    thetas = script(monkeypatch, scores)
    result = start(tmp_path)
    best = int(np.nanargmin(scores))
    assert (result.validation, result.validation_step) == (scores[best], ROWS[best])
    jax.tree.map(np.testing.assert_array_equal, result.theta, thetas[best])
    assert all(
        not np.array_equal(jax.tree.leaves(a)[0], jax.tree.leaves(thetas[best])[0])
        for i, a in enumerate(thetas) if i != best
    )  # fmt: skip


def test_the_best_theta_survives_a_kill(tmp_path, monkeypatch):
    thetas = script(monkeypatch, [1, 3, 9, 9, 9])
    with pytest.raises(Kill):
        start(tmp_path, report=killer(6))
    result = start(tmp_path)
    assert (result.validation, result.validation_step) == (1, 2)
    jax.tree.map(np.testing.assert_array_equal, result.theta, thetas[0])


def test_what_is_validated_is_the_average(whole):
    """The kept theta and its score belong together: measured again, on the same starts, it has that score."""
    _, _, key = jax.random.split(jax.random.key(0), 3)
    config = meta_config()
    out = trainer.evaluate(
        LEARNED.bind, whole.result.theta, FAMILY, key,
        tasks=config.validation_tasks, horizon=config.horizon.longest, objective=config.objective.build(),
    )  # fmt: skip
    np.testing.assert_allclose(out["objective"].mean(), whole.result.validation, rtol=1e-5)
    assert whole.result.validation == min(row["validation"] for row in whole.rows)


@pytest.mark.slow
def test_a_checkpoint_before_the_first_validation(tmp_path):
    """The theta that training started from is still there to be saved, and the resumed run keeps none of it."""
    fields = {"checkpoint_every": 2, "validate_every": 1000}
    with pytest.raises(Kill):
        start(tmp_path / "a", report=killer(4), **fields)
    assert checkpoints(tmp_path / "a") == [2]
    resumed, direct = start(tmp_path / "a", **fields), start(tmp_path / "b", **fields)
    assert resumed.validation_step == 7
    assert_same(resumed, direct)


def test_a_given_theta_is_the_start_and_stays_usable(tmp_path):
    theta = LEARNED.init(jax.random.key(5))
    kept = jax.tree.map(np.array, theta)
    config = meta_config(optimizer=AdamLearnerConfig(learning_rate=1e-12, average=0.0))
    result = train(tmp_path, LEARNED, FAMILY, config, seed=0, identity=IDENTITY, theta=theta)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), result.theta, kept)
    jax.tree.map(np.testing.assert_array_equal, theta, kept)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Broken(TaskFamily):
    """A loss that is not a number, so that every meta-gradient fails."""

    def sample(self, key):
        return jax.random.normal(key, (2,))

    def task(self, params):
        return Task.from_loss(lambda key, x: jnp.nan * jnp.sum(x), Problem(Space.free(), params))


@pytest.mark.slow
def test_gradients_that_keep_failing_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "PATIENCE", 5)
    rows = []
    with pytest.raises(UserError) as error:
        start(tmp_path, family=Broken(), report=rows.append, steps=100)
    message = str(error.value)
    assert str(tmp_path) in message and "step 6" in message and "6 meta-gradients" in message and "\n" not in message
    assert "checkpoint at step 4" in message and checkpoints(tmp_path) == [4]
    assert [(row["step"], row["skipped"]) for row in rows] == [(2, 2), (4, 4)]

    # what was kept is the theta of the last good step, here that of the beginning
    monkeypatch.setattr(trainer, "PATIENCE", 100)
    result = start(tmp_path, family=Broken(), steps=6)
    assert result.skipped == 6
    fresh = LEARNED.init(jax.random.split(jax.random.key(0), 3)[1])
    jax.tree.map(np.testing.assert_array_equal, result.theta, fresh)


def test_a_run_that_fails_before_its_first_checkpoint_does_not_claim_one(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "PATIENCE", 2)
    with pytest.raises(UserError) as error:
        start(tmp_path, family=Broken())
    kept = checkpoints(tmp_path)
    assert ("checkpoint" in str(error.value)) == bool(kept)


@pytest.mark.parametrize("field", ["validate_every", "checkpoint_every"])
def test_intervals_are_multiples_of_log_every(field):
    with pytest.raises(ValueError, match=f"{field} must be a multiple of log_every, found 5 and 2"):
        meta_config(**{field: 5})


@pytest.mark.parametrize("field", ["steps", "tasks", "horizon", "log_every", "validation_tasks"])
def test_counts_are_positive(field):
    with pytest.raises(ValueError, match=field):
        meta_config(**{field: 0})
