"""The command line: what it lists, a user's own modules, and one line with exit code 2 for every mistake."""

import shutil
import sys

import jax
import numpy as np
import pytest
import tomli_w

import l2o
import tasks
from experiments.run import Experiment
from experiments.study import StudyConfig
from l2o import registry
from l2o.baselines.optax import TunedConfig
from l2o.core import BaselineConfig, OptimizerConfig
from meta.curriculum import HorizonConfig
from meta.estimator import EstimatorConfig
from meta.learner.base import LearnerConfig

MODULE = '''
"""A user's own optimizer and task."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

import l2o
import tasks
from l2o.lift.optax import gradient_based


@l2o.register
class StepConfig(l2o.OptimizerConfig):
    """A learned step size."""

    kind: Literal["my_step"] = "my_step"
    start: float = 0.01

    def build(self):
        def native(theta, horizon=None):
            return optax.with_extra_args_support(optax.scale(-theta["rate"]))

        return gradient_based(lambda key: {"rate": jnp.asarray(self.start)}, native)


@l2o.register
class BowlConfig(tasks.FamilyConfig):
    """A round bowl."""

    kind: Literal["my_bowl"] = "my_bowl"

    def build(self, split="train"):
        return Bowl()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bowl(tasks.TaskFamily):
    def sample(self, key):
        return jax.random.normal(key, (2,))

    def task(self, params):
        problem = l2o.Problem(l2o.Space.free(), params)
        return l2o.Task.from_loss(lambda key, x: jnp.sum(x**2), problem)
'''
OWN = """
optimizer = { kind = "my_step" }
task = { kind = "my_bowl" }

[meta]
steps = 6
tasks = 2
horizon = 4
log_every = 2
validate_every = 2
checkpoint_every = 2
validation_tasks = 2
"""


@pytest.fixture
def registered():
    """Kinds registered by a test are forgotten after it."""
    before = {room: dict(known) for room, known in registry._KINDS.items()}
    yield
    registry._KINDS.clear()
    registry._KINDS.update(before)
    sys.modules.pop("my_module", None)


@pytest.fixture(scope="module")
def users_folder(tmp_path_factory):
    """A working directory with a module to import, and folders that are called as this project's are."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_module.py").write_text(MODULE)
    (folder / "own.toml").write_text(OWN)
    for name in ("tasks", "meta", "experiments"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('this is the folder of the user')\n")
    return folder


def test_list_names_everything_when_piped(users_folder, shell):
    found = shell("list", "--import", "my_module", cwd=users_folder)
    assert found.code == 0 and found.err == ""
    sections = {}
    for line in found.out.splitlines():
        if line.startswith("  "):
            sections[title].append(line.split()[0])
        else:
            title = line
            sections[title] = []
    assert sections["shipped optimizers"] == l2o.names()
    assert sections["architectures"] == sorted([*l2o.kinds(OptimizerConfig), "my_step"])
    assert sections["baselines"] == list(l2o.kinds(BaselineConfig))
    assert sections["task families"] == sorted([*l2o.kinds(tasks.FamilyConfig), "my_bowl"])
    assert sections["datasets"] == list(l2o.kinds(tasks.DatasetConfig))
    assert sections["corpora"] == list(l2o.kinds(tasks.CorpusConfig))
    assert sections["estimators (meta.estimator)"] == list(l2o.kinds(EstimatorConfig))
    assert {"backprop", "es", "pes", "nres", "mix"} <= set(sections["estimators (meta.estimator)"])
    assert sections["meta-optimizers (meta.optimizer)"] == list(l2o.kinds(LearnerConfig))
    assert {"adam", "evolution"} <= set(sections["meta-optimizers (meta.optimizer)"])
    assert sections["horizons (meta.horizon)"] == list(l2o.kinds(HorizonConfig))
    assert {"fixed", "log_uniform", "curriculum"} <= set(sections["horizons (meta.horizon)"])
    memory = {words[0]: words[1:3] for words in map(str.split, found.out.splitlines()) if "B/param" in words}
    learned = [name for name in l2o.names() if l2o.load(name).learned.native is not None]
    tuned = [name for name, config in l2o.kinds(BaselineConfig).items() if issubclass(config, TunedConfig)]
    assert set(memory) == {*learned, *tuned}
    assert memory["sgd"] == ["0", "B/param"] and memory["adam"] == ["8", "B/param"]
    assert sections["configs (l2o train)"] == Experiment.names()
    assert sections["studies (l2o study)"] == StudyConfig.names()
    for load, names in ((Experiment.load, Experiment.names()), (StudyConfig.load, StudyConfig.names())):
        for name in names:
            assert load(name).description in found.out
    assert "…" not in found.out and "..." not in found.out
    assert "A learned step size." in found.out


@pytest.mark.slow
def test_a_users_module_trains_end_to_end(users_folder, shell):
    found = shell("train", "own.toml", "--import", "my_module", "--out", "run", cwd=users_folder)
    assert found.code == 0, found
    assert "finished" in found.out and "step 6/6" in found.progress and "step 6/6" not in found.out
    assert (users_folder / "run" / "report.html").is_file()


@pytest.fixture
def own_run(users_folder, tmp_path, monkeypatch, cli, registered):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_module.py").write_text(MODULE)
    (tmp_path / "own.toml").write_text(OWN)
    assert cli("train", "own.toml", "--import", "my_module", "--out", "run").code == 0
    return tmp_path / "run"


def test_what_it_trained_can_be_loaded(own_run):
    assert float(l2o.load(own_run).theta["rate"]) > 0.01, "a larger step is better on a bowl"
    assert Experiment.load(own_run / "config.toml").task.kind == "my_bowl"


def test_what_it_trained_needs_the_module(own_run, cli):
    del registry._KINDS[OptimizerConfig]["my_step"]
    sentence = cli("study", "quadratic", "--optimizer", own_run, "--out", own_run.parent / "study").sentence
    assert "must be imported first" in sentence and "'my_step'" in sentence


WITHOUT_ESTIMATOR = """
optimizer = { kind = "lstm", layers = 1, hidden = 2 }
task = { kind = "quadratic", dimension = 2 }
meta = { steps = 2, tasks = 2, horizon = 4, log_every = 2, validate_every = 2, checkpoint_every = 2 }
"""
KINDS = {
    "es": "estimator={kind='es'}",
    "pes": "estimator={kind='pes', unroll_length=2}",
    "nres": "estimator={kind='nres', unroll_length=2, pairs=2, normalisation='rank'}",
    "mix": "estimator={kind='mix', estimators=[{kind='backprop', unroll_length=2}, {kind='es'}]}",
    "evolution": "optimizer={kind='evolution', population_size=4}",
}


# what a mix and another learner leave; in a release what each estimator does
@pytest.mark.parametrize(
    "kind", [kind if kind in ("mix", "evolution") else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_what_each_kind_of_training_leaves_can_be_loaded(tmp_path, cli, kind):
    (tmp_path / "mine.toml").write_text(WITHOUT_ESTIMATOR)
    with jax.numpy_rank_promotion("allow" if kind == "evolution" else "raise"):  # evosax relies on it
        found = cli(
            "train", tmp_path / "mine.toml", "--out", tmp_path / "run", "--set", f"meta.{KINDS[kind]}",
            "--set", "meta.validation_tasks=2",
        )  # fmt: skip
    assert found.code == 0 and "finished" in found.out, found
    loaded = l2o.load(tmp_path / "run")
    meta = loaded.provenance["experiment"]["meta"]
    assert kind in (meta["optimizer"]["kind"], (meta["estimator"] or {}).get("kind"))
    assert loaded.provenance["meta_steps"] == 2 and loaded.provenance["skipped_meta_steps"] == 0
    assert np.isfinite(loaded.provenance["validation_meta_loss"])
    begun = loaded.config.build().init(jax.random.split(jax.random.key(0), 3)[1])
    pairs = list(zip(jax.tree.leaves(loaded.theta), jax.tree.leaves(begun), strict=True))
    assert all(np.all(np.isfinite(a)) for a, _ in pairs) and any(not np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["meta.devices=99"], "meta.devices: found 99, expected at most 4"),
        (["meta.devices=3"], "meta.tasks: 2 cannot be shared evenly by 3 devices, expected a multiple of 3"),
        (["meta.devices=0"], "meta.devices"),
        (["meta.devices='some'"], "meta.devices"),
        (["meta.optimizer={kind='evolution'}"], "estimator: found 'backprop', expected none"),
        (["meta.estimator.kind=ess"], "unknown kind 'ess' (did you mean 'es'?)"),
        (["meta.estimator={kind='mix', estimators=[{kind='es'}]}"], "meta.estimator.estimators"),
        (["meta.horizon.kind=curriculum"], "meta.horizon"),
    ],
)
def test_trainings_that_cannot_be(tmp_path, tiny, cli, overrides, words):
    sets = [argument for override in overrides for argument in ("--set", override)]
    assert words in cli("train", tiny, "--out", tmp_path / "run", *sets).sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--process-id=1"], "belong together"),
        (["--coordinator=here", "--num-processes=2", "--process-id=0"], "expected HOST:PORT"),
        (["--coordinator=here:1", "--num-processes=2", "--process-id=2"], "--process-id: found 2, expected 0 to 1"),
    ],
)
def test_processes_that_cannot_come_together(tmp_path, tiny, cli, options, words):
    assert words in cli("train", tiny, "--out", tmp_path / "run", *options).sentence
    assert not (tmp_path / "run").exists()


OPAQUE = '''
"""Tasks that say what a derivative is, or not, without being differentiable."""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

import l2o
import tasks


@l2o.register
class OpaqueConfig(tasks.FamilyConfig):
    """A bowl behind a callback or a loop."""

    kind: Literal["my_opaque"] = "my_opaque"
    through: Literal["callback", "loop"] = "loop"
    gradients: bool = True

    def build(self, split="train"):
        return Opaque(self.through, self.gradients)


def callback(x):
    like = jax.ShapeDtypeStruct((), x.dtype)
    return jax.pure_callback(lambda x: np.sum(np.asarray(x) ** 2), like, x, vmap_method="sequential")


def loop(x):
    """Halved until it is below one, and added up again."""
    halved, count = jax.lax.while_loop(lambda s: s[0] > 1, lambda s: (s[0] / 2, s[1] + 1), (jnp.sum(x**2), 0))
    return halved * 2.0**count


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Opaque(tasks.TaskFamily):
    through: str = field(metadata={"static": True})
    gradients: bool = field(metadata={"static": True})

    def sample(self, key):
        return jax.random.normal(key, (2,))

    def task(self, params):
        value = {"callback": callback, "loop": loop}[self.through]

        def evaluate(key, x):
            return l2o.Evaluation(value(x[0])[None], 2 * x if self.gradients else None)

        return l2o.Task(l2o.Problem(l2o.Space.free(), params), evaluate)
'''


@pytest.fixture
def opaque(tmp_path, monkeypatch, cli, registered):
    """`l2o train` on a task that cannot be differentiated."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_module.py").write_text(OPAQUE)
    (tmp_path / "mine.toml").write_text(WITHOUT_ESTIMATOR)

    def run(task, *overrides):
        sets = [f"--set={override}" for override in (f"task={{kind='my_opaque', {task}}}", *overrides)]
        return cli(
            "train", "mine.toml", "--import", "my_module", "--out", "run", "--set=meta.validation_tasks=2", *sets
        )

    return run


@pytest.mark.parametrize(("through", "reason"), [("callback", "callbacks do not support JVP"), ("loop", "while_loop")])
def test_backprop_through_what_cannot_be_differentiated(opaque, through, reason):
    sentence = opaque(f"through='{through}'").sentence
    assert "meta.estimator: backprop cannot differentiate this task (" in sentence and reason in sentence
    assert "es, pes or nres" in sentence


@pytest.mark.slow
def test_other_estimators_need_no_derivative(opaque):
    found = opaque("through='loop'", "meta.estimator={kind='pes', unroll_length=2}")
    assert found.code == 0 and "finished" in found.out, found


def test_an_optimizer_that_reads_gradients_where_there_are_none(tmp_path, opaque):
    sentence = opaque("gradients=false", "meta.estimator={kind='es'}").sentence
    assert "task.kind 'my_opaque' gives no gradients" in sentence and "optimizer.kind 'lstm' needs them" in sentence
    assert not (tmp_path / "run").exists()


def test_bad_input_from_a_shell(tmp_path, shell):
    found = shell("train", "lstm_digit", "--out", "run", cwd=tmp_path)
    assert "(did you mean 'lstm_digits'?)" in found.sentence
    assert found.out == "" and not list(tmp_path.iterdir())


CONTENTS = {
    "empty": b"",
    "binary": b"\xff\xfe",
    "prose": b"just some words",
}


@pytest.mark.parametrize(
    ("contents", "words"),
    [("empty", "missing optimizer, task, meta"), ("binary", "is not UTF-8 text"), ("prose", "is not valid TOML")],
)
def test_files_that_are_no_config(tmp_path, cli, contents, words):
    (tmp_path / "mine.toml").write_bytes(CONTENTS[contents])
    sentence = cli("train", tmp_path / "mine.toml", "--out", tmp_path / "run").sentence
    assert str(tmp_path / "mine.toml") in sentence and words in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("meta.stps=3", "meta.stps is an unknown field (did you mean 'steps'?)"),
        ("optimizer.hiden=3", "optimizer.hiden is an unknown field (did you mean 'hidden'?)"),
        ("meta.estimator.unroll=3", "meta.estimator.unroll is an unknown field"),
        ("optimizer.kind=lstn", "unknown kind 'lstn' (did you mean 'lstm'?)"),
        ("task.kind=quadratik", "unknown kind 'quadratik' (did you mean 'quadratic'?)"),
        ("optimizer={}", "kind is missing"),
        ("meta.steps=true", "meta.steps: found True (bool), expected integer"),
        ("meta.steps=ten", "meta.steps: found 'ten' (str), expected integer"),
        ("meta.optimizer.learning_rate=true", "meta.optimizer.learning_rate: found True (bool), expected number"),
        ("meta.optimizer.learning_rate=fast", "meta.optimizer.learning_rate: found 'fast' (str), expected number"),
        ("meta.optimizer.learning_rate=nan", "meta.optimizer.learning_rate: found nan"),
        ("meta.optimizer.learning_rate=inf", "meta.optimizer.learning_rate: found inf"),
        ("meta.optimizer.learning_rate=-1.0", "meta.optimizer.learning_rate: found -1.0"),
        ("meta.steps={a=1}", "meta.steps: found {'a': 1}"),
        ("meta=3", "meta: found 3"),
        ("meta.validate_every=3", "validate_every must be a multiple of log_every, found 3 and 2"),
        ("meta.steps", "expected field=value"),
        ("seed.deep=1", "'deep' is not inside a table"),
    ],
)
def test_fields_that_do_not_fit(tmp_path, tiny, cli, override, words):
    sentence = cli("train", tiny, "--out", tmp_path / "run", "--set", override).sentence
    assert words in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["quadratik", "nowhere/quadratic.toml"])
def test_a_study_that_does_not_exist(tmp_path, cli, name):
    sentence = cli("study", name, "--out", tmp_path / "out").sentence
    assert repr(name) in sentence
    for known in StudyConfig.names():
        assert known in sentence


def test_an_optimizer_that_does_not_exist(tmp_path, cli):
    sentence = cli("study", "quadratic", "--optimizer", "adma", "--out", tmp_path / "out").sentence
    assert "'adma' (did you mean 'adam'?)" in sentence and "momentum" in sentence
    assert not (tmp_path / "out").exists()


def test_missing_data(tmp_path, cli, monkeypatch):
    arguments = ("train", "lstm_digits", "--set", "task.dataset.kind=mnist", "--out", tmp_path / "run")
    assert "L2O_DATA" in cli(*arguments).sentence and "data_dir" in cli(*arguments).sentence
    monkeypatch.setenv("L2O_DATA", str(tmp_path / "nowhere"))
    assert f"mnist: the data folder {tmp_path / 'nowhere'} does not exist" in cli(*arguments).sentence
    (tmp_path / "nowhere").mkdir()
    assert "t10k-images-idx3-ubyte" in cli(*arguments).sentence
    (tmp_path / "nowhere" / "t10k-images-idx3-ubyte").write_bytes(b"no images")
    (tmp_path / "nowhere" / "t10k-labels-idx1-ubyte").write_bytes(b"no labels")
    sentence = cli(*arguments).sentence
    assert "t10k-images-idx3-ubyte" in sentence and "damaged" in sentence
    assert not (tmp_path / "run").exists()


def truncate(run):
    blob = (run / "theta.safetensors").read_bytes()
    (run / "theta.safetensors").write_bytes(blob[:-4])


DAMAGE = {
    "truncated theta": (truncate, "theta.safetensors is damaged or truncated"),
    "no theta": (lambda run: (run / "theta.safetensors").unlink(), "theta.safetensors is missing"),
    "no header": (lambda run: (run / "optimizer.json").unlink(), "optimizer.json is missing"),
    "half a header": (lambda run: (run / "optimizer.json").write_text('{"format":'), "optimizer.json is damaged"),
    "foreign": (
        lambda run: (run / "optimizer.json").write_text("{}"),
        "optimizer.json is damaged or not an l2o optimizer",
    ),
    "newer": (
        lambda run: (run / "optimizer.json").write_text(
            (run / "optimizer.json").read_text().replace('"version": 1', '"version": 2', 1)
        ),
        "format version 2",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_artifact(tmp_path, trained, cli, damage):
    run = tmp_path / "mine"
    shutil.copytree(trained, run)
    do, words = DAMAGE[damage]
    do(run)
    sentence = cli("study", "quadratic", "--optimizer", run, "--out", tmp_path / "out").sentence
    assert words in sentence and str(run) in sentence
    assert not (tmp_path / "out").exists()


def test_train_on_a_directory_without_resume(trained, cli):
    sentence = cli("train", trained).sentence
    assert str(trained) in sentence and "--resume" in sentence


@pytest.mark.parametrize("name", ["nowhere", "empty", "tiny.toml"])
def test_resume_of_what_is_no_run(tmp_path, tiny, cli, name):
    (tmp_path / "empty").mkdir()
    sentence = cli("train", tmp_path / name, "--resume").sentence
    assert name in sentence and "run" in sentence
    assert not list((tmp_path / "empty").iterdir()) and not (tmp_path / "nowhere").exists()


def test_resume_into_a_directory_that_is_no_run(tmp_path, tiny, cli):
    assert "holds no run to resume" in cli("train", tiny, "--resume", "--out", tmp_path / "new").sentence
    assert not (tmp_path / "new").exists()


@pytest.fixture
def copied(tmp_path, trained):
    """A finished run that a test may change."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def unfinished(copied):
    """A run killed before its first checkpoint."""
    for path in copied.iterdir():
        if path.name != "config.toml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return copied


def test_a_finished_run_resumed_through_its_config(tmp_path, copied, tiny, cli, snapshot):
    before = snapshot(copied)
    found = cli("train", tiny, "--out", copied, "--resume")
    assert found.code == 0 and "nothing to do" in found.out
    assert snapshot(copied) == before


@pytest.mark.parametrize("finished", [True, False])
def test_resume_with_an_edited_config(copied, cli, snapshot, finished):
    config = copied / "config.toml"
    if not finished:
        (copied / "report.html").unlink()
    config.write_text(config.read_text().replace("seed = 3", "seed = 4"))
    before = snapshot(copied)
    sentence = cli("train", copied, "--resume").sentence
    assert "resume" in sentence and "seed changed from 3 to 4" in sentence
    assert snapshot(copied) == before


@pytest.mark.parametrize("state", ["copied", "unfinished"])
@pytest.mark.parametrize("through", ["directory", "config"])
def test_resume_with_another_setting(request, cli, snapshot, tiny, state, through):
    run = request.getfixturevalue(state)
    before = snapshot(run)
    arguments = (run,) if through == "directory" else (tiny, "--out", run)
    sentence = cli("train", *arguments, "--resume", "--set", "meta.steps=8").sentence
    assert "resume" in sentence and "meta.steps changed from 6 to 8" in sentence
    assert snapshot(run) == before


def test_resume_with_a_broken_config(copied, cli):
    (copied / "config.toml").write_text("seed = ")
    assert str(copied / "config.toml") in cli("train", copied, "--resume").sentence


def test_importing_a_module_that_does_not_exist(tmp_path, tiny, cli):
    sentence = cli("train", tiny, "--import", "no_such_module", "--out", tmp_path / "run").sentence
    assert "--import no_such_module" in sentence
    assert not (tmp_path / "run").exists()


def test_a_module_that_imports_one_that_does_not_exist(tmp_path, monkeypatch, tiny, cli, registered):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_module.py").write_text("import something_missing\n")
    sentence = cli("train", tiny, "--import", "my_module").sentence
    assert "my_module" in sentence and "something_missing" in sentence


def test_a_training_that_keeps_failing_stops(tmp_path, tiny, cli):
    sentence = cli(
        "train", tiny, "--out", tmp_path / "run", "--set", "task.start_scale=1e30", "--set", "meta.steps=150",
        "--set", "meta.log_every=50", "--set", "meta.validate_every=50", "--set", "meta.checkpoint_every=50",
    ).sentence  # fmt: skip
    assert "100 meta-gradients in a row were not finite" in sentence and str(tmp_path / "run") in sentence


def baseline_without_a_rate():
    from typing import Literal

    from l2o.baselines.optax import SGDConfig

    @l2o.register
    class Still(l2o.BaselineConfig):
        """A baseline with nothing to tune."""

        kind: Literal["still"] = "still"

        def build(self):
            return SGDConfig(learning_rate=1e-3).build()


STUDY = {
    "horizon": 3, "runs": 2, "steps": [3], "task": {"kind": "quadratic", "dimension": 2},
    "tune": {"low": 0.01, "high": 0.1, "per_decade": 1, "runs": 2},
}  # fmt: skip


def test_study_prints_a_table_and_says_who_wins(tmp_path, trained, cli):
    (tmp_path / "mine.toml").write_text(tomli_w.dumps({**STUDY, "optimizers": ["nobody"]}))
    found = cli("study", tmp_path / "mine.toml", "--optimizer", trained, "--optimizer", "sgd", "--out", tmp_path / "s")
    assert found.code == 0, found
    assert "nobody" not in found.out, "--optimizer replaces what the study names"
    lines = found.out.splitlines()
    (header,) = (n for n, line in enumerate(lines) if line.startswith("optimizer  "))
    table = [line.split()[0] for line in lines[header + 1 : header + 3]]
    assert table == [trained.name, "sgd"]
    assert f"{trained.name} at step 3: " in found.out
    assert f"report: {tmp_path / 's' / 'report.html'}" in found.out


def test_the_default_directory_of_a_study_is_fresh(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(STUDY))
    for n in (1, 2):
        assert cli("study", "mine.toml", "--optimizer", "sgd").code == 0
        assert (tmp_path / f"runs/study_mine-{n}/results.json").is_file()


def test_a_baseline_with_nothing_to_tune(tmp_path, cli, registered):
    baseline_without_a_rate()
    (tmp_path / "mine.toml").write_text(tomli_w.dumps({**STUDY, "baselines": [{"kind": "still"}]}))
    found = cli("study", tmp_path / "mine.toml", "--out", tmp_path / "s")
    assert found.code == 0, found
    assert "still" in found.out and "tuned" not in found.out


@pytest.mark.parametrize("arguments", [("trian",), ("train",), ("train", "lstm_digits", "--sett", "a=1")])
def test_wrong_usage_is_exit_code_2(cli, arguments):
    found = cli(*arguments)
    assert found.code == 2 and "Traceback" not in found.err and found.err
