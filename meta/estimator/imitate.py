"""Imitation of a hand-designed optimizer."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, SerializeAsAny, model_validator

from l2o.baselines.optax import AdamConfig
from l2o.core import BaselineConfig, HostOptimizer, Optimizer
from l2o.registry import by_kind, register
from l2o.unroll import query
from meta.estimator.base import Estimator, EstimatorConfig, InnerRun, Windows, nanmean, replace, successor

TINY = 1e-12


@register
class ImitateConfig(EstimatorConfig):
    """Imitation of a teacher on the teacher's own runs (Chen et al. 2020, section 3.2); to be mixed with another one.

    The loss of a step is `|x_student - x_teacher|^2 / |x_teacher - x|^2`: both move from the same point x, which the
    teacher reached, with the same evaluation. 0 is a perfect copy, 1 is not moving at all. The meta-objective plays no
    part.

    Attributes:
      teacher: any baseline that has its learning rate.
      unroll_length: updates in a window, through which the student's memory is differentiated; at least 1.
    """

    kind: Literal["imitate"] = "imitate"
    teacher: Annotated[SerializeAsAny[BaselineConfig], by_kind(BaselineConfig)] = AdamConfig(learning_rate=0.01)
    unroll_length: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _check(self):
        try:
            teacher = self.teacher.build()
        except ValueError:
            raise ValueError(f"teacher: {self.teacher.kind} has no learning_rate, expected one") from None
        if isinstance(teacher, HostOptimizer):
            raise ValueError(f"teacher: {self.teacher.kind} runs on the host and cannot be compiled")
        return self

    def build(self, learned, objective, horizon, tasks, axis=None):
        del axis
        teacher = self.teacher.build()
        assert isinstance(teacher, Optimizer)
        runs_of = Windows(learned, objective, min(self.unroll_length, horizon))

        def start(theta, key, family):
            sample_key, teacher_key, student_key, run_key = jax.random.split(key, 4)
            params = family.sample(sample_key)
            problem = family.task(params).problem
            state = teacher.init(teacher_key, problem), learned.bind(theta).init(student_key, problem)
            return InnerRun(jax.random.key_data(run_key), params, state, (), jnp.zeros((), jnp.int32))

        def advance(theta, run, family):
            task, student = family.task(run.params), learned.bind(theta)

            def step(state, t):
                shown, copied = state
                key = jax.random.wrap_key_data(run.key)
                x, evaluation, shown = query(teacher, task, shown, key, t)
                evaluation = jax.lax.stop_gradient(evaluation._replace(judged=None))
                keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, t), 2), 4)
                shown = teacher.tell(keys[0], shown, x, evaluation)
                copied = student.tell(keys[1], copied, x, evaluation)
                target, _ = teacher.ask(keys[2], shown)
                found, copied = student.ask(keys[3], copied)
                loss = _square(found, target) / (_square(target, x) + TINY)
                return (shown, copied), jnp.where(t < task.problem.horizon, loss, jnp.nan)

            state, losses = jax.lax.scan(step, run.state, jnp.arange(runs_of.length) + run.step)
            return run._replace(state=state, step=run.step + runs_of.length), jnp.nanmean(losses)

        def init(key, theta, family):
            runs = jax.vmap(lambda k: start(theta, k, family))(jax.random.split(key, tasks))
            return runs_of.staggered(runs, family)

        def estimate(theta, runs, family):
            due = jax.vmap(lambda run: runs_of.finished(run, family))(runs)

            def loss_of(theta):
                def fresh():
                    return jax.vmap(lambda key: start(theta, successor(key), family))(runs.key)

                advanced, losses = jax.vmap(lambda run: advance(theta, run, family))(replace(due, fresh, runs))
                return jnp.mean(losses), (advanced, nanmean(losses))

            (_, (advanced, loss)), gradient = jax.value_and_grad(loss_of, has_aux=True)(theta)
            return gradient, jax.lax.stop_gradient(advanced), loss

        return Estimator(init, estimate, tasks)


def _square(a, b):
    return sum(jnp.sum(jnp.square(x - y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
