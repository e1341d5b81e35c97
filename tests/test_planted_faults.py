"""Faults of one line, planted one at a time in a copy of the project: for each of them a test of that module must fail.

The fast suite only checks that the table fits the code. The faults are planted in a release, with pytest -m slow, or by

  python tests/test_planted_faults.py [part of a fault's name ...]

which prints what caught each of them.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
TIMEOUT = 900  # seconds for the tests of one fault


class Fault(NamedTuple):
    """A change of one line, and the tests that must not let it pass.

    Attributes:
      name: what is wrong.
      file: where.
      old: what stands there, exactly once.
      new: what is planted.
      tests: of the fast suite, separated by spaces; a whole file where it is quick.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


# fmt: off
FAULTS = [
    Fault(
        "gradients are divided by the chain rule of the cube", "l2o/wrappers/cube.py",
        "lambda g, lo, hi: g * (hi - lo)[None]", "lambda g, lo, hi: g / (hi - lo)[None]",
        "tests/l2o/test_core.py::test_the_inner_optimizer_lives_in_the_unit_cube",
    ),
    Fault(
        "the mask of a run ends a step early", "l2o/unroll.py",
        "t <= task.problem.horizon", "t < task.problem.horizon",
        "tests/l2o/test_unroll.py::test_the_mask_ends_after_the_horizon",
    ),
    Fault(
        "tell has the key that evaluate had", "l2o/unroll.py",
        "optimizer.tell(jax.random.fold_in(jax.random.fold_in(key, t), 2)",
        "optimizer.tell(jax.random.fold_in(jax.random.fold_in(key, t), 1)",
        "tests/l2o/test_unroll.py::test_ask_evaluate_and_tell_draw_apart_in_every_round",
    ),
    Fault(
        "a token is the lower end of its bin", "l2o/space/domain.py",
        "self.from_unit((tokens + 0.5) / bins)", "self.from_unit(tokens / bins)", "tests/l2o/space/test_domain.py",
    ),
    Fault(
        "the two logarithmic scales are one", "l2o/space/parameter.py",
        'return u if self.scale == "log" else 1 - u', "return u", "tests/l2o/space/test_searchspace.py",
    ),
    Fault(
        "small gradients are not magnified", "l2o/gradient/lstm.py",
        "jnp.sign(gradient), jnp.exp(p) * gradient)", "jnp.sign(gradient), gradient)",
        "tests/l2o/gradient/test_lstm.py",
    ),
    Fault(
        "the cosine is a step ahead", "l2o/gradient/mlp.py",
        "jnp.minimum((state.age - 1).astype", "jnp.minimum(state.age.astype",
        "tests/l2o/gradient/test_mlp.py::test_the_step_falls_with_the_cosine_and_ends_at_the_horizon",
    ),
    Fault(
        "Celo's scheduler forgets faster", "l2o/interop/celo.py",
        "jax.nn.sigmoid(keep + 1)", "jax.nn.sigmoid(keep)",
        "tests/l2o/interop/test_celo.py::test_random_weights_give_the_numbers_of_the_authors_code",
    ),
    Fault(
        "rows of Celo's factors are taken for columns", "l2o/interop/celo_rule.py",
        "return int(order[-2]), int(order[-1])", "return int(order[-1]), int(order[-2])",
        "tests/l2o/interop/test_celo.py::test_random_weights_give_the_numbers_of_the_authors_code",
    ),
    Fault(
        "an array of Celo's weights may be of any kind", "l2o/interop/celo_weights.py",
        "if code != ARRAY:", "if False:",
        "tests/l2o/interop/test_celo.py::test_other_files_are_refused_in_one_sentence",
    ),
    Fault(
        "real and imaginary parts change places", "l2o/gradient/coordinates.py",
        "jnp.stack([leaf.real, leaf.imag])", "jnp.stack([leaf.imag, leaf.real])", 
        "tests/l2o/gradient/test_coordinates.py",
    ),
    Fault(
        "a fresh state has one array for two leaves", "l2o/gradient/lstm.py",
        "return tuple((zeros(), zeros()) for _", "return tuple((zeros(),) * 2 for _",
        "tests/l2o/test_optax_table.py::test_fresh_and_later_states_can_be_donated",
    ),
    Fault(
        "updates are not projected to the bounds", "l2o/lift/optax.py",
        "space.project(optax.apply_updates(x, updates))", "optax.apply_updates(x, updates)",
        "tests/l2o/lift/test_optax.py::test_bounds_project_after_every_update",
    ),
    Fault(
        "sigma moves away from what was seen", "l2o/evolution/les.py",
        "sigma + rate_sigma * (wide - sigma)", "sigma - rate_sigma * (wide - sigma)",
        "tests/l2o/evolution/test_les.py::test_it_computes_the_equations",
    ),
    Fault(
        "the path forgets at another rate than it learns", "l2o/evolution/rma.py",
        "jnp.sqrt(c.c_s * (2 - c.c_s) * mass)", "jnp.sqrt(c.c_s * (1 - c.c_s) * mass)",
        "tests/l2o/evolution/test_rma.py::test_untrained_it_computes_the_equations_of_the_classical_strategy",
    ),
    Fault(
        "a failed member is not masked", "l2o/evolution/population.py",
        "value = jnp.where(jnp.isfinite(value), value, jnp.inf)", "value = value + 0",
        "tests/l2o/evolution/test_les.py::test_no_values_break_it",
    ),
    Fault(
        "the determinant has the wrong sign", "l2o/blackbox/memory.py",
        "-0.5 * count * jnp.log(variance) - log_det", "-0.5 * count * jnp.log(variance) + log_det",
        "tests/l2o/blackbox/test_memory.py",
    ),
    Fault(
        "the border swallows what leads back inside", "l2o/blackbox/rnn.py",
        "outwards = ((z < 0) & (gradient > 0))", "outwards = ((z < 0) & (gradient < 0))",
        "tests/l2o/blackbox/test_rnn.py::test_the_derivative_at_the_border_vanishes_only_outwards",
    ),
    Fault(
        "expected improvement loses its sign", "l2o/gp.py",
        "return deviation * (z * norm.cdf(z) + norm.pdf(z))", "return deviation * (z * norm.cdf(z) - norm.pdf(z))",
        "tests/l2o/test_gp.py::test_expected_improvement_is_the_integral_it_stands_for",
    ),
    Fault(
        "an observation has no noise", "l2o/gp.py",
        "rest = self.prior.variance + self.prior.noise - weights", "rest = self.prior.variance - weights",
        "tests/l2o/test_gp.py::test_one_by_one_equals_all_at_once",
    ),
    Fault(
        "the decoder sees the future", "l2o/optformer/model.py",
        "jnp.tril(jnp.ones((n, n), bool))", "jnp.ones((n, n), bool)",
        "tests/l2o/optformer/test_optformer.py::test_likelihood_sees_no_future",
    ),
    Fault(
        "the goal is swapped", "l2o/host/policy.py",
        'sign = -1.0 if record.goal == "maximize" else 1.0', 'sign = 1.0 if record.goal == "maximize" else -1.0',
        "tests/l2o/host/test_policy.py::test_predictions_are_in_the_metrics_own_units",
    ),
    Fault(
        "a parameter has one value too many", "l2o/optformer/serialization.py",
        "vocabulary.byte(min(p.levels, MOST_LEVELS) - 1)", "vocabulary.byte(min(p.levels, MOST_LEVELS))",
        "tests/l2o/optformer/test_serialization.py",
    ),
    Fault(
        "the nucleus leaves out its last token", "l2o/optformer/decoding.py",
        "before = jnp.cumsum(ordered) - ordered", "before = jnp.cumsum(ordered)",
        "tests/l2o/optformer/test_optformer.py::test_top_k_and_nucleus_keep_the_likeliest",
    ),
    Fault(
        "nobody looks at the checksum", "l2o/artifact.py",
        "if hashlib.sha256(blob).hexdigest() != checksum:", "if not checksum:",
        "tests/l2o/test_artifact.py::test_a_flipped_bit_in_the_meta_parameters",
    ),
    Fault(
        "the steep sector lies on the other side", "tasks/bbob/functions.py",
        "jnp.where(z * _signs(instance) > 0, 100.0, 1.0)", "jnp.where(z * _signs(instance) < 0, 100.0, 1.0)",
        "tests/tasks/bbob/test_functions.py",
    ),
    Fault(
        "the parts of a mixture are those of training", "tasks/mixture.py",
        "tuple(family.build(split) for family", "tuple(family.build() for family",
        "tests/tasks/test_mixture.py::test_the_split_reaches_every_part",
    ),
    Fault(
        "training sees the validation images", "tasks/networks/classifiers.py",
        "seen = images if share == 0 else images * 4 // 5", "seen = images",
        "tests/tasks/networks/test_classifiers.py::test_validation_images_are_judged_and_never_learned_from",
    ),
    Fault(
        "a key is used twice", "tasks/quadratic.py",
        "jax.random.normal(y_key, (d,))", "jax.random.normal(start_key, (d,))", "tests/tasks/test_quadratic.py",
    ),
    Fault(
        "a minimum may leave the cube", "tasks/synthetic.py",
        "jnp.clip(optimum, 0.02, 0.98)", "optimum",
        "tests/tasks/test_synthetic.py::test_a_transformed_function_attains_its_minimum_inside_the_cube",
    ),
    Fault(
        "the second derivative is kept when it should not be", "meta/estimator/backprop.py",
        "family, not self.second_derivative)", "family, self.second_derivative)",
        "tests/meta/estimator/test_backprop.py::test_without_the_second_derivative_the_inner_gradient_is_a_constant",
    ),
    Fault(
        "the last update before the horizon does not count", "meta/estimator/base.py",
        "jnp.append(trajectory.mask[1:], t <= task", "jnp.append(trajectory.mask[1:], t < task",
        "tests/meta/test_curriculum.py::test_what_lies_beyond_the_horizon_is_not_counted",
    ),
    Fault(
        "the two runs of a pair are added", "meta/estimator/perturbed.py",
        "weight = weight[:, :1] - weight[:, 1:]", "weight = weight[:, :1] + weight[:, 1:]",
        "tests/meta/estimator/test_perturbed.py::test_the_gradient_is_the_formula_and_failed_pairs_are_left_out",
    ),
    Fault(
        "persistent evolution forgets its noise", "meta/estimator/perturbed.py",
        "summed = jax.tree.map(jnp.add, pair.noise, drawn) if accumulates else drawn", "summed = drawn",
        "tests/meta/estimator/test_perturbed.py::test_unbiased",
    ),
    Fault(
        "the meta-loss sees what the optimizer sees", "meta/objective.py",
        "jnp.min(evaluation.value if evaluation.judged is None else evaluation.judged)", "jnp.min(evaluation.value)",
        "tests/meta/test_objective.py::test_what_is_judged_takes_the_place_of_the_value",
    ),
    Fault(
        "the longest horizon is never drawn", "meta/curriculum.py",
        "jnp.log(jnp.asarray(self.high) + 1)", "jnp.log(jnp.asarray(self.high))",
        "tests/meta/test_curriculum.py::test_each_integer_between_the_ends_has_its_probability",
    ),
    Fault(
        "the meta-gradient is not clipped", "meta/learner/gradient.py",
        "optax.chain(optax.clip_by_global_norm(self.clip), optax.adam(rate))", "optax.chain(optax.adam(rate))",
        "tests/meta/learner/test_gradient.py::test_clip_bounds_the_global_norm",
    ),
    Fault(
        "a gradient that is not finite is applied", "meta/learner/gradient.py",
        "ok = jnp.isfinite(norm) & jnp.isfinite(loss)", "ok = jnp.isfinite(loss)",
        "tests/meta/learner/test_gradient.py::test_gradient_and_loss_must_both_be_finite",
    ),
    Fault(
        "a loss that is not finite is believed", "meta/learner/gradient.py",
        "ok = jnp.isfinite(norm) & jnp.isfinite(loss)", "ok = jnp.isfinite(norm)",
        "tests/meta/learner/test_gradient.py::test_gradient_and_loss_must_both_be_finite",
    ),
    Fault(
        "the worst theta is kept", "meta/trainer.py",
        "if score < record.best_score or", "if score > record.best_score or",
        "tests/meta/test_trainer.py::test_the_theta_with_the_lowest_validation_is_kept",
    ),
    Fault(
        "theta is validated in place of its average", "meta/trainer.py",
        "row |= validate(state.average,", "row |= validate(state.theta,",
        "tests/meta/test_trainer.py::test_what_is_validated_is_the_average",
    ),
    Fault(
        "the row of the checkpoint is dropped", "meta/checkpoints.py",
        'if row["step"] <= step]', 'if row["step"] < step]',
        "tests/meta/test_trainer.py::test_resumed_equals_uninterrupted_to_the_bit",
    ),
    Fault(
        "a device without a finite run lowers the loss", "meta/parallel.py",
        "jnp.where(count > 0, loss / jnp.maximum(count, 1e-9), jnp.nan)", "loss",
        "tests/meta/test_parallel.py::test_a_device_without_a_finite_run_has_no_say_in_the_loss",
    ),
    Fault(
        "a tie is a win for nobody", "experiments/study/statistics.py",
        "np.sum(a < b) + np.sum(a == b) / 2", "np.sum(a < b)", "tests/experiments/study/test_statistics.py",
    ),
    Fault(
        "the horizon itself lies beyond the horizon", "experiments/study/curves/config.py",
        "isinstance(step, int) and step > self.horizon", "isinstance(step, int) and step >= self.horizon",
        "tests/experiments/test_config.py",
    ),
    Fault(
        "runs are not paired", "experiments/study/curves/run.py",
        "_values_of_runs(study, column.make, argument, plan.test, key, study.runs)",
        "_values_of_runs(study, column.make, argument, plan.test, jax.random.key(len(found)), study.runs)",
        "tests/experiments/study/curves/test_curves.py::test_every_optimizer_starts_at_the_same_points",
    ),
    Fault(
        "rates are tuned on the test split", "experiments/study/curves/run.py",
        "rates = tune(study, column, plan.train, pieces)", "rates = tune(study, column, plan.test, pieces)",
        "tests/experiments/study/curves/test_curves.py::test_rates_are_tuned_on_the_training_split_and_rows_are_of_the_test_split",
    ),
    Fault(
        "a difference that may be zero is a verdict", "experiments/study/report.py",
        'if c["high"] is not None and c["high"] < 0', 'if c["high"] is not None and c["low"] < 0',
        "tests/experiments/study/test_report.py",
    ),
    Fault(
        "values are narrowed as they are", "l2o/host/proposals.py",
        "np.clip((values - self.zero) / self.unit", "np.clip(values / self.unit", "tests/l2o/host/test_offsets.py",
    ),
    Fault(
        "what was told before the units were known stays as it was", "l2o/host/proposals.py",
        "if any(self._past):", "if not any(self._past):", "tests/l2o/host/test_offsets.py",
    ),
    Fault(
        "whole numbers lose their last digits", "l2o/host/view.py",
        "/ 2 + digits * (above - below) / 2", "/ 2", "tests/l2o/host/test_view.py",
    ),
    Fault(
        "a point that was not written is proposed later", "l2o/host/loop.py",
        "self._suggester.forget()", "pass", "tests/l2o/test_faults.py",
    ),
    Fault(
        "a value is not synced", "l2o/host/log.py",
        "sync=not isinstance(event, Asked)", "sync=isinstance(event, Asked)", "tests/l2o/test_faults.py",
    ),
    Fault(
        "half a line stays in the file", "l2o/host/log.py",
        "if os.fstat(self._file.fileno()).st_size != self._size:", "if False:", "tests/l2o/test_faults.py",
    ),
    Fault(
        "a file has its name before it is on the disk", "l2o/files.py",
        "os.fsync(file.fileno())", "file.fileno()", "tests/l2o/test_faults.py",
    ),
]
# fmt: on


class Outcome(NamedTuple):
    """What the tests said of a tree: exit code of pytest, tests that failed, seconds, and the last words."""

    code: int
    failed: list[str]
    seconds: float
    words: str


def copy(folder: Path) -> Path:
    """Every tracked file, and new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True,
        check=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (ROOT / ".jax_cache").mkdir(exist_ok=True)
    (folder / ".jax_cache").symlink_to(ROOT / ".jax_cache")  # what a fault does not change is compiled already
    return folder


def run(tree: Path, tests: list[str], *arguments: str) -> Outcome:
    """The tests on a tree, in a process of their own that imports this tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *arguments, *tests]
    began = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return Outcome(-1, [], TIMEOUT, f"no end within {TIMEOUT} s")
    failed = re.findall(r"^FAILED (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return Outcome(done.returncode, failed, time.perf_counter() - began, done.stdout[-1500:] + done.stderr[-500:])


def planted(tree: Path, fault: Fault) -> Outcome:
    """The tests of a fault on a tree that has it; the tree is afterwards as it was."""
    file = tree / fault.file
    text, then = file.read_text(encoding="utf-8"), file.stat().st_mtime
    file.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    # Python knows its bytecode by the second of this time and the size
    os.utime(file, (then + 10 + FAULTS.index(fault),) * 2)
    try:
        return run(tree, fault.tests.split(), "-x")
    finally:
        file.write_text(text, encoding="utf-8")
        os.utime(file, (then, then))


def is_caught(outcome: Outcome) -> bool:
    """By a test that failed, not because nothing could be run."""
    return outcome.code == 1 and len(outcome.failed) > 0


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_table_fits_the_code(fault):
    assert (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old) == 1 and fault.old != fault.new
    for test in fault.tests.split():
        file, *name = test.split("::")
        assert not name or f"def {name[0]}(" in (ROOT / file).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return copy(tmp_path_factory.mktemp("planted"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_by_a_test_that_passes_without_it(fault, tree):
    outcome = planted(tree, fault)
    assert is_caught(outcome), outcome.words
    without = run(tree, outcome.failed)
    assert without.code == 0, without.words


def main(names: list[str]) -> int:
    """Plant the faults whose name has one of these parts, or all; the number of those that no test caught."""
    import tempfile

    chosen = [fault for fault in FAULTS if not names or any(name in fault.name for name in names)]
    missed, catchers = [], []
    with tempfile.TemporaryDirectory() as folder:
        tree = copy(Path(folder))
        for fault in chosen:
            outcome = planted(tree, fault)
            caught = is_caught(outcome)
            by = outcome.failed[0] if caught else f"NOTHING (exit code {outcome.code})"
            print(f"{outcome.seconds:5.0f} s  {fault.file}: {fault.name}\n         {by}", flush=True)
            catchers += outcome.failed[:1] if caught else []
            missed += [] if caught else [fault.name]
            if not caught and outcome.code != 0:
                print(outcome.words)
        clean = run(tree, list(dict.fromkeys(catchers))) if catchers else None
    print(f"{len(chosen) - len(missed)} of {len(chosen)} faults were caught")
    if clean is not None:
        print(f"without a fault these tests {'pass' if clean.code == 0 else 'FAIL: ' + clean.words}")
    return len(missed) + (clean is not None and clean.code != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
