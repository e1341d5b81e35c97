"""`l2o finetune`: from the studies of an Optuna storage to an OptFormer that knows them better."""

import json
from pathlib import Path

import jax
import numpy as np
import optuna
import pytest

import l2o
from experiments import finetune, run
from experiments.run import Experiment
from l2o.errors import UserError
from l2o.optformer.optformer import OptFormerConfig
from l2o.space.searchspace import SearchSpace
from meta import trainer
from meta.recordings import imports
from meta.recordings.trajectories import read_manifest

CONFIG = OptFormerConfig(
    bins=16, width=16, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1, max_trials=8
)  # fmt: skip
FEW = [
    "meta.optimizer.buckets=[24]", "meta.optimizer.learning_rate=1e-2", "meta.optimizer.warmup=2", "meta.log_every=5",
    "meta.validate_every=10", "meta.checkpoint_every=10", "meta.validation_tasks=32", "meta.devices=1",
]  # fmt: skip
SPACE = {
    "rate": optuna.distributions.FloatDistribution(1e-4, 1, log=True),
    "kind": optuna.distributions.CategoricalDistribution(["a", "b"]),
}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """An OptFormer that has learned nothing."""
    return str(
        l2o.save(tmp_path_factory.mktemp("zoo") / "fresh", CONFIG, jax.jit(CONFIG.build().init)(jax.random.key(0)))
    )


def fill(url, name, trials, rng, **fields):
    """A study whose best trials are of kind b."""
    study = optuna.create_study(storage=url, study_name=name, **fields)
    made = []
    for _ in range(trials):
        params = {"rate": float(10 ** rng.uniform(-4, 0)), "kind": str(rng.choice(["a", "b"]))}
        values = [float(params["kind"] == "a")] * len(study.directions)
        made.append(optuna.create_trial(params=params, distributions=SPACE, values=values))
    study.add_trials(made)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A storage with eight studies to learn from, and others."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = f"sqlite:///{tmp_path_factory.mktemp('storage')}/studies.db"
    rng = np.random.default_rng(0)
    for i in range(8):
        fill(url, f"s{i}", 6 + i % 3, rng)
    fill(url, "short", 3, rng)
    fill(url, "two", 6, rng, directions=["minimize"] * 2)
    optuna.logging.set_verbosity(verbosity)
    return url


@pytest.fixture(scope="module")
def finished(fresh, url, tmp_path_factory):
    """What came of a training, and its directory."""
    out = tmp_path_factory.mktemp("finetune") / "whole"
    with jax.numpy_rank_promotion("raise"):
        return finetune.finetune(url, out, optimizer=fresh, steps=20, overrides=FEW, quiet=True), out


def test_it_learns_and_what_it_leaves_is_an_optimizer(finished, cli, fresh, url):
    outcome, out = finished
    assert outcome.steps == 20 and outcome.after["validation"] < outcome.before["validation"] - 0.05
    loaded = l2o.load(out)
    assert loaded.config == CONFIG and loaded.sha256 != l2o.load(fresh).sha256
    assert loaded.provenance["finetuned"] == {"before": outcome.before, "after": outcome.after}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    scores = [row["validation"] for row in rows if "validation" in row]
    assert min(scores) == pytest.approx(outcome.after["validation"], rel=1e-5)
    for name in ("report.html", "config.toml", "data/manifest.json"):
        assert (out / name).is_file()
    study = optuna.create_study(sampler=l2o.OptFormerSampler(0, optimizer=out))
    for _ in range(2):
        study.tell(study.ask(SPACE), 1.0)
    assert "nothing to do" in cli("finetune", out, "--resume").out
    assert "never overwritten" in cli("finetune", url, "--optimizer", fresh, "--out", out).sentence


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(finished, fresh, url, tmp_path, monkeypatch):
    def at_once(interrupt):
        interrupt.requested = True
        return interrupt

    out = tmp_path / "part"
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Interrupt, "__enter__", at_once)
        stopped = finetune.finetune(url, out, optimizer=fresh, steps=20, overrides=FEW, quiet=True)
    assert stopped == finetune.Outcome(0, None, None)
    assert finetune.resumed(run.resumed_experiment(out), out, quiet=True) == finished[0]
    theta, again = (l2o.load(path).theta for path in (finished[1], out))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, theta, again)))


def scores(x, y):
    return {"validation": x + y, "validation_x": x, "validation_y": y}


@pytest.mark.parametrize(
    ("outcome", "code", "lines"),
    [
        (
            finetune.Outcome(7, scores(2, 4), scores(1.5, 3.25)), 0,
            ["parameters  2.000   1.500", "values  4.000   3.250", "OptFormerSampler(optimizer='OUT') uses it"],
        ),
        (finetune.Outcome(7, scores(2, 4), scores(2, 4.5)), 0, ["it did not get better", "finished"]),
        (finetune.Outcome(3, None, None), 130, ["stopped at step 3; go on with: l2o finetune OUT --resume"]),
        (None, 0, ["OUT is finished; nothing to do"]),
    ],
)  # fmt: skip
def test_what_the_command_says(outcome, code, lines, cli, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(finetune, "finetune", lambda *given, **fields: (asked.append((given, fields)), outcome)[1])
    monkeypatch.chdir(tmp_path)
    found = cli("finetune", "URL", "--study", "a", "--study", "b", "--steps", 7, "--set", "seed=1")
    out = Path("runs/finetune-1")
    fields = {"optimizer": "optformer", "studies": ["a", "b"], "steps": 7, "overrides": ["seed=1"]}
    assert found.code == code and asked == [(("URL", out), fields)]
    squeezed = " ".join(found.out.split())
    for line in lines:
        assert " ".join(line.split()).replace("OUT", str(out)) in squeezed


def test_a_budget_of_tokens(fresh, url):
    found = list(finetune.OptunaStudiesConfig(url=url, as_sampler=True, fewest=5).read(0))
    longest = found[0]._replace(y=np.zeros(10_000), x=np.zeros((10_000, 2), np.float32))
    loaded = l2o.load(fresh)
    chosen = finetune.experiment(loaded, fresh, Path("data"), [*found, longest], 10)
    assert chosen.meta.optimizer.buckets == (12, 24) and chosen.meta.tasks == 32  # eight trials are read at most
    assert chosen.meta.init == fresh and chosen.optimizer == CONFIG and chosen.meta.steps == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sqlite:///nowhere.db"], "there is no file nowhere.db, expected a database that Optuna wrote"),
        (["nonsense"], "source.url: nonsense cannot be read"),
        (["URL", "--study", "s9"], "has no study 's9', only s0, s1"),
        (["URL", "--study", "s0", "--study", "short", "--study", "two"], "found 1 of one objective"),
        (["URL", "--optimizer", "rnn"], "rnn is of kind 'rnn', expected an optimizer of kind 'optformer'"),
        (["URL", "--optimizer", "optformr"], "did you mean 'optformer'"),
        (
            ["URL", "--set", "meta.step=3"],
            "l2o finetune with --set: meta.step is an unknown field (did you mean 'steps'?",
        ),
        (["URL", "--set", "meta.optimizer.kind=adam"], "meta.optimizer"),
        (["nowhere", "--resume"], "nowhere holds no run to resume"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(arguments, words, cli, fresh, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begin = [] if "--optimizer" in arguments or "--resume" in arguments else ["--optimizer", fresh]
    found = cli("finetune", *[url if argument == "URL" else argument for argument in arguments], *begin)
    assert words in found.sentence and not (tmp_path / "runs").exists()


def test_an_empty_storage(cli, fresh, tmp_path):
    url = f"sqlite:///{tmp_path}/empty.db"
    optuna.storages.RDBStorage(url)
    assert "found 0 of one objective" in cli("finetune", url, "--optimizer", fresh, "--out", tmp_path / "out").sentence
    assert not (tmp_path / "out").exists()


def test_no_password_is_kept(monkeypatch):
    monkeypatch.setattr(run.sys, "argv", ["l2o", "finetune", "mysql+driver://me:se:cret@host:80/db", "--steps", "3"])
    assert run._command() == "l2o finetune 'mysql+driver://me:***@host:80/db' --steps 3"
    with pytest.raises(UserError, match=r"me:\*\*\*@host:80/db cannot be read") as found:
        imports.OptunaStudiesConfig(url="nothing://me:se:cret@host:80/db").read(0)
    assert "cret" not in str(found.value)


def test_a_set_of_studies_has_no_password(tmp_path):
    study = imports.Imported(
        "mine", "loss", "minimize", SearchSpace.from_dict({"x": (0.0, 1.0)}), np.zeros((2, 1), np.float32),
        np.arange(2.0), "mine",
    )  # fmt: skip

    class Source(imports.ImportConfig):
        kind: str = "optuna"

        def read(self, seed):
            return [study]

    Source().record(tmp_path, 0, {"source": {"url": "mysql://me:se:cret@host/db"}}, lambda row: None)
    assert read_manifest(tmp_path).config == {"source": {"url": "mysql://me:***@host/db"}}


def test_other_runs_are_refused(tmp_path):
    with pytest.raises(UserError, match="began with no optimizer"):
        finetune.resumed(Experiment.load("lstm_digits"), tmp_path)
